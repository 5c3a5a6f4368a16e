#include "kernels/forward.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/arena.h"
#include "kernels/dropout-inl.h"
#include "kernels/exp2-inl.h"
#include "kernels/micro-inl.h"
#include "kernels/scores-inl.h"
#include "kernels/state-inl.h"
#include "kernels/stored-inl.h"
#include "kernels/visible-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Growth of the row maximum, in log2 units, that is tolerated before the output is rescaled:
// probabilities then stay below 2^8, far from overflow.
constexpr int kRescaleThreshold = 8;

// Scratch of one block.
template <class T>
struct Scratch {
  using B = Blocking<T>;
  T *q, *k, *v;
  State<T> now, before;          // of this segment, of the segments before
  T *sums, *weighted, *squares;  // [rows][kLanes] partial sums of this segment, one a lane
  T* weights;                    // of a fold
  T *scores, *top, *edge_top, *staging, *factor, *k_offset, *k_scale, *v_scale;
  std::uint64_t* visible;
  std::int64_t* token;
  std::int32_t* head;
  std::size_t bytes;

  Scratch(void* base, std::int64_t rows, std::int64_t width, std::int64_t v_width) {
    Arena arena(base);
    const std::int64_t v_padded = round_up(v_width, B::kPanel);
    q = arena.take<T>(rows * width);
    k = arena.take<T>(B::kTile * width);
    v = arena.take<T>(B::kTile * v_padded);
    now = State<T>(arena, rows, v_padded);
    before = State<T>(arena, rows, v_padded);
    for (T** lanes : {&sums, &weighted, &squares}) *lanes = arena.take<T>(rows * B::kLanes);
    weights = arena.take<T>(2 * round_up(rows, B::kLanes));
    scores = arena.take<T>(B::kRows * B::kStride);
    for (T** lanes : {&top, &edge_top}) *lanes = arena.take<T>(B::kRows * B::kLanes);
    staging = arena.take<T>(std::max<std::int64_t>(B::kRows, B::kPanel) * width);
    factor = arena.take<T>(B::kRows);
    for (T** keys : {&k_offset, &k_scale, &v_scale}) *keys = arena.take<T>(B::kTile);
    visible = arena.take<std::uint64_t>(B::kRows * (B::kTile / 64));
    token = arena.take<std::int64_t>(rows);
    head = arena.take<std::int32_t>(rows);
    bytes = arena.used();
  }
};

template <class T>
class Forward {
  using B = Blocking<T>;
  using D = typename B::D;
  static constexpr std::int64_t kWords = B::kTile / 64;
  static constexpr T kMinusInf = -std::numeric_limits<T>::infinity();

 public:
  Forward(const ForwardParams& params, const ForwardBlock& block, void* workspace)
      : p_(params),
        block_(block),
        sequence_(block.sequence),
        keys_(params.k, block.sequence, block.kv_head),
        values_(params.v, block.sequence, block.kv_head),
        rows_(block.token_count * params.group),
        strips_((rows_ + B::kRows - 1) / B::kRows),
        v_padded_(round_up(params.v_width, B::kPanel)),
        s_(workspace, rows_, params.width, params.v_width) {
    visible_.schedule = &block.schedule;
    modified_ = p_.score.modified();
    alibi_ = p_.score.alibi_slopes != nullptr && !modified_;
    statistics_ = p_.statistics.any();
  }

  // The whole block; or, when the block has `states`, only the states of its segments.
  void run() {
    place_rows();
    pack_queries();
    std::int64_t segment = -1, ended = 0;
    const auto end = [&] {
      if (segment >= 0) end_segment(ended++);
    };
    const Schedule& schedule = block_.schedule;
    for (std::int64_t i = 0; i < schedule.run_count; ++i) {
      const TileRun& tiles = schedule.runs[i];
      for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
        const std::int64_t its_segment = tile * B::kTile / B::kSegment;
        if (its_segment != segment) {
          end();
          begin_segment(ended);
          segment = its_segment;
        }
        visible_.partial = tiles.partial;
        if (tiles.partial && schedule.bits != nullptr) {
          visible_.bits = schedule.bits + tiles.bits_offset +
                          (tile - tiles.begin) * schedule.slots * schedule.block_tokens * kWords;
        }
        run_tile(tile);
      }
    }
    end();
    if (block_.states != nullptr) return;
    if (ended == 0) s_.before.clear(rows_, v_padded_);
    write(s_.before);
  }

  // Folds the states that run() left, `count` of them, in key order, and writes the rows.
  void run_fold(std::int64_t count) {
    place_rows();
    const State<T> first = state_at(0);
    for (std::int64_t i = 1; i < count; ++i) fold_in(first, state_at(i));
    write(first);
  }

  static std::size_t state_bytes(std::int64_t rows, std::int64_t v_width) {
    Arena arena(nullptr);
    State<T>(arena, rows, round_up(v_width, B::kPanel));
    return arena.used();
  }

 private:
  // Strips are as even as they come, so that no strip is nearly empty.
  std::int64_t strip_begin(std::int64_t strip) const { return rows_ * strip / strips_; }

  State<T> state_at(std::int64_t index) const {
    Arena arena(static_cast<char*>(block_.states) +
                static_cast<std::size_t>(index) * state_bytes(rows_, p_.v_width));
    return State<T>(arena, rows_, v_padded_);
  }

  void fold_in(const State<T>& before, const State<T>& later) {
    fold(
        before, later, rows_, strips_, v_padded_, statistics_,
        [this](std::int64_t strip) { return strip_begin(strip); }, s_.weights);
  }

  void place_rows() {
    for (std::int64_t r = 0; r < rows_; ++r) {
      s_.token[r] = block_.token_begin + r / p_.group;
      s_.head[r] = static_cast<std::int32_t>(block_.kv_head * p_.group + r % p_.group);
    }
  }

  // Row r of the block in a tensor of queries.
  char* row(const Matrix& m, DType dtype, std::int64_t r) const {
    const std::int64_t at = sequence_.tensor * m.batch + s_.head[r] * m.head +
                            (sequence_.q_begin + s_.token[r]) * m.length;
    return static_cast<char*>(const_cast<void*>(m.data)) + at * element_bytes(dtype);
  }

  // scale * log2(e) is folded in here, so that softmax is exp2(s - max).
  void pack_queries() {
    const T factor = static_cast<T>(p_.score.scale * kLog2e);
    for (std::int64_t strip = 0; strip < strips_; ++strip) {
      const std::int64_t begin = strip_begin(strip), height = strip_begin(strip + 1) - begin;
      const T* from = reinterpret_cast<const T*>(row(p_.q, p_.q_dtype, begin));
      std::int64_t stride = p_.q.length;
      if (p_.group > 1 || p_.q_dtype != dtype_of<T>()) {
        for (std::int64_t r = 0; r < height; ++r) {
          convert_rows(row(p_.q, p_.q_dtype, begin + r), p_.q_dtype, 0, 1, p_.width,
                       s_.staging + r * p_.width, 0);
        }
        from = s_.staging;
        stride = p_.width;
      }
      transpose(from, stride, height, p_.width, factor, s_.q + begin * p_.width, height);
    }
  }

  void begin_segment(std::int64_t ended) {
    if (block_.states != nullptr) s_.now = state_at(ended);
    s_.now.clear(rows_, v_padded_);
    std::fill_n(s_.sums, rows_ * B::kLanes, T(0));
    if (!statistics_) return;
    for (T* lanes : {s_.weighted, s_.squares}) std::fill_n(lanes, rows_ * B::kLanes, T(0));
  }

  void end_segment(std::int64_t ended) {
    add_lanes(s_.sums, s_.now.sum);
    if (statistics_) {
      add_lanes(s_.weighted, s_.now.weighted);
      add_lanes(s_.squares, s_.now.squares);
    }
    if (block_.states != nullptr) return;
    if (ended == 0)
      std::swap(s_.now, s_.before);
    else
      fold_in(s_.before, s_.now);
  }

  // Across lanes in one fixed order.
  void add_lanes(const T* lanes, T* sum) const {
    for (std::int64_t r = 0; r < rows_; ++r) {
      T total = 0;
      for (std::int64_t lane = 0; lane < B::kLanes; ++lane) total += lanes[r * B::kLanes + lane];
      sum[r] = total;
    }
  }

  void run_tile(std::int64_t tile) {
    k_begin_ = tile * B::kTile;
    k_count_ = std::min(B::kTile, sequence_.k_len - k_begin_);
    visible_.k_begin = k_begin_;
    visible_.k_count = k_count_;
    std::fill_n(panels_, B::kTile / B::kPanel, nullptr);
    load_values();
    if (p_.k.dtype == DType::i8) load_scales(keys_, s_.k_scale);
    if (p_.v.dtype == DType::i8) load_scales(values_, s_.v_scale);
    if (alibi_) {
      // Relative to the block's first query: exact in float for distances below 2^24.
      origin_ = q_position(p_.score, sequence_, block_.token_begin);
      for (std::int64_t j = 0; j < B::kTile; ++j) {
        s_.k_offset[j] =
            j < k_count_ ? static_cast<T>(k_position(p_.score, k_begin_ + j) - origin_) : T(0);
      }
    }
    for (std::int64_t strip = 0; strip < strips_; ++strip) run_strip(strip);
  }

  void load_scales(const StoredRows& rows, T* out) const {
    if constexpr (sizeof(T) == 4) {
      rows.read_scales(k_begin_, k_count_, out);
      std::fill(out + k_count_, out + B::kTile, T(0));
    }
  }

  // The panel of keys from column j on, made when first asked for: the strip that asks finds it in
  // the first cache. A single strip needs each panel once.
  const T* key_panel(std::int64_t j) {
    const T*& panel = panels_[j / B::kPanel];
    if (panel == nullptr) panel = make_panel(j, s_.k + (strips_ > 1 ? j * p_.width : 0));
    return panel;
  }

  const T* make_panel(std::int64_t j, T* panel) {
    const std::int64_t key = k_begin_ + j, keys = std::min(B::kPanel, k_count_ - j);
    std::int64_t together = keys;
    const std::int64_t at = keys_.find(key, together);
    if (p_.k.panel > 0) {
      const void* stored = keys_.panel_at(at, p_.width);
      if (p_.k.dtype == dtype_of<T>() && reinterpret_cast<std::uintptr_t>(stored) % 64 == 0)
        return static_cast<const T*>(stored);
      convert_rows(stored, p_.k.dtype, 0, 1, p_.width * B::kPanel, panel, 0);
      return panel;
    }
    if (p_.k.dtype == dtype_of<T>() && together == keys && p_.rotation == nullptr) {
      pack_panel(static_cast<const T*>(keys_.at(at)), keys_.stride(), keys, p_.width, panel);
      return panel;
    }
    keys_.for_stretches(key, keys, [&](std::int64_t from, std::int64_t i, std::int64_t n) {
      convert_rows(keys_.at(from), p_.k.dtype, keys_.stride(), n, p_.width,
                   s_.staging + i * p_.width, p_.width);
    });
    if (p_.rotation != nullptr)
      rotate_rows(*p_.rotation, sequence_.batch, key, keys, p_.width, s_.staging);
    pack_panel(static_cast<const T*>(s_.staging), p_.width, keys, p_.width, panel);
    return panel;
  }

  // One strip reads values where they are; more strips read them packed. Where a row may hide a
  // key, it must be known whether values are finite.
  void load_values() {
    v_finite_ = true;
    v_in_place_ = strips_ == 1 && !visible_.partial && !modified_ && p_.v_width % B::kLanes == 0;
    if (v_in_place_) return;
    values_.for_stretches(k_begin_, k_count_, [&](std::int64_t at, std::int64_t i, std::int64_t n) {
      with_type<T>(p_.v.dtype, [&](auto* type) {
        const auto* from = static_cast<decltype(type)>(values_.at(at));
        const bool finite =
            pack_values(from, values_.stride(), n, p_.v_width, s_.v + i * B::kPanel);
        v_finite_ = v_finite_ && finite;
      });
    });
  }

  // Columns [from, to) of a strip, in whole vectors; no row hides any of [open, close), which are
  // whole panels.
  struct Columns {
    std::int64_t from, to, open, close;
  };

  void run_strip(std::int64_t strip) {
    const std::int64_t first = strip_begin(strip);
    const int height = static_cast<int>(strip_begin(strip + 1) - first);
    bool masked = visible_.partial || modified_ || k_count_ % B::kLanes != 0;
    std::int64_t begin = 0, end = k_count_;  // columns that some row of the strip sees
    std::int64_t open = 0, close = B::kTile;
    if (masked) {
      read_visible(first, height, begin, end, open, close);
      if (begin >= end) return;
      masked = modified_ || close - open < B::kTile;
    }
    // Keys past the last are zero and never looked at.
    Columns c{begin / B::kLanes * B::kLanes, round_up(end, B::kLanes), round_up(open, B::kPanel),
              close / B::kPanel * B::kPanel};
    if (!masked) c.close = c.to;
    if (modified_ || c.open >= c.close) c.open = c.close = c.to;

    const Kernels& kernels = kKernels[static_cast<std::size_t>(height - 1)];
    std::fill_n(s_.top, height * B::kLanes, kMinusInf);
    for (std::int64_t j = c.from / B::kPanel * B::kPanel; j < c.to; j += B::kPanel) {
      const std::int64_t skip = j < c.from ? B::kLanes : 0;
      const bool one = skip > 0 || c.to < j + B::kPanel;
      (one ? kernels.score_one : kernels.score)(s_.q + first * p_.width, key_panel(j) + skip,
                                                p_.width, s_.scores + j + skip,
                                                j >= c.open && j < c.close ? s_.top : s_.edge_top);
    }
    if (p_.k.dtype == DType::i8) scale_scores(height, c);
    if (modified_) {
      modify_scores(Strip<T>{s_.scores, s_.visible, height, s_.token + first, s_.head + first,
                             &sequence_, p_.group, k_begin_, c.from, end},
                    p_.score);
    }
    bool rescale = false;
    for (int r = 0; r < height; ++r) {
      const T top = finish_scores(first, r, c);
      const bool grew = statistics_ ? softmax_row<true>(first + r, r, top, c)
                                    : softmax_row<false>(first + r, r, top, c);
      if (statistics_) count_row(first + r, r, top, masked);
      rescale = rescale || grew;
    }
    if (p_.dropout.threshold > 0) drop(first, height, c);
    if (p_.v.dtype == DType::i8) scale_probabilities(height, c, masked);
    add_values(first, height, begin, end, masked && !v_finite_, rescale ? s_.factor : nullptr);
  }

  // What the rows of a strip see of the tile: columns [begin, end) by some row, [open, close) by
  // all.
  void read_visible(std::int64_t first, int height, std::int64_t& begin, std::int64_t& end,
                    std::int64_t& open, std::int64_t& close) {
    std::uint64_t any[kWords] = {}, all[kWords];
    std::fill_n(all, kWords, ~std::uint64_t{0});
    for (int r = 0; r < height; ++r) {
      std::uint64_t* words = s_.visible + r * kWords;
      visible_.read(s_.token[first + r] - block_.token_begin,
                    s_.head[first + r] - block_.kv_head * p_.group, words);
      for (int w = 0; w < kWords; ++w) {
        any[w] |= words[w];
        all[w] &= words[w];
      }
    }
    if (!VisibleTile<T>::span_of(any, begin, end)) begin = end = 0;
    VisibleTile<T>::first_run(all, open, close);
  }

  // out = out * factor + p * v, keys [begin, end).
  void add_values(std::int64_t first, int height, std::int64_t begin, std::int64_t end,
                  bool only_visible, const T* factor) {
    const auto index = static_cast<std::size_t>(height - 1);
    T* out = s_.now.out + first * v_padded_;
    if (only_visible) {
      for (std::int64_t c = 0; c < v_padded_; c += B::kPanel) {
        for (int r = 0; r < height; ++r, out += B::kPanel) {
          value_row(s_.scores + r * B::kStride, s_.v + c * B::kTile, s_.visible + r * kWords, begin,
                    end, s_.factor[r], out);
        }
      }
      return;
    }
    if (!v_in_place_) {
      for (std::int64_t c = 0; c < v_padded_; c += B::kPanel, out += height * B::kPanel) {
        const bool one = p_.v_width - c <= B::kLanes;
        (one ? kInPlace<T>[index].one : kInPlace<T>[index].both)(
            s_.scores + begin, s_.v + c * B::kTile + begin * B::kPanel, B::kPanel, end - begin,
            factor, out);
      }
      return;
    }
    // A few keys at a time, so that their rows come from memory once, whole.
    constexpr std::int64_t kKeys = 32;
    const auto add = [&](std::int64_t at, std::int64_t i, std::int64_t n) {
      for (std::int64_t j = 0; j < n; j += kKeys, factor = nullptr) {
        const std::int64_t count = std::min(kKeys, n - j);
        const T* p = s_.scores + begin + i + j;
        with_type<T>(p_.v.dtype, [&](auto* type) {
          const auto* v = static_cast<decltype(type)>(values_.at(at + j));
          const auto& kernel = kInPlace<std::remove_cvref_t<decltype(*type)>>[index];
          for (std::int64_t c = 0; c < p_.v_width; c += B::kPanel) {
            (p_.v_width - c <= B::kLanes ? kernel.one : kernel.both)(
                p, v + c, values_.stride(), count, factor, out + c * height);
          }
        });
      }
    };
    values_.for_stretches(k_begin_ + begin, end - begin, add);
  }

  // int8 keys: scores times their scales, and the largest of the open columns anew.
  void scale_scores(int height, const Columns& c) {
    const D d;
    for (int r = 0; r < height; ++r) {
      T* s = s_.scores + r * B::kStride;
      auto top = hn::Set(d, kMinusInf);
      for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
        const auto x = hn::Mul(hn::Load(d, s + j), hn::Load(d, s_.k_scale + j));
        hn::Store(x, d, s + j);
        if (j >= c.open && j < c.close) top = hn::Max(top, x);
      }
      hn::Store(top, d, s_.top + r * B::kLanes);
    }
  }

  // int8 values: their scales go to the probabilities, after these were summed.
  void scale_probabilities(int height, const Columns& c, bool masked) {
    const D d;
    for (int r = 0; r < height; ++r) {
      T* s = s_.scores + r * B::kStride;
      for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
        auto x = hn::Mul(hn::Load(d, s + j), hn::Load(d, s_.v_scale + j));
        if (masked) x = hn::IfThenElseZero(visible_lanes(r, j), x);
        hn::Store(x, d, s + j);
      }
    }
  }

  void drop(std::int64_t first, int height, const Columns& c) {
    const D d;
    std::uint64_t kept[kWords];
    const std::int64_t begin = c.from / 64, end = (c.to + 63) / 64;
    for (int r = 0; r < height; ++r) {
      const std::int64_t at = first + r;
      kept_bits(p_.dropout, sequence_.query_start + s_.token[at], s_.head[at], sequence_.stream,
                k_begin_ + begin * 64, end - begin, kept + begin);
      T* s = s_.scores + r * B::kStride;
      for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
        hn::Store(hn::IfThenElseZero(lanes_of(kept, j), hn::Load(d, s + j)), d, s + j);
      }
    }
  }

  HWY_INLINE static hn::Mask<D> lanes_of(const std::uint64_t* words, std::int64_t j) {
    const std::uint64_t bits = words[j / 64] >> (j % 64);
    std::uint8_t bytes[8];
    std::memcpy(bytes, &bits, sizeof bytes);
    return hn::LoadMaskBits(D(), bytes);
  }
  HWY_INLINE hn::Mask<D> visible_lanes(int r, std::int64_t j) const {
    return lanes_of(s_.visible + r * kWords, j);
  }

  // Hides what row r does not see, adds ALiBi, and returns the largest score. The product has left
  // the largest raw scores of the open columns in lanes.
  HWY_INLINE T finish_scores(std::int64_t first, int r, const Columns& c) {
    const D d;
    auto top = hn::Load(d, s_.top + r * B::kLanes);
    if (alibi_) {
      const std::int64_t at = first + r;
      const auto slope =
          hn::Set(d, static_cast<T>(p_.score.alibi_slopes[s_.head[at]]) * static_cast<T>(kLog2e));
      const auto q =
          hn::Set(d, static_cast<T>(q_position(p_.score, sequence_, s_.token[at]) - origin_));
      top = hn::Set(d, kMinusInf);
      top = finish_columns<true, true>(r, c.from, c.open, slope, q, top);
      top = finish_columns<false, true>(r, c.open, c.close, slope, q, top);
      top = finish_columns<true, true>(r, c.close, c.to, slope, q, top);
    } else {
      top = finish_columns<true, false>(r, c.from, c.open, top, top, top);
      top = finish_columns<true, false>(r, c.close, c.to, top, top, top);
    }
    return hn::GetLane(hn::MaxOfLanes(d, top));
  }

  template <bool kMasked, bool kAlibi>
  HWY_INLINE hn::Vec<D> finish_columns(int r, std::int64_t begin, std::int64_t end,
                                       hn::Vec<D> slope, hn::Vec<D> q, hn::Vec<D> top) {
    const D d;
    T* HWY_RESTRICT s = s_.scores + r * B::kStride;
    for (std::int64_t j = begin; j < end; j += B::kLanes) {
      auto x = hn::Load(d, s + j);
      if constexpr (kAlibi) {
        x = hn::NegMulAdd(slope, hn::Abs(hn::Sub(hn::Load(d, s_.k_offset + j), q)), x);
      }
      if constexpr (kMasked) {
        x = hn::IfThenElse(visible_lanes(r, j), x, hn::Set(d, kMinusInf));
      }
      hn::Store(x, d, s + j);
      top = hn::Max(top, x);
    }
    return top;
  }

  // Scores of strip row r to probabilities, in place. Returns whether the maximum moved.
  template <bool kStatistics>
  HWY_INLINE bool softmax_row(std::int64_t at, int r, T row_max, const Columns& c) {
    const D d;
    T* HWY_RESTRICT s = s_.scores + r * B::kStride;
    auto sum = hn::Load(d, s_.sums + at * B::kLanes);
    [[maybe_unused]] auto weighted = hn::Zero(d), squares = hn::Zero(d);
    if constexpr (kStatistics) {
      weighted = hn::Load(d, s_.weighted + at * B::kLanes);
      squares = hn::Load(d, s_.squares + at * B::kLanes);
    }
    T reference = s_.now.max[at];
    const bool grew = row_max > reference + kRescaleThreshold;
    s_.factor[r] = 1;
    if (grew) {
      const auto move = hn::Set(d, reference - row_max);
      const auto factor = exp2(d, move);
      s_.factor[r] = hn::GetLane(factor);
      if constexpr (kStatistics) {
        weighted = hn::Mul(factor, hn::MulAdd(clamped_difference(d, move), sum, weighted));
        squares = hn::Mul(squares, hn::Mul(factor, factor));
      }
      sum = hn::Mul(sum, factor);
      s_.now.max[at] = reference = row_max;
    }
    if (reference == kMinusInf) reference = 0;  // nothing seen so far: every probability is 0
    const auto shift = hn::Set(d, reference);
    for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
      const auto x = hn::Sub(hn::Load(d, s + j), shift);
      const auto p = exp2(d, x);
      hn::Store(p, d, s + j);
      sum = hn::Add(sum, p);
      if constexpr (kStatistics) {
        weighted = hn::MulAdd(p, clamped_difference(d, x), weighted);
        squares = hn::MulAdd(p, p, squares);
      }
    }
    hn::Store(sum, d, s_.sums + at * B::kLanes);
    if constexpr (kStatistics) {
      hn::Store(weighted, d, s_.weighted + at * B::kLanes);
      hn::Store(squares, d, s_.squares + at * B::kLanes);
    }
    return grew;
  }

  void count_row(std::int64_t at, int r, T top, bool masked) {
    std::int64_t seen = masked ? 0 : k_count_;
    if (masked) {
      for (int w = 0; w < kWords; ++w) seen += std::popcount(s_.visible[r * kWords + w]);
    }
    s_.now.seen[at] += static_cast<T>(seen);
    s_.now.top[at] = std::max(s_.now.top[at], top);
  }

  // Divides by the sum, applies sinks, and stores.
  void write(const State<T>& state) {
    for (std::int64_t strip = 0; strip < strips_; ++strip) {
      const std::int64_t begin = strip_begin(strip), height = strip_begin(strip + 1) - begin;
      for (std::int64_t r = begin; r < begin + height; ++r) {
        const T sum = state.sum[r];
        T inverse = sum == T(0) ? T(0) : T(1) / sum;  // NaN stays NaN
        double lse = -std::numeric_limits<double>::infinity(), rest = 1;
        const bool sink = p_.score.sinks != nullptr && sum != T(0);
        if (sum != T(0) && (p_.lse.data != nullptr || sink || statistics_)) {
          lse = (static_cast<double>(state.max[r]) + std::log2(static_cast<double>(sum))) * kLn2;
        }
        put(p_.lse, r, lse);
        if (sink) {
          rest = 1.0 / (1.0 + std::exp(static_cast<double>(p_.score.sinks[s_.head[r]]) - lse));
          inverse *= static_cast<T>(rest);
        }
        if (statistics_) write_statistics(state, r, lse, rest);
        if (p_.softmax.data != nullptr) {
          T* softmax = reinterpret_cast<T*>(row(p_.softmax, dtype_of<T>(), r));
          softmax[0] = state.max[r] == kMinusInf ? T(0) : state.max[r];
          softmax[1] = inverse;
        }
        if (p_.dropout.threshold > 0) inverse *= static_cast<T>(p_.dropout.scale);
        char* to = row(p_.out, p_.out_dtype, r);
        const T* from = state.out + begin * v_padded_ + (r - begin) * B::kPanel;
        for (std::int64_t c = 0; c < p_.v_width; c += B::kPanel, from += height * B::kPanel) {
          store_row(from, inverse, std::min(B::kPanel, p_.v_width - c), p_.out_dtype,
                    to + c * element_bytes(p_.out_dtype));
        }
      }
    }
  }

  void put(const Matrix& m, std::int64_t r, double value) const {
    if (m.data != nullptr) *reinterpret_cast<T*>(row(m, dtype_of<T>(), r)) = static_cast<T>(value);
  }

  // `rest` is what the sink leaves to the keys: p = e^(s - lse) * rest.
  void write_statistics(const State<T>& state, std::int64_t r, double lse, double rest) const {
    const Statistics& ask = p_.statistics;
    const double sum = state.sum[r], seen = state.seen[r], top = state.top[r];
    put(ask.max_logit, r, top * kLn2);
    if (sum == 0) {
      for (const Matrix* m :
           {&ask.entropy, &ask.relative_entropy, &ask.max_probability, &ask.mean_variance})
        put(*m, r, 0);
      return;
    }
    // Relative to the maximum m: -sum p ln p = ln Z - sum p (s - m), for p before the sink.
    double entropy = std::log(sum) - kLn2 * state.weighted[r] / sum, entries = seen;
    if (p_.score.sinks != nullptr) {
      // The entropy of choosing the keys or the sink, and of the keys among themselves.
      const double sunk = p_.score.sinks[s_.head[r]] - lse;  // logit of the sink against the keys
      const double ln_rest = -std::log1p(std::exp(sunk));
      entropy = rest * (entropy - ln_rest);
      if (rest < 1) entropy -= (1 - rest) * (ln_rest + sunk);
      entries += 1;
    }
    put(ask.entropy, r, entropy);
    put(ask.relative_entropy, r, entries > 1 ? entropy / std::log(entries) : 0);
    put(ask.max_probability, r, std::exp2(top - state.max[r]) / sum * rest);
    put(ask.mean_variance, r, (rest - rest * rest * state.squares[r] / (sum * sum)) / seen);
  }

  struct Kernels {
    void (*score)(const T*, const T*, std::int64_t, T*, T*);
    void (*score_one)(const T*, const T*, std::int64_t, T*, T*);
  };
  // Values of type S.
  template <class S>
  struct InPlace {
    void (*both)(const T*, const S*, std::int64_t, std::int64_t, const T*, T*);
    void (*one)(const T*, const S*, std::int64_t, std::int64_t, const T*, T*);
  };
  template <std::size_t... kIndex>
  static constexpr std::array<Kernels, sizeof...(kIndex)> make_kernels(
      std::index_sequence<kIndex...>) {
    return {{{&score_panel<static_cast<int>(kIndex) + 1, 2, T>,
              &score_panel<static_cast<int>(kIndex) + 1, 1, T>}...}};
  }
  template <class S, std::size_t... kIndex>
  static constexpr std::array<InPlace<S>, sizeof...(kIndex)> make_in_place(
      std::index_sequence<kIndex...>) {
    return {{{&value_panel<static_cast<int>(kIndex) + 1, 2, T, S>,
              &value_panel<static_cast<int>(kIndex) + 1, 1, T, S>}...}};
  }
  // By height.
  static constexpr std::array<Kernels, B::kRows> kKernels =
      make_kernels(std::make_index_sequence<B::kRows>());
  template <class S>
  static constexpr std::array<InPlace<S>, B::kRows> kInPlace =
      make_in_place<S>(std::make_index_sequence<B::kRows>());

  const ForwardParams& p_;
  const ForwardBlock& block_;
  const Sequence& sequence_;
  const StoredRows keys_, values_;
  const std::int64_t rows_, strips_, v_padded_;
  Scratch<T> s_;
  VisibleTile<T> visible_;
  bool modified_ = false, alibi_ = false, statistics_ = false;
  // This tile.
  std::int64_t k_begin_ = 0, k_count_ = 0, origin_ = 0;
  const T* panels_[B::kTile / B::kPanel] = {};
  bool v_finite_ = true, v_in_place_ = false;
};

template <class T>
void run_forward(const ForwardParams& params, const ForwardBlock& block, void* workspace) {
  Forward<T>(params, block, workspace).run();
}

template <class T>
void fold_states(const ForwardParams& params, const ForwardBlock& block, std::int64_t count,
                 void* workspace) {
  Forward<T>(params, block, workspace).run_fold(count);
}

template <class T>
std::size_t workspace_bytes(std::int64_t rows, std::int64_t width, std::int64_t v_width) {
  return Scratch<T>(nullptr, rows, width, v_width).bytes;
}

template <class T>
const ForwardKernel& kernel() {
  using B = Blocking<T>;
  static constexpr ForwardKernel kKernel{B::kRows,
                                         B::kTile,
                                         B::kSegment,
                                         B::kPanel,
                                         &workspace_bytes<T>,
                                         &Forward<T>::state_bytes,
                                         &run_forward<T>,
                                         &fold_states<T>};
  return kKernel;
}

const ForwardKernel& kernel_of(DType dtype) {
  return dtype == DType::f64 ? kernel<double>() : kernel<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const ForwardKernel& forward_kernel(Isa isa, DType dtype) {
  switch (isa) {
#if HWY_TARGETS & HWY_AVX3
    case Isa::avx512: return N_AVX3::kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_AVX2
    case Isa::avx2: return N_AVX2::kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_NEON
    case Isa::neon: return N_NEON::kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_SCALAR
    case Isa::scalar: return N_SCALAR::kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_EMU128
    case Isa::scalar: return N_EMU128::kernel_of(dtype);
#endif
    default: throw std::invalid_argument("[kernels] this build has no " + std::string(name(isa)));
  }
}

}  // namespace attn::kernels
#endif
