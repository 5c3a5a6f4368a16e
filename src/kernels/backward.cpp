#include "kernels/backward.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on
#include <hwy/cache_control.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "kernels/ahead-inl.h"
#include "kernels/arena.h"
#include "kernels/backward_micro-inl.h"
#include "kernels/backward_terms-inl.h"
#include "kernels/dropout-inl.h"
#include "kernels/exp2-inl.h"
#include "kernels/micro-inl.h"
#include "kernels/score_gradient-inl.h"
#include "kernels/scores-inl.h"
#include "kernels/visible-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Rows that are worked on together: their probabilities and gradients by tile stay in L2.
template <class T>
constexpr std::int64_t kBackwardRows =
    Blocking<T>::kRows* std::int64_t{Blocking<T>::kRows < 8 ? 16 : 8};

// kPanel columns of a row, or fewer: then zeros follow.
template <class T>
HWY_INLINE void load_panel(const T* HWY_RESTRICT from, std::int64_t columns, T* HWY_RESTRICT to) {
  using B = Blocking<T>;
  const typename B::D d;
  if (columns >= B::kPanel) {
    hn::Store(hn::LoadU(d, from), d, to);
    hn::Store(hn::LoadU(d, from + B::kLanes), d, to + B::kLanes);
    return;
  }
  std::copy_n(from, columns, to);
  std::fill(to + columns, to + B::kPanel, T(0));
}
template <class T>
HWY_INLINE void store_panel(const T* HWY_RESTRICT from, std::int64_t columns, T* HWY_RESTRICT to) {
  using B = Blocking<T>;
  const typename B::D d;
  if (columns >= B::kPanel) {
    hn::StoreU(hn::Load(d, from), d, to);
    hn::StoreU(hn::Load(d, from + B::kLanes), d, to + B::kLanes);
    return;
  }
  std::copy_n(from, columns, to);
}

// Rows [height][width] to panels [panel][height][kPanel] and back.
template <class T>
void to_panels(const T* from, std::int64_t stride, std::int64_t height, std::int64_t width, T* to) {
  constexpr std::int64_t kPanel = Blocking<T>::kPanel;
  for (std::int64_t c = 0; c < width; c += kPanel) {
    for (std::int64_t r = 0; r < height; ++r, to += kPanel)
      load_panel(from + r * stride + c, width - c, to);
  }
}
template <class T>
void from_panels(const T* from, std::int64_t height, std::int64_t width, T* to,
                 std::int64_t stride) {
  constexpr std::int64_t kPanel = Blocking<T>::kPanel;
  for (std::int64_t c = 0; c < width; c += kPanel) {
    for (std::int64_t r = 0; r < height; ++r, from += kPanel)
      store_panel(from, width - c, to + r * stride + c);
  }
}

// Scratch of one thread.
template <class T>
struct BackwardScratch {
  using B = Blocking<T>;
  // Of the keys: transposed panels for the products over the width, k in rows for dQ, and the sums.
  T *k, *v, *k_rows, *dk, *dv;
  // Of some rows: [width / kTile][rows][kStride] for the products over the width, panels of rows
  // for the products over rows.
  T *q, *d_out, *q_rows, *d_out_rows;
  T *p, *ds;                          // [rows][kStride] scores, then p; dO . v, then ds
  T *capped, *given, *k_offset, *dq;  // of one strip
  T* terms;                           // [rows][Term::kCount]
  std::uint64_t* visible;             // [rows][kTile / 64]
  std::int64_t* token;
  std::int32_t* head;
  std::size_t bytes;

  BackwardScratch(void* base, const BackwardParams& p_, std::int64_t tiles) {
    constexpr std::int64_t kRows = kBackwardRows<T>, kStrip = B::kRows * B::kStride;
    Arena arena(base);
    const std::int64_t keys = tiles * B::kTile, width = round_up(p_.width, B::kPanel),
                       v_width = round_up(p_.v_width, B::kPanel);
    k = arena.take<T>(keys * p_.width);
    v = arena.take<T>(keys * p_.v_width);
    k_rows = arena.take<T>(keys * width);
    dk = arena.take<T>(keys * width);
    dv = arena.take<T>(keys * v_width);
    q = arena.take<T>((p_.width + B::kTile - 1) / B::kTile * kRows * B::kStride);
    d_out = arena.take<T>((p_.v_width + B::kTile - 1) / B::kTile * kRows * B::kStride);
    q_rows = arena.take<T>(B::kTile * width);
    d_out_rows = arena.take<T>(B::kTile * v_width);
    p = arena.take<T>(kRows * B::kStride);
    ds = arena.take<T>(kRows * B::kStride);
    capped = arena.take<T>(p_.score.soft_cap > 0 ? kStrip : 0);
    given = arena.take<T>(p_.score.custom != nullptr ? kStrip : 0);
    k_offset = arena.take<T>(B::kTile);
    dq = arena.take<T>(B::kRows * width);
    terms = arena.take<T>(kRows * Term::kCount);
    visible = arena.take<std::uint64_t>(kRows * (B::kTile / 64));
    token = arena.take<std::int64_t>(kRows);
    head = arena.take<std::int32_t>(kRows);
    bytes = arena.used();
  }
};

template <class T>
class Backward {
  using B = Blocking<T>;
  using D = typename B::D;
  static constexpr std::int64_t kWords = B::kTile / 64;
  static constexpr std::int64_t kMostRows = kBackwardRows<T>;
  static constexpr std::int64_t kMostStrips = kMostRows / B::kRows;

 public:
  Backward(const BackwardParams& params, const BackwardBlock& block, std::int64_t tiles,
           void* workspace)
      : p_(params),
        block_(block),
        sequence_(block.sequence),
        width_(round_up(params.width, B::kPanel)),
        v_width_(round_up(params.v_width, B::kPanel)),
        s_(workspace, params, tiles),
        gradients_(params.score, params.custom_gradient, params.d_bias, block.slopes, block.t5) {
    modified_ = p_.score.modified();
    alibi_ = p_.score.alibi_slopes != nullptr && !modified_;
    general_ = general_terms(p_) || p_.dropout.threshold > 0;
    derived_ = gradients_.any();
    scale_ = static_cast<T>(p_.score.scale);
  }

  void run() {
    load_keys();
    BackwardRows rows;
    while (block_.rows->next(rows)) {
      const std::int64_t count = rows.token_count * p_.group;
      for (std::int64_t first = 0; first < count; first += kMostRows) {
        if (!run_rows(rows, first, std::min(kMostRows, count - first))) return;
      }
    }
    store_keys();
  }

 private:
  // Strips are as even as they come.
  std::int64_t strip_begin(std::int64_t strip) const { return rows_ * strip / strips_; }
  static std::int64_t key_strips(std::int64_t keys) { return (keys + B::kRows - 1) / B::kRows; }
  std::int64_t keys_of(std::int64_t tile) const {
    return std::min(B::kTile, sequence_.k_len - tile * B::kTile);
  }
  // Where the parts of a tile lie in arrays of all tiles of this block.
  std::int64_t place(std::int64_t tile, std::int64_t width) const {
    return (tile - block_.tile_begin) * B::kTile * width;
  }
  T* key_row(const Matrix& m, std::int64_t key) const {
    return row_of<T>(m, sequence_, block_.kv_head, sequence_.k_begin + key);
  }

  void load_keys() {
    for (std::int64_t tile = block_.tile_begin; tile < block_.tile_end; ++tile) {
      const std::int64_t first = tile * B::kTile, keys = keys_of(tile);
      pack_keys(key_row(p_.k, first), p_.k.length, keys, p_.width, s_.k + place(tile, p_.width));
      pack_keys(key_row(p_.v, first), p_.v.length, keys, p_.v_width,
                s_.v + place(tile, p_.v_width));
      const bool finite = pack_values(key_row(p_.k, first), p_.k.length, keys, p_.width,
                                      s_.k_rows + place(tile, width_));
      k_finite_ = k_finite_ && finite;
      start_sums(p_.dk, first, keys, p_.width, s_.dk + place(tile, width_));
      start_sums(p_.dv, first, keys, p_.v_width, s_.dv + place(tile, v_width_));
    }
  }

  // Sums lie by strips of keys: [strip][panel][keys of the strip][kPanel].
  void start_sums(const Matrix& m, std::int64_t first, std::int64_t keys, std::int64_t width,
                  T* sums) {
    const std::int64_t padded = round_up(width, B::kPanel), strips = key_strips(keys);
    if (m.data == nullptr || !p_.accumulate) {
      std::fill_n(sums, keys * padded, T(0));
      return;
    }
    for (std::int64_t strip = 0; strip < strips; ++strip) {
      const std::int64_t begin = keys * strip / strips, end = keys * (strip + 1) / strips;
      to_panels<T>(key_row(m, first + begin), m.length, end - begin, width, sums + begin * padded);
    }
  }

  void store_keys() {
    for (std::int64_t tile = block_.tile_begin; tile < block_.tile_end; ++tile) {
      store_sums(p_.dk, tile, p_.width, s_.dk + place(tile, width_));
      store_sums(p_.dv, tile, p_.v_width, s_.dv + place(tile, v_width_));
    }
  }

  void store_sums(const Matrix& m, std::int64_t tile, std::int64_t width, const T* sums) {
    if (m.data == nullptr) return;
    const std::int64_t first = tile * B::kTile, keys = keys_of(tile), strips = key_strips(keys);
    for (std::int64_t strip = 0; strip < strips; ++strip) {
      const std::int64_t begin = keys * strip / strips, end = keys * (strip + 1) / strips;
      from_panels(sums + begin * round_up(width, B::kPanel), end - begin, width,
                  key_row(m, first + begin), m.length);
    }
  }

  // Rows [first, first + count) of a block. False when another thread gave up.
  bool run_rows(const BackwardRows& rows, std::int64_t first, std::int64_t count) {
    rows_ = count;
    strips_ = (count + B::kRows - 1) / B::kRows;
    token_begin_ = rows.token_begin;
    for (std::int64_t r = 0; r < count; ++r) {
      s_.token[r] = rows.token_begin + (first + r) / p_.group;
      s_.head[r] = static_cast<std::int32_t>(block_.kv_head * p_.group + (first + r) % p_.group);
    }
    std::atomic<std::int32_t>& turn = rows.turns[first / kMostRows];
    if (!find_spans(rows.schedule)) return skip_rows(turn, rows.turn);
    look_ahead(rows, first + count);
    for (std::int64_t r = 0; r < count; ++r)
      std::copy_n(row_at(p_.terms, r), Term::kCount, s_.terms + r * Term::kCount);
    q_finite_ = load_rows(p_.q, p_.width, static_cast<T>(p_.score.scale * kLog2e), s_.q, s_.q_rows);
    d_out_finite_ =
        p_.d_out.data == nullptr || load_rows(p_.d_out, p_.v_width, T(1), s_.d_out, s_.d_out_rows);

    bool waited = false, first_tile = true;
    visible_.schedule = &rows.schedule;
    for (std::int64_t i = 0; i < rows.schedule.run_count; ++i) {
      const TileRun& tiles = rows.schedule.runs[i];
      for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
        visible_.partial = tiles.partial;
        if (tiles.partial && rows.schedule.bits != nullptr) {
          visible_.bits =
              rows.schedule.bits + tiles.bits_offset +
              (tile - tiles.begin) * rows.schedule.slots * rows.schedule.block_tokens * kWords;
        }
        // A custom derivative has its turn too: it may sum gradients of its own.
        if (p_.custom_gradient != nullptr && !waited) {
          if (!wait(turn, rows.turn)) return false;
          waited = true;
        }
        score_tile(tile);
        add_to_keys(tile);
        if (p_.dq.data == nullptr) continue;
        if (!waited && !wait(turn, rows.turn)) return false;
        waited = true;
        // The first keys of all find nothing there yet.
        add_to_queries(tile, !p_.accumulate && rows.turn == 0 && first_tile);
        first_tile = false;
      }
    }
    if (takes_turns()) turn.store(rows.turn + 1, std::memory_order_release);
    return true;
  }

  // What each strip sees at all; returns whether some strip sees some of these keys.
  bool find_spans(const Schedule& schedule) {
    const std::int64_t begin = block_.tile_begin * B::kTile, end = block_.tile_end * B::kTile;
    bool any = false;
    for (std::int64_t strip = 0; strip < strips_; ++strip) {
      Span& span = spans_[strip] =
          span_of_rows(schedule, sequence_.k_len, s_.token, token_begin_, s_.head,
                       block_.kv_head * p_.group, strip_begin(strip), strip_begin(strip + 1));
      any = any || (span.begin < end && span.end > begin);
    }
    return any;
  }

  bool takes_turns() const { return p_.dq.data != nullptr || p_.custom_gradient != nullptr; }

  // These keys' turn at rows that see none of them.
  bool skip_rows(std::atomic<std::int32_t>& turn, std::int32_t mine) {
    if (!takes_turns()) return true;
    if (!wait(turn, mine)) return false;
    for (std::int64_t r = 0; p_.dq.data != nullptr && mine == 0 && !p_.accumulate && r < rows_; ++r)
      std::fill_n(row_at(p_.dq, r), p_.width, T(0));
    turn.store(mine + 1, std::memory_order_release);
    return true;
  }

  // The rows that follow, to be fetched while these are worked on.
  void look_ahead(const BackwardRows& rows, std::int64_t next) {
    const std::int64_t from = rows.token_begin + next / p_.group,
                       count = std::min(kMostRows / p_.group, sequence_.q_len - from);
    ahead_.clear();
    for (const auto& [matrix, width] :
         {std::pair{&p_.q, p_.width}, std::pair{&p_.d_out, p_.v_width}, std::pair{&p_.dq, p_.width},
          std::pair{&p_.terms, std::int64_t{Term::kCount}}}) {
      for (std::int64_t h = 0; matrix->data != nullptr && h < p_.group; ++h) {
        ahead_.add(
            row_of<T>(*matrix, sequence_, block_.kv_head * p_.group + h, sequence_.q_begin + from),
            matrix->length * static_cast<std::int64_t>(sizeof(T)), count,
            width * static_cast<std::int64_t>(sizeof(T)));
      }
    }
  }

  // Some of it, once a product.
  void fetch() {
    constexpr int kSteps = 2;
    for (int i = 0; i < kSteps; ++i) ahead_.fetch_step();
  }

  bool wait(const std::atomic<std::int32_t>& turn, std::int32_t mine) const {
    for (int i = 0; turn.load(std::memory_order_acquire) != mine; ++i) {
      if (block_.rows->failed()) return false;
      if (i < 64)
        hwy::Pause();
      else
        std::this_thread::yield();
    }
    return true;
  }

  T* row_at(const Matrix& m, std::int64_t r) const {
    return row_of<T>(m, sequence_, s_.head[r], sequence_.q_begin + s_.token[r]);
  }

  // Rows of a tensor of queries, times `factor` in `scaled`, as they are in panels of rows; are all
  // finite?
  bool load_rows(const Matrix& m, std::int64_t width, T factor, T* scaled, T* panels) {
    const D d;
    const auto f = hn::Set(d, factor), zero = hn::Zero(d);
    auto poison = zero;  // 0 * x sums to NaN when any x is not finite
    for (std::int64_t r = 0; r < rows_; ++r) {
      const T* from = row_at(m, r);
      for (std::int64_t c = 0; c < width; c += B::kPanel) {
        T* panel = panels + c * B::kTile + r * B::kPanel;
        load_panel(from + c, width - c, panel);
        T* to = scaled + c / B::kTile * kMostRows * B::kStride + r * B::kStride + c % B::kTile;
        for (std::int64_t lane = 0; lane < B::kPanel; lane += B::kLanes) {
          const auto x = hn::Load(d, panel + lane);
          poison = hn::MulAdd(zero, x, poison);
          hn::Store(hn::Mul(x, f), d, to + lane);
        }
      }
    }
    return hn::AllTrue(d, hn::Eq(poison, poison));
  }

  // What a strip sees of the tile: columns [begin, end) by some row, [from, to) in whole vectors.
  struct Columns {
    std::int64_t begin = 0, end = 0, from = 0, to = 0;
    bool masked = false;  // some row does not see some of them
  };

  // s and dO . v of all strips, then p and ds.
  void score_tile(std::int64_t tile) {
    k_begin_ = tile * B::kTile;
    k_count_ = keys_of(tile);
    visible_.k_begin = k_begin_;
    visible_.k_count = k_count_;
    if (alibi_) {
      // Relative to the first query: exact in T for near positions.
      origin_ = q_position(p_.score, sequence_, s_.token[0]);
      for (std::int64_t j = 0; j < B::kTile; ++j) {
        s_.k_offset[j] =
            j < k_count_ ? static_cast<T>(k_position(p_.score, k_begin_ + j) - origin_) : T(0);
      }
    }
    for (std::int64_t strip = 0; strip < strips_; ++strip) score_strip(tile, strip);
  }

  Columns see(std::int64_t strip, std::int64_t first, int height) {
    bool masked = visible_.partial || modified_ || k_count_ % B::kLanes != 0;
    if (visible_.partial && visible_.schedule->interval_begin != nullptr) {
      const Span& span = spans_[strip];
      if (span.begin >= k_begin_ + k_count_ || span.end <= k_begin_) return {};
      const bool all = span.open <= k_begin_ && span.close >= k_begin_ + k_count_;
      if (all && !modified_ && k_count_ % B::kLanes == 0) masked = false;
    }
    Columns c{0, k_count_, 0, round_up(k_count_, B::kLanes), masked};
    if (!masked) {
      std::fill_n(s_.visible + first * kWords, height * kWords, ~std::uint64_t{0});
      return c;
    }
    std::uint64_t any[kWords] = {}, all[kWords];
    std::fill_n(all, kWords, ~std::uint64_t{0});
    for (std::int64_t r = first; r < first + height; ++r) {
      std::uint64_t* words = s_.visible + r * kWords;
      visible_.read(s_.token[r] - token_begin_, s_.head[r] - block_.kv_head * p_.group, words);
      for (int w = 0; w < kWords; ++w) {
        any[w] |= words[w];
        all[w] &= words[w];
      }
    }
    if (!VisibleTile<T>::span_of(any, c.begin, c.end)) c.begin = c.end = 0;
    c.from = c.begin / B::kLanes * B::kLanes;
    c.to = round_up(c.end, B::kLanes);
    std::int64_t open, close;
    VisibleTile<T>::first_run(all, open, close);
    c.masked = modified_ || open > c.from || close < c.to;
    return c;
  }

  void score_strip(std::int64_t tile, std::int64_t strip) {
    const std::int64_t first = strip_begin(strip);
    const int height = static_cast<int>(strip_begin(strip + 1) - first);
    const Columns c = columns_[strip] = see(strip, first, height);
    T *p = s_.p + first * B::kStride, *ds = s_.ds + first * B::kStride;
    if (c.begin >= c.end) return;
    clear_edges(p, height, c);
    clear_edges(ds, height, c);
    products(s_.q + first * B::kStride, s_.k + place(tile, p_.width), p_.width, height, c, p);
    if (p_.d_out.data != nullptr) {
      products(s_.d_out + first * B::kStride, s_.v + place(tile, p_.v_width), p_.v_width, height, c,
               ds);
    } else {
      for (int r = 0; r < height; ++r)
        std::fill(ds + r * B::kStride + c.from, ds + r * B::kStride + c.to, T(0));
    }
    const Strip<T> scores{p,
                          s_.visible + first * kWords,
                          height,
                          s_.token + first,
                          s_.head + first,
                          &sequence_,
                          p_.group,
                          k_begin_,
                          c.from,
                          std::min(c.to, k_count_),
                          s_.capped,
                          s_.given};
    if (modified_) modify_scores(scores, p_.score);
    for (int r = 0; r < height; ++r) {
      if (general_)
        general_row(first + r, c);
      else if (alibi_)
        c.masked ? plain_row<true, true>(first + r, c) : plain_row<false, true>(first + r, c);
      else
        c.masked ? plain_row<true, false>(first + r, c) : plain_row<false, false>(first + r, c);
    }
    if (!derived_) return;
    gradients_.run(scores, tile - block_.tile_begin, ds);
    const D d;
    for (int r = 0; r < height; ++r) {
      for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
        T* at = ds + r * B::kStride + j;
        hn::Store(hn::Mul(hn::Load(d, at), hn::Set(d, scale_)), d, at);
      }
    }
  }

  // Products over rows take kRows keys at once, of which a strip may see some.
  void clear_edges(T* rows, int height, const Columns& c) const {
    constexpr std::int64_t kEdge = (B::kRows + B::kLanes - 1) / B::kLanes * B::kLanes;
    const D d;
    const std::int64_t begin = std::max<std::int64_t>(0, c.from - kEdge),
                       end = std::min(B::kTile, c.to + kEdge);
    for (int r = 0; r < height; ++r, rows += B::kStride) {
      for (std::int64_t j = begin; j < c.from; j += B::kLanes) hn::Store(hn::Zero(d), d, rows + j);
      for (std::int64_t j = c.to; j < end; j += B::kLanes) hn::Store(hn::Zero(d), d, rows + j);
    }
  }

  // out[r][j] = sum over i of rows[r][i] * keys[i][j] for the columns of c.
  void products(const T* rows, const T* keys, std::int64_t width, int height, const Columns& c,
                T* out) {
    const auto& kernel = kScore[static_cast<std::size_t>(height - 1)];
    for (std::int64_t j = c.from / B::kPanel * B::kPanel; j < c.to; j += B::kPanel) {
      const std::int64_t skip = j < c.from ? B::kLanes : 0;
      const bool one = skip > 0 || c.to < j + B::kPanel;
      const T* from = rows;
      fetch();
      for (std::int64_t i = 0; i < width; i += B::kTile, from += kMostRows * B::kStride) {
        (one ? kernel.one : kernel.both)(from, keys + j * width + i * B::kPanel + skip,
                                         std::min(B::kTile, width - i), i > 0, out + j + skip);
      }
    }
  }

  HWY_INLINE hn::Mask<D> visible_lanes(std::int64_t at, std::int64_t j) const {
    const std::uint64_t bits = s_.visible[at * kWords + j / 64] >> (j % 64);
    std::uint8_t bytes[8];
    std::memcpy(bytes, &bits, sizeof bytes);
    return hn::LoadMaskBits(D(), bytes);
  }

  HWY_INLINE hn::Vec<D> with_alibi(hn::Vec<D> s, std::int64_t j, hn::Vec<D> slope,
                                   hn::Vec<D> q) const {
    return hn::NegMulAdd(slope, hn::Abs(hn::Sub(hn::Load(D(), s_.k_offset + j), q)), s);
  }
  HWY_INLINE hn::Vec<D> slope_of(std::int64_t at) const {
    return hn::Set(D(),
                   static_cast<T>(p_.score.alibi_slopes[s_.head[at]]) * static_cast<T>(kLog2e));
  }
  HWY_INLINE hn::Vec<D> offset_of(std::int64_t at) const {
    return hn::Set(D(), static_cast<T>(q_position(p_.score, sequence_, s_.token[at]) - origin_));
  }

  // p = 2^(s - shift), ds = p (dp + offset).
  template <bool kMasked, bool kAlibi>
  HWY_INLINE void plain_row(std::int64_t at, const Columns& c) {
    const D d;
    T* HWY_RESTRICT p_row = s_.p + at * B::kStride;
    T* HWY_RESTRICT ds_row = s_.ds + at * B::kStride;
    const T* terms = s_.terms + at * Term::kCount;
    const auto shift = hn::Set(d, terms[Term::kShift]), offset = hn::Set(d, terms[Term::kOffset]);
    const auto scale = hn::Set(d, derived_ ? T(1) : scale_);
    [[maybe_unused]] auto slope = shift, q = shift;
    if constexpr (kAlibi) {
      slope = slope_of(at);
      q = offset_of(at);
    }
    for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
      auto s = hn::Load(d, p_row + j);
      if constexpr (kAlibi) s = with_alibi(s, j, slope, q);
      auto p = exp2(d, hn::Sub(s, shift));
      auto ds = hn::Mul(hn::Mul(p, scale), hn::Add(hn::Load(d, ds_row + j), offset));
      if constexpr (kMasked) {
        const auto visible = visible_lanes(at, j);
        p = hn::IfThenElseZero(visible, p);
        ds = hn::IfThenElseZero(visible, ds);
      }
      hn::Store(p, d, p_row + j);
      hn::Store(ds, d, ds_row + j);
    }
  }

  // With dropout, gradients into the entropy, or sinks and gradients into the log-sum-exp.
  HWY_NOINLINE void general_row(std::int64_t at, const Columns& c) {
    const D d;
    T* HWY_RESTRICT p_row = s_.p + at * B::kStride;
    T* HWY_RESTRICT ds_row = s_.ds + at * B::kStride;
    const T* terms = s_.terms + at * Term::kCount;
    const bool factored = general_terms(p_);
    const auto shift = hn::Set(d, terms[Term::kShift]), offset = hn::Set(d, terms[Term::kOffset]);
    const auto rest = hn::Set(d, factored ? terms[Term::kRest] : T(1));
    const auto entropy = hn::Set(d, terms[Term::kSlope]);
    const auto scale = hn::Set(d, derived_ ? T(1) : scale_);
    const bool drops = p_.dropout.threshold > 0;
    const auto kept_scale = hn::Set(d, static_cast<T>(p_.dropout.scale));
    std::uint64_t kept[kWords];
    if (drops) {
      const std::int64_t begin = c.from / 64, end = (c.to + 63) / 64;
      kept_bits(p_.dropout, sequence_.query_start + s_.token[at], s_.head[at], sequence_.stream,
                k_begin_ + begin * 64, end - begin, kept + begin);
    }
    for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
      auto s = hn::Load(d, p_row + j);
      if (alibi_) s = with_alibi(s, j, slope_of(at), offset_of(at));
      const auto x = hn::Sub(s, shift);
      auto e = exp2(d, x);
      auto p = hn::Mul(e, rest), dp = hn::Load(d, ds_row + j);
      if (drops) {
        const std::uint64_t bits = kept[j / 64] >> (j % 64);
        std::uint8_t bytes[8];
        std::memcpy(bytes, &bits, sizeof bytes);
        const auto lanes = hn::LoadMaskBits(d, bytes);
        // What is dropped weighs 0, but NaN stays NaN, as in the forward pass.
        p = hn::Mul(p, hn::IfThenElseZero(lanes, kept_scale));
        dp = hn::IfThenElseZero(lanes, hn::Mul(dp, kept_scale));
      }
      // A probability of 0 has an infinite logarithm, and no part in the entropy.
      const auto ln_p = hn::Max(x, hn::Set(d, T(-10000)));
      auto ds = hn::NegMulAdd(entropy, ln_p, hn::MulAdd(rest, dp, offset));
      ds = hn::Mul(hn::Mul(e, scale), ds);
      const auto visible = visible_lanes(at, j);
      hn::Store(hn::IfThenElseZero(visible, p), d, p_row + j);
      hn::Store(hn::IfThenElseZero(visible, ds), d, ds_row + j);
    }
  }

  // dV += p^T dO, dK += ds^T q.
  void add_to_keys(std::int64_t tile) {
    if (p_.dv.data != nullptr && p_.d_out.data != nullptr) {
      add_rows(s_.p, s_.d_out_rows, d_out_finite_, p_.v_width, s_.dv + place(tile, v_width_));
    }
    if (p_.dk.data != nullptr)
      add_rows(s_.ds, s_.q_rows, q_finite_, p_.width, s_.dk + place(tile, width_));
  }

  void add_rows(const T* weights, const T* x, bool finite, std::int64_t width, T* sums) {
    const std::int64_t strips = key_strips(k_count_), padded = round_up(width, B::kPanel);
    for (std::int64_t c = 0; c < width; c += B::kPanel) {
      for (std::int64_t strip = 0; strip < strips; ++strip) {
        const std::int64_t begin = k_count_ * strip / strips;
        const std::int64_t height = k_count_ * (strip + 1) / strips - begin;
        T* out = sums + begin * padded + c * height;
        for (std::int64_t first = 0, last; first < strips_; first = last + 1) {
          // Neighbouring strips of rows that see some of these keys; do all rows see all of them?
          bool masked = false;
          for (last = first; last < strips_ && sees(last, begin, height); ++last) {
            const Columns& seen = columns_[last];
            masked = masked || seen.masked || seen.begin > begin || seen.end < begin + height;
          }
          if (first == last) continue;
          const std::int64_t row = strip_begin(first), rows = strip_begin(last) - row;
          const T* from = x + c * B::kTile;
          fetch();
          if (masked && !finite) {
            add_visible_rows(weights, from, row, rows, begin, height, out);
            continue;
          }
          const auto& kernel = kKeys[static_cast<std::size_t>(height - 1)];
          (width - c <= B::kLanes ? kernel.one : kernel.both)(weights + row * B::kStride + begin,
                                                              from + row * B::kPanel, rows, out);
        }
      }
    }
  }

  bool sees(std::int64_t strip, std::int64_t begin, std::int64_t count) const {
    return columns_[strip].begin < begin + count && columns_[strip].end > begin;
  }

  // The same chains without the terms 0 * x of hidden pairs, which a non-finite x would turn into
  // NaN.
  void add_visible_rows(const T* weights, const T* x, std::int64_t row, std::int64_t rows,
                        std::int64_t key, std::int64_t keys, T* out) const {
    const D d;
    for (std::int64_t j = key; j < key + keys; ++j, out += B::kPanel) {
      auto low = hn::Load(d, out), high = hn::Load(d, out + B::kLanes);
      for (std::int64_t r = row; r < row + rows; ++r) {
        if ((s_.visible[r * kWords + j / 64] >> (j % 64) & 1) == 0) continue;
        const auto weight = hn::Set(d, weights[r * B::kStride + j]);
        low = hn::MulAdd(weight, hn::Load(d, x + r * B::kPanel), low);
        high = hn::MulAdd(weight, hn::Load(d, x + r * B::kPanel + B::kLanes), high);
      }
      hn::Store(low, d, out);
      hn::Store(high, d, out + B::kLanes);
    }
  }

  // dQ += ds k, in the tensor; or dQ = ds k.
  void add_to_queries(std::int64_t tile, bool starts) {
    const T* keys = s_.k_rows + place(tile, width_);
    for (std::int64_t strip = 0; strip < strips_; ++strip) {
      const Columns& c = columns_[strip];
      const std::int64_t first = strip_begin(strip), height = strip_begin(strip + 1) - first;
      if (c.begin >= c.end) {
        for (std::int64_t r = 0; starts && r < height; ++r)
          std::fill_n(row_at(p_.dq, first + r), p_.width, T(0));
        continue;
      }
      const T* ds = s_.ds + first * B::kStride;
      const auto& kernel = kValue[static_cast<std::size_t>(height - 1)];
      if (starts)
        std::fill_n(s_.dq, height * width_, T(0));
      else
        for (std::int64_t r = 0; r < height; ++r) move_row<true>(first + r, r, height);
      for (std::int64_t column = 0; column < p_.width; column += B::kPanel) {
        T* out = s_.dq + column * height;
        const T* from = keys + column * B::kTile;
        if (c.masked && !k_finite_) {
          for (std::int64_t r = 0; r < height; ++r, out += B::kPanel) {
            value_row(ds + r * B::kStride, from, s_.visible + (first + r) * kWords, c.begin, c.end,
                      T(1), out);
          }
          continue;
        }
        (p_.width - column <= B::kLanes ? kernel.one : kernel.both)(
            ds + c.begin, from + c.begin * B::kPanel, B::kPanel, c.end - c.begin, nullptr, out);
      }
      for (std::int64_t r = 0; r < height; ++r) move_row<false>(first + r, r, height);
    }
  }

  // Row r of a strip of dQ from the tensor to the panels of the strip, or back.
  template <bool kLoad>
  HWY_INLINE void move_row(std::int64_t at, std::int64_t r, std::int64_t height) {
    T* row = row_at(p_.dq, at);
    for (std::int64_t c = 0; c < p_.width; c += B::kPanel) {
      T* panel = s_.dq + c * height + r * B::kPanel;
      if constexpr (kLoad)
        load_panel(row + c, p_.width - c, panel);
      else
        store_panel(panel, p_.width - c, row + c);
    }
  }

  // Micro-kernels by height, for two vectors of columns or one.
  template <class F>
  struct Pair {
    F *both, *one;
  };
  template <class F>
  using ByHeight = std::array<Pair<F>, static_cast<std::size_t>(B::kRows)>;
  using ScoreKernel = void(const T*, const T*, std::int64_t, bool, T*);
  using KeyKernel = void(const T*, const T*, std::int64_t, T*);
  using ValueKernel = void(const T*, const T*, std::int64_t, std::int64_t, const T*, T*);
  template <std::size_t... kI>
  static constexpr ByHeight<ScoreKernel> score_kernels(std::index_sequence<kI...>) {
    return {{{&row_panel<static_cast<int>(kI) + 1, 2, T>,
              &row_panel<static_cast<int>(kI) + 1, 1, T>}...}};
  }
  template <std::size_t... kI>
  static constexpr ByHeight<KeyKernel> key_kernels(std::index_sequence<kI...>) {
    return {{{&key_panel<static_cast<int>(kI) + 1, 2, T>,
              &key_panel<static_cast<int>(kI) + 1, 1, T>}...}};
  }
  template <std::size_t... kI>
  static constexpr ByHeight<ValueKernel> value_kernels(std::index_sequence<kI...>) {
    return {{{&value_panel<static_cast<int>(kI) + 1, 2, T, T>,
              &value_panel<static_cast<int>(kI) + 1, 1, T, T>}...}};
  }
  static constexpr auto kHeights = std::make_index_sequence<static_cast<std::size_t>(B::kRows)>();
  static constexpr ByHeight<ScoreKernel> kScore = score_kernels(kHeights);
  static constexpr ByHeight<KeyKernel> kKeys = key_kernels(kHeights);
  static constexpr ByHeight<ValueKernel> kValue = value_kernels(kHeights);

  const BackwardParams& p_;
  const BackwardBlock& block_;
  const Sequence& sequence_;
  const std::int64_t width_, v_width_;  // padded to panels
  BackwardScratch<T> s_;
  const ScoreGradients<T> gradients_;
  VisibleTile<T> visible_;
  bool modified_ = false, alibi_ = false, general_ = false, derived_ = false;
  T scale_ = 1;
  bool k_finite_ = true;
  // These rows.
  std::int64_t rows_ = 0, strips_ = 0, token_begin_ = 0;
  bool q_finite_ = true, d_out_finite_ = true;
  // This tile.
  std::int64_t k_begin_ = 0, k_count_ = 0, origin_ = 0;
  Columns columns_[kMostStrips];
  Span spans_[kMostStrips];
  Ahead ahead_;
};

template <class T>
void run_backward(const BackwardParams& params, const BackwardBlock& block, std::int64_t tiles,
                  void* workspace) {
  Backward<T>(params, block, tiles, workspace).run();
}

template <class T>
std::size_t backward_bytes(const BackwardParams& params, std::int64_t tiles) {
  return BackwardScratch<T>(nullptr, params, tiles).bytes;
}

template <class T>
const BackwardKernel& backward_kernel_for() {
  static constexpr BackwardKernel kKernel{kBackwardRows<T>, &backward_bytes<T>, &prepare_rows<T>,
                                          &run_backward<T>};
  return kKernel;
}

const BackwardKernel& backward_kernel_of(DType dtype) {
  return dtype == DType::f64 ? backward_kernel_for<double>() : backward_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const BackwardKernel& backward_kernel(Isa isa, DType dtype) {
  switch (isa) {
#if HWY_TARGETS & HWY_AVX3
    case Isa::avx512: return N_AVX3::backward_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_AVX2
    case Isa::avx2: return N_AVX2::backward_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_NEON
    case Isa::neon: return N_NEON::backward_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_SCALAR
    case Isa::scalar: return N_SCALAR::backward_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_EMU128
    case Isa::scalar: return N_EMU128::backward_kernel_of(dtype);
#endif
    default: throw std::invalid_argument("[kernels] this build has no " + std::string(name(isa)));
  }
}

}  // namespace attn::kernels
#endif
