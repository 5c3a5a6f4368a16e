#include "kernels/observe.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/observe.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/arena.h"
#include "kernels/exp2-inl.h"
#include "kernels/micro-inl.h"
#include "kernels/panels-inl.h"
#include "kernels/scores-inl.h"
#include "kernels/stored-inl.h"
#include "kernels/visible-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Adding 1.5 * 2^(52 - kFixedBits) to a double rounds it to the fixed point, which is then in its
// low bits: the bits of the sum minus those of the constant.
constexpr double kFixedMagic = 1.5 * static_cast<double>(std::int64_t{1} << (52 - kFixedBits));

inline std::uint64_t to_fixed(double x) {
  return std::bit_cast<std::uint64_t>(x + kFixedMagic) - std::bit_cast<std::uint64_t>(kFixedMagic);
}

inline void add_shared(std::uint64_t& to, std::uint64_t x) {
  if (x != 0) std::atomic_ref(to).fetch_add(x, std::memory_order_relaxed);
}
inline void spoil_shared(std::uint64_t& to) {
  std::atomic_ref(to).fetch_or(kNotFinite, std::memory_order_relaxed);
}
// NaN is the largest.
template <class T>
void raise_shared(T& to, T x) {
  const std::atomic_ref shared(to);
  T now = shared.load(std::memory_order_relaxed);
  while ((x > now || x != x) && now == now) {
    if (shared.compare_exchange_weak(now, x, std::memory_order_relaxed)) break;
  }
}

// Scratch of one block.
template <class T>
struct ObserveScratch {
  using B = Blocking<T>;
  T *q, *k, *v, *norm;  // norm [kTile]: of each value row
  T *scores, *top, *staging, *k_offset, *k_scale, *v_scale;
  T *reference, *factor;                        // [rows] of the softmax
  double *weighted, *in_set;                    // [rows], [rows][sets]
  std::int64_t* top_count;                      // [rows]
  std::uint64_t* columns;                       // [group][kTile] sums over the rows of a band
  T* largest;                                   // [group][kTile] of the rows of a band
  std::uint64_t* diagonals;                     // [group][diagonal_count] of a tile
  std::uint64_t *offset_mass, *offset_queries;  // [group][offsets]
  std::uint64_t* visible;
  std::int64_t* token;
  std::int32_t* head;
  std::size_t bytes;

  ObserveScratch(void* base, const ForwardParams& p, const ObserveParams& o, std::int64_t tokens) {
    Arena arena(base);
    const std::int64_t rows = tokens * p.group;
    const bool weighs = o.value_weighted.data != nullptr;
    q = arena.take<T>(rows * p.width);
    k = arena.take<T>(B::kTile * p.width);
    v = arena.take<T>(weighs ? B::kTile * round_up(p.v_width, B::kPanel) : 0);
    norm = arena.take<T>(B::kTile);
    scores = arena.take<T>(B::kRows * B::kStride);
    top = arena.take<T>(B::kRows * B::kLanes);
    staging = arena.take<T>(std::max<std::int64_t>(B::kRows, B::kPanel) * p.width);
    for (T** keys : {&k_offset, &k_scale, &v_scale}) *keys = arena.take<T>(B::kTile);
    reference = arena.take<T>(rows);
    factor = arena.take<T>(rows);
    weighted = arena.take<double>(weighs ? rows : 0);
    in_set = arena.take<double>(rows * o.key_sets.sets);
    top_count = arena.take<std::int64_t>(o.top.k > 0 ? rows : 0);
    columns = arena.take<std::uint64_t>(p.group * B::kTile);
    largest = arena.take<T>(p.group * B::kTile);
    diagonals = arena.take<std::uint64_t>(o.bins.count > 0 ? p.group * diagonal_count(tokens) : 0);
    offset_mass = arena.take<std::uint64_t>(p.group * o.offsets.count);
    offset_queries = arena.take<std::uint64_t>(p.group * o.offsets.count);
    visible = arena.take<std::uint64_t>(B::kRows * (B::kTile / 64));
    token = arena.take<std::int64_t>(rows);
    head = arena.take<std::int32_t>(rows);
    bytes = arena.used();
  }

  static std::int64_t diagonal_count(std::int64_t tokens) { return tokens + B::kTile; }
};

template <class T>
class Observe {
  using B = Blocking<T>;
  using D = typename B::D;
  using DD = hn::ScalableTag<double>;
  static constexpr std::int64_t kWords = B::kTile / 64;
  static constexpr T kMinusInf = -std::numeric_limits<T>::infinity();

 public:
  Observe(const ForwardParams& params, const ObserveParams& asked, const ForwardBlock& block,
          void* workspace)
      : p_(params),
        o_(asked),
        block_(block),
        sequence_(block.sequence),
        rows_(block.token_count * params.group),
        strips_((rows_ + B::kRows - 1) / B::kRows),
        first_query_(block.sequence.q_begin + block.token_begin),
        s_(workspace, params, asked, block.token_count),
        panels_(params, block.sequence, block.kv_head, s_.k, s_.staging, strips_ == 1),
        values_(params.v, block.sequence, block.kv_head) {
    visible_.schedule = &block.schedule;
    modified_ = p_.score.modified();
    alibi_ = p_.score.alibi_slopes != nullptr && !modified_;
    regular_ = p_.score.q_positions == nullptr && p_.score.k_positions == nullptr;
    every_tile_ = o_.columns != nullptr || o_.bins.count > 0 || o_.top.k > 0 ||
                  o_.value_weighted.data != nullptr || (o_.offsets.count > 0 && !regular_);
    exact_end_ = std::lower_bound(
        o_.exact.rows, o_.exact.rows + o_.exact.count, first_query_ + block.token_count,
        [](const ObserveParams::ExactRow& row, std::int64_t query) { return row.query < query; });
    exact_begin_ = first_exact(first_query_);
    const auto& cells = o_.cells;
    in_cells_ = cells.asked() && first_query_ < cells.q_end &&
                first_query_ + block.token_count > cells.q_begin && cells.k_begin < cells.k_end;
  }

  void run() {
    place_rows();
    clear();
    bool packed = false;
    const Schedule& schedule = block_.schedule;
    for (std::int64_t i = 0; i < schedule.run_count; ++i) {
      const TileRun& tiles = schedule.runs[i];
      for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
        if (!wanted(tile)) continue;
        if (!packed) pack_queries();
        packed = true;
        visible_.partial = tiles.partial;
        if (tiles.partial && schedule.bits != nullptr) {
          visible_.bits = schedule.bits + tiles.bits_offset +
                          (tile - tiles.begin) * schedule.slots * schedule.block_tokens * kWords;
        }
        run_tile(tile);
      }
    }
    write();
  }

 private:
  std::int64_t strip_begin(std::int64_t strip) const { return rows_ * strip / strips_; }

  // A row of answers, of the head `head` of the group.
  T* answers(const Matrix& m, std::int64_t head, std::int64_t l) const {
    return static_cast<T*>(const_cast<void*>(m.data)) + sequence_.tensor * m.batch +
           (block_.kv_head * p_.group + head) * m.head + l * m.length;
  }
  // Of row `at` of the block.
  T* answer(const Matrix& m, std::int64_t at) const {
    return answers(m, head_in_group(at), query_of(at));
  }
  std::int64_t query_of(std::int64_t at) const { return sequence_.q_begin + s_.token[at]; }
  // Of this batch entry and a head of the group.
  std::int64_t head_index(std::int64_t head) const {
    return sequence_.tensor * o_.q_heads + block_.kv_head * p_.group + head;
  }
  std::int64_t head_in_group(std::int64_t at) const {
    return s_.head[at] - block_.kv_head * p_.group;
  }

  const ObserveParams::ExactRow* first_exact(std::int64_t query) const {
    return std::lower_bound(
        o_.exact.rows, exact_end_, query,
        [](const ObserveParams::ExactRow& row, std::int64_t q) { return row.query < q; });
  }
  const ObserveParams::KeyOfSet* first_in_sets(std::int64_t key) const {
    return std::lower_bound(
        o_.key_sets.keys, o_.key_sets.keys + o_.key_sets.count, key,
        [](const ObserveParams::KeyOfSet& entry, std::int64_t k) { return entry.key < k; });
  }
  const std::int64_t* first_offset(std::int64_t distance) const {
    return std::lower_bound(o_.offsets.values, o_.offsets.values + o_.offsets.count, distance);
  }

  void place_rows() {
    for (std::int64_t r = 0; r < rows_; ++r) {
      s_.token[r] = block_.token_begin + r / p_.group;
      s_.head[r] = static_cast<std::int32_t>(block_.kv_head * p_.group + r % p_.group);
      const T* softmax = answer(o_.softmax, r);
      s_.reference[r] = softmax[0];
      s_.factor[r] = softmax[1];
    }
  }

  void clear() {
    std::fill_n(s_.top, B::kRows * B::kLanes, T(0));
    if (o_.value_weighted.data != nullptr) std::fill_n(s_.weighted, rows_, 0.0);
    std::fill_n(s_.in_set, rows_ * o_.key_sets.sets, 0.0);
    std::fill_n(s_.columns, p_.group * B::kTile, std::uint64_t{0});
    std::fill_n(s_.largest, p_.group * B::kTile, T(0));
    std::fill_n(s_.offset_mass, p_.group * o_.offsets.count, std::uint64_t{0});
    std::fill_n(s_.offset_queries, p_.group * o_.offsets.count, std::uint64_t{0});
    if (o_.bins.count > 0) {
      std::fill_n(s_.diagonals, p_.group * s_.diagonal_count(block_.token_count), std::uint64_t{0});
    }
    for (std::int64_t r = 0; r < rows_ && o_.top.k > 0; ++r) {
      s_.top_count[r] = 0;
      std::fill_n(answer(o_.top.weights, r), o_.top.k, T(0));
      std::fill_n(top_keys(r), o_.top.k, -1);
    }
    for (const auto* row = exact_begin_; row != exact_end_; ++row) {
      for (std::int64_t head = 0; head < p_.group; ++head)
        std::fill_n(exact_row(*row, head), o_.k_len, T(0));
    }
  }

  T* exact_row(const ObserveParams::ExactRow& row, std::int64_t head) const {
    return answers(o_.exact.probabilities, head, row.place);
  }
  std::int32_t* top_keys(std::int64_t at) const {
    return o_.top.keys +
           ((sequence_.tensor * o_.q_heads + s_.head[at]) * o_.q_len + query_of(at)) * o_.top.k;
  }

  // Does some question need this tile?
  bool wanted(std::int64_t tile) const {
    if (every_tile_ || exact_begin_ != exact_end_) return true;
    const std::int64_t begin = tile * B::kTile, end = std::min(begin + B::kTile, sequence_.k_len),
                       key = sequence_.k_begin + begin, key_end = sequence_.k_begin + end;
    if (in_cells_ && key < o_.cells.k_end && key_end > o_.cells.k_begin) return true;
    if (first_in_sets(key) != first_in_sets(key_end)) return true;
    const std::int64_t q = sequence_.query_start + block_.token_begin;
    return first_offset(q - end + 1) != first_offset(q + block_.token_count - begin);
  }

  // Of a wanted tile, does some question need these rows?
  bool wanted_rows(std::int64_t first, std::int64_t last) const {
    if (every_tile_ || tile_in_sets_ || o_.offsets.count > 0) return true;
    const std::int64_t query = query_of(first), query_end = query_of(last) + 1;
    if (tile_in_cells_ && query < o_.cells.q_end && query_end > o_.cells.q_begin) return true;
    return first_exact(query) != first_exact(query_end);
  }

  // As the forward kernel does.
  void pack_queries() {
    const T factor = static_cast<T>(p_.score.scale * kLog2e);
    for (std::int64_t strip = 0; strip < strips_; ++strip) {
      const std::int64_t begin = strip_begin(strip), height = strip_begin(strip + 1) - begin;
      for (std::int64_t r = begin; r < begin + height; ++r) {
        const std::int64_t at =
            sequence_.tensor * p_.q.batch + s_.head[r] * p_.q.head + query_of(r) * p_.q.length;
        convert_rows(static_cast<const char*>(p_.q.data) + at * element_bytes(p_.q_dtype),
                     p_.q_dtype, 0, 1, p_.width, s_.staging + (r - begin) * p_.width, 0);
      }
      transpose(s_.staging, p_.width, height, p_.width, factor, s_.q + begin * p_.width, height);
    }
  }

  void run_tile(std::int64_t tile) {
    k_begin_ = tile * B::kTile;
    k_count_ = std::min(B::kTile, sequence_.k_len - k_begin_);
    visible_.k_begin = k_begin_;
    visible_.k_count = k_count_;
    const std::int64_t at = sequence_.k_begin + k_begin_;
    tile_in_cells_ = in_cells_ && at < o_.cells.k_end && at + k_count_ > o_.cells.k_begin;
    sums_columns_ = o_.columns != nullptr || (tile_in_cells_ && o_.cells.mass != nullptr);
    tile_in_sets_ = first_in_sets(at) != first_in_sets(at + k_count_);
    panels_.begin_tile(k_begin_, k_count_);
    if (p_.k.dtype == DType::i8) panels_.read_scales(s_.k_scale);
    if (o_.value_weighted.data != nullptr) measure_values();
    if (alibi_) {
      origin_ = q_position(p_.score, sequence_, block_.token_begin);
      for (std::int64_t j = 0; j < B::kTile; ++j) {
        s_.k_offset[j] =
            j < k_count_ ? static_cast<T>(k_position(p_.score, k_begin_ + j) - origin_) : T(0);
      }
    }
    band_ = kNoBand;
    for (std::int64_t strip = 0; strip < strips_; ++strip) run_strip(strip);
    end_band();
    end_diagonals();
  }

  // |v| of each key, summed in double: squares of large floats overflow. Missing keys have 0.
  void measure_values() {
    values_.for_stretches(k_begin_, k_count_, [&](std::int64_t at, std::int64_t i, std::int64_t n) {
      with_type<T>(p_.v.dtype, [&](auto* type) {
        const auto* from = static_cast<decltype(type)>(values_.at(at));
        pack_values(from, values_.stride(), n, p_.v_width, s_.v + i * B::kPanel);
      });
    });
    if constexpr (sizeof(T) == 4) {
      if (p_.v.dtype == DType::i8) values_.read_scales(k_begin_, k_count_, s_.v_scale);
    }
    const DD d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    for (std::int64_t j = 0; j < B::kTile; ++j) {
      s_.norm[j] = 0;
      if (j >= k_count_) continue;
      auto sum = hn::Zero(d);
      for (std::int64_t c = 0; c < p_.v_width; c += B::kPanel) {
        const T* panel = s_.v + c * B::kTile + j * B::kPanel;
        for (std::int64_t i = 0; i < B::kPanel; i += lanes) {
          const auto x = load_wide(panel + i);
          sum = hn::MulAdd(x, x, sum);
        }
      }
      s_.norm[j] = static_cast<T>(std::sqrt(sum_of_lanes(d, sum)));
      if (p_.v.dtype == DType::i8) s_.norm[j] *= std::abs(s_.v_scale[j]);
    }
  }

  static HWY_INLINE hn::Vec<DD> load_wide(const T* p) {
    const DD d;
    if constexpr (sizeof(T) == 8)
      return hn::Load(d, p);
    else
      return hn::PromoteTo(d, hn::Load(hn::Rebind<T, DD>(), p));
  }

  // In one order, whatever the compiler.
  template <class Tag>
  static hn::TFromD<Tag> sum_of_lanes(Tag d, hn::Vec<Tag> x) {
    HWY_ALIGN hn::TFromD<Tag> lanes[hn::MaxLanes(d)];
    hn::Store(x, d, lanes);
    hn::TFromD<Tag> sum = 0;
    for (std::size_t i = 0; i < hn::Lanes(d); ++i) sum += lanes[i];
    return sum;
  }

  void run_strip(std::int64_t strip) {
    const std::int64_t first = strip_begin(strip), last = strip_begin(strip + 1) - 1;
    if (!wanted_rows(first, last)) return;
    const int height = static_cast<int>(last + 1 - first);
    bool masked = visible_.partial || modified_ || k_count_ % B::kLanes != 0;
    std::int64_t begin = 0, end = k_count_;  // columns that some row of the strip sees
    std::uint64_t any[kWords] = {}, all[kWords];
    std::fill_n(all, kWords, ~std::uint64_t{0});
    for (int r = 0; r < height; ++r) {
      std::uint64_t* words = s_.visible + r * kWords;
      visible_.read(s_.token[first + r] - block_.token_begin, head_in_group(first + r), words);
      for (int w = 0; w < kWords; ++w) {
        any[w] |= words[w];
        all[w] &= words[w];
      }
    }
    if (!VisibleTile<T>::span_of(any, begin, end)) return;
    if (masked) {
      bool whole = end == B::kTile;
      for (int w = 0; w < kWords; ++w) whole = whole && all[w] == ~std::uint64_t{0};
      masked = modified_ || !whole;
    }
    const Kernels& kernels = kKernels[static_cast<std::size_t>(height - 1)];
    const std::int64_t from = begin / B::kLanes * B::kLanes, to = round_up(end, B::kLanes);
    for (std::int64_t j = from / B::kPanel * B::kPanel; j < to; j += B::kPanel) {
      const std::int64_t skip = j < from ? B::kLanes : 0;
      const bool one = skip > 0 || to < j + B::kPanel;
      (one ? kernels.one : kernels.two)(s_.q + first * p_.width, panels_.at(j) + skip, p_.width,
                                        s_.scores + j + skip, s_.top);
    }
    if (p_.k.dtype == DType::i8) scale_scores(height, from, to);
    if (modified_) {
      modify_scores(Strip<T>{s_.scores, s_.visible, height, s_.token + first, s_.head + first,
                             &sequence_, p_.group, k_begin_, from, end},
                    p_.score);
    }
    for (int r = 0; r < height; ++r) {
      T row_max;
      if (masked)
        row_max = alibi_ ? probabilities<true, true>(first, r, from, to)
                         : probabilities<true, false>(first, r, from, to);
      else
        row_max = alibi_ ? probabilities<false, true>(first, r, from, to)
                         : probabilities<false, false>(first, r, from, to);
      const Row its{s_.scores + r * B::kStride, s_.visible + r * kWords, first + r, from, to};
      if (s_.factor[first + r] != s_.factor[first + r]) {
        spoil(its);
      } else {
        move_to_band(query_of(first + r));
        add_to_sums(its);
        if (o_.offsets.count > 0) add_to_offsets(its);
        if (o_.top.k > 0) insert_top(its, row_max);
      }
      if (o_.value_weighted.data != nullptr) weigh_values(its);
      copy_exact(its);
    }
    if (tile_in_sets_) add_to_sets(first, height);
  }

  void scale_scores(int height, std::int64_t from, std::int64_t to) {
    const D d;
    for (int r = 0; r < height; ++r) {
      T* s = s_.scores + r * B::kStride;
      for (std::int64_t j = from; j < to; j += B::kLanes)
        hn::Store(hn::Mul(hn::Load(d, s + j), hn::Load(d, s_.k_scale + j)), d, s + j);
    }
  }

  // A row's probabilities in this tile; those of hidden keys are 0. A row that saw something not
  // finite has a factor of NaN and NaN at all visible keys.
  struct Row {
    T* p;
    const std::uint64_t* visible;
    std::int64_t at;        // in the block
    std::int64_t from, to;  // columns, whole vectors
    bool sees(std::int64_t j) const { return (visible[j / 64] >> (j % 64) & 1) != 0; }
  };

  // Scores of row r to probabilities, in place; returns the largest.
  template <bool kMasked, bool kAlibi>
  HWY_INLINE T probabilities(std::int64_t first, int r, std::int64_t from, std::int64_t to) {
    const D d;
    T* HWY_RESTRICT s = s_.scores + r * B::kStride;
    const std::int64_t at = first + r;
    const auto shift = hn::Set(d, s_.reference[at]), factor = hn::Set(d, s_.factor[at]);
    auto top = hn::Zero(d);
    [[maybe_unused]] hn::Vec<D> slope, q;
    if constexpr (kAlibi) {
      slope =
          hn::Set(d, static_cast<T>(p_.score.alibi_slopes[s_.head[at]]) * static_cast<T>(kLog2e));
      q = hn::Set(d, static_cast<T>(q_position(p_.score, sequence_, s_.token[at]) - origin_));
    }
    for (std::int64_t j = from; j < to; j += B::kLanes) {
      auto x = hn::Load(d, s + j);
      if constexpr (kAlibi) {
        x = hn::NegMulAdd(slope, hn::Abs(hn::Sub(hn::Load(d, s_.k_offset + j), q)), x);
      }
      auto p = hn::Mul(exp2(d, hn::Sub(x, shift)), factor);
      if constexpr (kMasked) {
        const std::uint64_t bits = s_.visible[r * kWords + j / 64] >> (j % 64);
        std::uint8_t bytes[8];
        std::memcpy(bytes, &bits, sizeof bytes);
        p = hn::IfThenElseZero(hn::LoadMaskBits(d, bytes), p);
      }
      hn::Store(p, d, s + j);
      top = hn::Max(top, p);
    }
    return hn::GetLane(hn::MaxOfLanes(d, top));
  }

  // Bands are rows of the picture; column sums are gathered over the rows of one.
  void move_to_band(std::int64_t query) {
    if (!sums_columns_ && !tile_in_cells_) return;
    const auto& cells = o_.cells;
    std::int64_t band = kOutside;
    if (tile_in_cells_ && query >= cells.q_begin && query < cells.q_end) {
      band = cell_of(query - cells.q_begin, cells.q_end - cells.q_begin, cells.rows);
    }
    if (band == band_) return;
    end_band();
    band_ = band;
  }

  // Of `count` things in `cells` equal shares, cell i has [i * count / cells, (i + 1) * count /
  // cells).
  static std::int64_t cell_of(std::int64_t thing, std::int64_t count, std::int64_t cells) {
    return ((thing + 1) * cells - 1) / count;
  }

  void end_band() {
    if (band_ == kNoBand) return;
    for (std::int64_t head = 0; head < p_.group; ++head) {
      std::uint64_t* sums = s_.columns + head * B::kTile;
      T* largest = s_.largest + head * B::kTile;
      if (band_ != kOutside) add_to_cells(head, sums, largest);
      if (o_.columns != nullptr) {
        std::uint64_t* to = o_.columns + head_index(head) * o_.k_len + sequence_.k_begin + k_begin_;
        for (std::int64_t j = 0; j < k_count_; ++j) add_shared(to[j], sums[j]);
      }
      std::fill_n(sums, B::kTile, std::uint64_t{0});
      std::fill_n(largest, B::kTile, T(0));
    }
    band_ = kNoBand;
  }

  void add_to_cells(std::int64_t head, const std::uint64_t* sums, const T* largest) {
    const auto& cells = o_.cells;
    const std::int64_t keys = cells.k_end - cells.k_begin,
                       key = sequence_.k_begin + k_begin_ - cells.k_begin;
    const std::int64_t end = std::min(k_count_, keys - key);
    for (std::int64_t j = std::max<std::int64_t>(0, -key); j < end;) {
      const std::int64_t cell = cell_of(key + j, keys, cells.columns);
      const std::int64_t cell_end = std::min(end, (cell + 1) * keys / cells.columns - key);
      std::uint64_t mass = 0;
      T top = 0;
      for (; j < cell_end; ++j) {
        mass += sums[j];
        top = std::max(top, largest[j]);
      }
      if (cells.mass != nullptr) add_shared(*cell_mass(head, cell), mass);
      if (cells.largest.data != nullptr) raise_shared(*cell_largest(head, cell), top);
    }
  }
  std::uint64_t* cell_mass(std::int64_t head, std::int64_t cell) const {
    return o_.cells.mass + (head_index(head) * o_.cells.rows + band_) * o_.cells.columns + cell;
  }
  T* cell_largest(std::int64_t head, std::int64_t cell) const {
    return answers(o_.cells.largest, head, band_) + cell;
  }

  // Columns, the largest of each, and diagonals.
  void add_to_sums(const Row& its) {
    const std::int64_t head = head_in_group(its.at);
    std::uint64_t *columns = s_.columns + head * B::kTile, *diagonals = nullptr;
    if (o_.bins.count > 0) {
      if (regular_) {
        diagonals = s_.diagonals + head * s_.diagonal_count(block_.token_count) + last_token() -
                    s_.token[its.at];
      } else {
        add_to_bins(its);
      }
    }
    if (sums_columns_ && diagonals != nullptr)
      add_fixed<true, true>(its, columns, diagonals);
    else if (sums_columns_)
      add_fixed<true, false>(its, columns, diagonals);
    else if (diagonals != nullptr)
      add_fixed<false, true>(its, columns, diagonals);
    if (tile_in_cells_ && band_ >= 0 && o_.cells.largest.data != nullptr) {
      const D d;
      T* largest = s_.largest + head * B::kTile;
      for (std::int64_t j = its.from; j < its.to; j += B::kLanes) {
        hn::Store(hn::Max(hn::Load(d, largest + j), hn::Load(d, its.p + j)), d, largest + j);
      }
    }
  }

  template <bool kColumns, bool kDiagonals>
  HWY_INLINE void add_fixed(const Row& its, std::uint64_t* HWY_RESTRICT columns,
                            std::uint64_t* HWY_RESTRICT diagonals) {
    const DD d;
    const hn::RebindToUnsigned<DD> du;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const auto magic = hn::Set(d, kFixedMagic);
    for (std::int64_t j = its.from; j < its.to; j += lanes) {
      const auto sum = hn::Add(load_wide(its.p + j), magic);
      const auto fixed = hn::Sub(hn::BitCast(du, sum), hn::BitCast(du, magic));
      if constexpr (kColumns) hn::Store(hn::Add(hn::Load(du, columns + j), fixed), du, columns + j);
      if constexpr (kDiagonals)
        hn::StoreU(hn::Add(hn::LoadU(du, diagonals + j), fixed), du, diagonals + j);
    }
  }

  std::int64_t last_token() const { return block_.token_begin + block_.token_count - 1; }
  std::int64_t distance(std::int64_t at, std::int64_t j) const {
    return q_position(p_.score, sequence_, s_.token[at]) - k_position(p_.score, k_begin_ + j);
  }
  std::int64_t bin_of(std::int64_t distance) const {
    if (distance < o_.bins.first) return 0;
    return std::min(o_.bins.count - 1, (distance - o_.bins.first) / o_.bins.step + 1);
  }

  // Diagonal x of the tile has distance q - k of its last token and key 0, less x.
  void end_diagonals() {
    if (o_.bins.count == 0 || !regular_) return;
    const std::int64_t count = s_.diagonal_count(block_.token_count);
    const std::int64_t farthest = sequence_.query_start + last_token() - k_begin_;
    for (std::int64_t head = 0; head < p_.group; ++head) {
      std::uint64_t* diagonals = s_.diagonals + head * count;
      std::uint64_t* bins = o_.bins.mass + head_index(head) * o_.bins.count;
      for (std::int64_t x = 0; x < count;) {
        const std::int64_t bin = bin_of(farthest - x);
        // The bin's smallest distance is the last diagonal in it.
        const std::int64_t least =
            bin == 0 ? farthest - count : o_.bins.first + (bin - 1) * o_.bins.step;
        const std::int64_t end = std::min(count, farthest - least + 1);
        std::uint64_t mass = 0;
        for (; x < end; ++x) mass += diagonals[x];
        add_shared(bins[bin], mass);
      }
      std::fill_n(diagonals, count, std::uint64_t{0});
    }
  }

  // Positions in any order: pair by pair.
  void add_to_bins(const Row& its) {
    std::uint64_t* bins = o_.bins.mass + head_index(head_in_group(its.at)) * o_.bins.count;
    const std::int64_t end = std::min(its.to, k_count_);
    for (std::int64_t j = its.from; j < end; ++j) {
      add_shared(bins[bin_of(distance(its.at, j))], to_fixed(static_cast<double>(its.p[j])));
    }
  }

  // Calls f(column, place of its offset) for the visible keys at an offset.
  template <class F>
  HWY_INLINE void for_offsets(const Row& its, F&& f) const {
    const std::int64_t* values = o_.offsets.values;
    if (regular_) {
      const std::int64_t farthest = distance(its.at, 0);
      const std::int64_t* end = first_offset(farthest + 1);
      for (const std::int64_t* x = first_offset(farthest - k_count_ + 1); x != end; ++x) {
        if (its.sees(farthest - *x)) f(farthest - *x, x - values);
      }
      return;
    }
    const std::int64_t end = std::min(its.to, k_count_);
    for (std::int64_t j = its.from; j < end; ++j) {
      if (!its.sees(j)) continue;
      const std::int64_t its_distance = distance(its.at, j);
      const std::int64_t* x = first_offset(its_distance);
      if (x != values + o_.offsets.count && *x == its_distance) f(j, x - values);
    }
  }

  void add_to_offsets(const Row& its) {
    const std::int64_t base = head_in_group(its.at) * o_.offsets.count;
    for_offsets(its, [&](std::int64_t j, std::int64_t place) {
      s_.offset_mass[base + place] += to_fixed(static_cast<double>(its.p[j]));
      ++s_.offset_queries[base + place];
    });
  }

  // A row that is not finite: so are all sums that it is part of.
  void spoil(const Row& its) {
    const std::int64_t head = head_in_group(its.at), index = head_index(head);
    const std::int64_t end = std::min(its.to, k_count_);
    move_to_band(query_of(its.at));
    for (std::int64_t j = its.from; j < end; ++j) {
      if (!its.sees(j)) continue;
      const std::int64_t key = sequence_.k_begin + k_begin_ + j;
      if (o_.columns != nullptr) spoil_shared(o_.columns[index * o_.k_len + key]);
      if (o_.bins.count > 0)
        spoil_shared(o_.bins.mass[index * o_.bins.count + bin_of(distance(its.at, j))]);
      const auto& cells = o_.cells;
      if (tile_in_cells_ && band_ >= 0 && key >= cells.k_begin && key < cells.k_end) {
        const std::int64_t cell =
            cell_of(key - cells.k_begin, cells.k_end - cells.k_begin, cells.columns);
        if (cells.mass != nullptr) spoil_shared(*cell_mass(head, cell));
        if (cells.largest.data != nullptr) raise_shared(*cell_largest(head, cell), its.p[j]);
      }
    }
    if (o_.offsets.count > 0) {
      for_offsets(its, [&](std::int64_t, std::int64_t place) {
        spoil_shared(o_.offsets.mass[index * o_.offsets.count + place]);
        ++s_.offset_queries[head * o_.offsets.count + place];
      });
    }
    // All its weights are equally unknown: the first keys that it sees stand in the list.
    if (o_.top.k == 0) return;
    std::int64_t& count = s_.top_count[its.at];
    for (std::int64_t j = its.from; j < end && count < o_.top.k; ++j) {
      if (!its.sees(j)) continue;
      answer(o_.top.weights, its.at)[count] = its.p[j];
      top_keys(its.at)[count++] = static_cast<std::int32_t>(sequence_.k_begin + k_begin_ + j);
    }
  }

  void insert_top(const Row& its, T row_max) {
    T* weights = answer(o_.top.weights, its.at);
    std::int64_t& count = s_.top_count[its.at];
    const std::int64_t k = o_.top.k;
    const auto key_of = [this](std::int64_t j) {
      return static_cast<std::int32_t>(sequence_.k_begin + k_begin_ + j);
    };
    std::int64_t j = its.from;
    // Until the list is full, every visible key enters, weight 0 or not.
    const std::int64_t end = std::min(its.to, k_count_);
    for (; j < end && count < k; ++j) {
      if (its.sees(j)) insert(weights, top_keys(its.at), count++, its.p[j], key_of(j));
    }
    if (j >= end || !(row_max > weights[k - 1])) return;
    const std::int64_t filled = j;
    const D d;
    for (j = j / B::kLanes * B::kLanes; j < its.to; j += B::kLanes) {
      std::uint8_t bytes[8] = {};
      hn::StoreMaskBits(d, hn::Gt(hn::Load(d, its.p + j), hn::Set(d, weights[k - 1])), bytes);
      std::uint64_t bits;
      std::memcpy(&bits, bytes, sizeof bits);
      for (; bits != 0; bits &= bits - 1) {
        const std::int64_t column = j + std::countr_zero(bits);
        if (column < filled || !(its.p[column] > weights[k - 1])) continue;
        insert(weights, top_keys(its.at), k - 1, its.p[column], key_of(column));
      }
    }
  }

  // Into a list of `count`, behind those at least as large; the place after the last is free or
  // falls out.
  static void insert(T* weights, std::int32_t* keys, std::int64_t count, T weight,
                     std::int32_t key) {
    const std::int64_t place =
        std::partition_point(weights, weights + count, [&](T w) { return w >= weight; }) - weights;
    std::copy_backward(weights + place, weights + count, weights + count + 1);
    std::copy_backward(keys + place, keys + count, keys + count + 1);
    weights[place] = weight;
    keys[place] = key;
  }

  void weigh_values(const Row& its) {
    const D d;
    auto sum = hn::Zero(d);
    for (std::int64_t j = its.from; j < its.to; j += B::kLanes) {
      const std::uint64_t bits = its.visible[j / 64] >> (j % 64);
      std::uint8_t bytes[8];
      std::memcpy(bytes, &bits, sizeof bytes);
      // A hidden value may be anything.
      const auto norm = hn::IfThenElseZero(hn::LoadMaskBits(d, bytes), hn::Load(d, s_.norm + j));
      sum = hn::MulAdd(hn::Load(d, its.p + j), norm, sum);
    }
    s_.weighted[its.at] += static_cast<double>(sum_of_lanes(d, sum));
  }

  void add_to_sets(std::int64_t first, int height) {
    const std::int64_t key = sequence_.k_begin + k_begin_, sets = o_.key_sets.sets;
    const auto* end = first_in_sets(key + k_count_);
    for (const auto* entry = first_in_sets(key); entry != end; ++entry) {
      const std::int64_t j = entry->key - key;
      for (int r = 0; r < height; ++r) {
        // Columns that no row of the strip sees were not computed.
        if ((s_.visible[r * kWords + j / 64] >> (j % 64) & 1) == 0) continue;
        s_.in_set[(first + r) * sets + entry->set] +=
            static_cast<double>(s_.scores[r * B::kStride + j]);
      }
    }
  }

  void copy_exact(const Row& its) {
    if (exact_begin_ == exact_end_) return;
    const std::int64_t query = query_of(its.at), end = std::min(its.to, k_count_);
    for (const auto* row = first_exact(query); row != exact_end_ && row->query == query; ++row) {
      std::copy(its.p + its.from, its.p + end,
                exact_row(*row, head_in_group(its.at)) + sequence_.k_begin + k_begin_ + its.from);
    }
  }

  void write() {
    for (std::int64_t r = 0; r < rows_; ++r) {
      if (o_.value_weighted.data != nullptr)
        *answer(o_.value_weighted, r) = static_cast<T>(s_.weighted[r]);
      for (std::int64_t set = 0; set < o_.key_sets.sets; ++set) {
        answer(o_.key_sets.mass, r)[set] = static_cast<T>(s_.in_set[r * o_.key_sets.sets + set]);
      }
    }
    for (std::int64_t head = 0; head < p_.group; ++head) {
      for (std::int64_t i = 0; i < o_.offsets.count; ++i) {
        const std::int64_t from = head * o_.offsets.count + i,
                           to = head_index(head) * o_.offsets.count + i;
        add_shared(o_.offsets.mass[to], s_.offset_mass[from]);
        add_shared(o_.offsets.queries[to], s_.offset_queries[from]);
      }
    }
  }

  static constexpr std::int64_t kNoBand = -2, kOutside = -1;

  struct Kernels {
    void (*two)(const T*, const T*, std::int64_t, T*, T*);
    void (*one)(const T*, const T*, std::int64_t, T*, T*);
  };
  template <std::size_t... kIndex>
  static constexpr std::array<Kernels, sizeof...(kIndex)> make_kernels(
      std::index_sequence<kIndex...>) {
    return {{{&score_panel<static_cast<int>(kIndex) + 1, 2, T>,
              &score_panel<static_cast<int>(kIndex) + 1, 1, T>}...}};
  }
  static constexpr std::array<Kernels, B::kRows> kKernels =
      make_kernels(std::make_index_sequence<B::kRows>());

  const ForwardParams& p_;
  const ObserveParams& o_;
  const ForwardBlock& block_;
  const Sequence& sequence_;
  const std::int64_t rows_, strips_;
  const std::int64_t first_query_;  // row of the tensors
  ObserveScratch<T> s_;
  KeyPanels<T> panels_;
  const StoredRows values_;
  VisibleTile<T> visible_;
  const ObserveParams::ExactRow *exact_begin_ = nullptr, *exact_end_ = nullptr;
  bool modified_ = false, alibi_ = false, regular_ = true;
  bool sums_columns_ = false, every_tile_ = false, in_cells_ = false;
  bool tile_in_cells_ = false, tile_in_sets_ = false;
  std::int64_t k_begin_ = 0, k_count_ = 0, origin_ = 0, band_ = kNoBand;
};

template <class T>
void run_observe(const ForwardParams& params, const ObserveParams& asked, const ForwardBlock& block,
                 void* workspace) {
  Observe<T>(params, asked, block, workspace).run();
}

template <class T>
std::size_t workspace_bytes(const ForwardParams& params, const ObserveParams& asked,
                            std::int64_t tokens) {
  return ObserveScratch<T>(nullptr, params, asked, tokens).bytes;
}

const ObserveKernel& observe_kernel_of(DType dtype) {
  static constexpr ObserveKernel kFloat{&workspace_bytes<float>, &run_observe<float>},
      kDouble{&workspace_bytes<double>, &run_observe<double>};
  return dtype == DType::f64 ? kDouble : kFloat;
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const ObserveKernel& observe_kernel(Isa isa, DType dtype) {
  switch (isa) {
#if HWY_TARGETS & HWY_AVX3
    case Isa::avx512: return N_AVX3::observe_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_AVX2
    case Isa::avx2: return N_AVX2::observe_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_NEON
    case Isa::neon: return N_NEON::observe_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_SCALAR
    case Isa::scalar: return N_SCALAR::observe_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_EMU128
    case Isa::scalar: return N_EMU128::observe_kernel_of(dtype);
#endif
    default: throw std::invalid_argument("[kernels] this build has no " + std::string(name(isa)));
  }
}

}  // namespace attn::kernels
#endif
