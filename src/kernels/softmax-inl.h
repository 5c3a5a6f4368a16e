// Softmax over a strip of raw scores, in place: hiding, ALiBi, the row maximum, exponentials, sums,
// dropout. One pass of each row, which sits in the first cache. Included once a target.
#if defined(ATTN_KERNELS_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_SOFTMAX_INL_H_
#undef ATTN_KERNELS_SOFTMAX_INL_H_
#else
#define ATTN_KERNELS_SOFTMAX_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/arena.h"
#include "kernels/dropout-inl.h"
#include "kernels/exp2-inl.h"
#include "kernels/forward.h"
#include "kernels/micro-inl.h"
#include "kernels/rows-inl.h"
#include "kernels/scores-inl.h"
#include "kernels/state-inl.h"
#include "kernels/visible-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

// Growth of the row maximum, in log2 units, that is tolerated before the output is rescaled:
// probabilities then stay below 2^8, far from overflow.
constexpr int kRescaleThreshold = 8;

// Columns [from, to) of a strip, in whole vectors; no row hides any of [open, close), which are
// whole panels.
struct Columns {
  std::int64_t from, to, open, close;
};

// A strip of a tile, `height` rows of the block from row `first` on.
template <class T>
struct ScoreStrip {
  T* scores;               // [height][kStride]
  T* top;                  // [height][kLanes] the largest raw scores of the open columns
  std::uint64_t* visible;  // [height][kTile / 64]
  T* factor;               // [height] what outputs so far are to be multiplied by
  std::int64_t first;
  int height;
  bool masked;  // some row hides some key of the tile
};

template <class T>
class Softmax {
  using B = Blocking<T>;
  using D = typename B::D;
  static constexpr std::int64_t kWords = B::kTile / 64;
  static constexpr T kMinusInf = -std::numeric_limits<T>::infinity();

 public:
  Softmax(const ForwardParams& params, const ForwardBlock& block, const BlockRows<T>& rows,
          Arena& arena)
      : p_(params),
        sequence_(block.sequence),
        first_token_(block.token_begin),
        rows_(rows),
        statistics_(params.statistics.any()),
        alibi_(params.score.alibi_slopes != nullptr && !params.score.beyond_softmax()),
        caps_(params.score.soft_cap > 0 && !params.score.beyond_softmax()),
        cap_(static_cast<T>(params.score.soft_cap * kLog2e)) {
    for (T** lanes : {&sums_, &weighted_, &squares_})
      *lanes = arena.take<T>(rows.count * B::kLanes);
    for (T** keys : {&k_offset_, &k_scale_, &v_scale_}) *keys = arena.take<T>(B::kTile);
  }

  // Memory for the scales of the tile's keys and values, when they are int8.
  T* k_scale() const { return k_scale_; }
  T* v_scale() const { return v_scale_; }

  // Before the first keys of a segment that some of `height` rows from `first` on sees.
  void begin_strip(std::int64_t first, int height) const {
    std::fill_n(sums_ + first * B::kLanes, height * B::kLanes, T(0));
    if (!statistics_) return;
    for (T* lanes : {weighted_, squares_})
      std::fill_n(lanes + first * B::kLanes, height * B::kLanes, T(0));
  }

  void end_segment(const State<T>& now) const {
    for (std::int64_t strip = 0; strip < rows_.strips; ++strip) {
      if (now.touched[strip] == 0) continue;
      add_lanes(strip, sums_, now.sum);
      if (!statistics_) continue;
      add_lanes(strip, weighted_, now.weighted);
      add_lanes(strip, squares_, now.squares);
    }
  }

  void begin_tile(std::int64_t k_begin, std::int64_t k_count) {
    k_begin_ = k_begin;
    k_count_ = k_count;
    if (!alibi_) return;
    // Relative to the block's first query: exact in float for distances below 2^24.
    origin_ = q_position(p_.score, sequence_, first_token_);
    for (std::int64_t j = 0; j < B::kTile; ++j) {
      k_offset_[j] =
          j < k_count ? static_cast<T>(k_position(p_.score, k_begin + j) - origin_) : T(0);
    }
  }

  // Scores to probabilities, as the values are to be multiplied by. Returns whether some factor is
  // not 1.
  bool run(const ScoreStrip<T>& strip, const Columns& c, const State<T>& now) const {
    bool rescale = false;
    T top[B::kRows];  // of all rows first: their maxima across lanes then overlap
    for (int r = 0; r < strip.height; ++r) top[r] = finish_scores(strip, r, c);
    for (int r = 0; r < strip.height; ++r) {
      const bool grew = statistics_ ? softmax_row<true>(strip, r, top[r], c, now)
                                    : softmax_row<false>(strip, r, top[r], c, now);
      if (statistics_) count_row(strip, r, top[r], now);
      rescale = rescale || grew;
    }
    if (p_.dropout.threshold > 0) drop(strip, c);
    if (p_.v.dtype == DType::i8) scale_probabilities(strip, c);
    return rescale;
  }

  // int8 keys: scores times their scales, and the largest of the open columns anew.
  void scale_scores(const ScoreStrip<T>& strip, const Columns& c) const {
    const D d;
    for (int r = 0; r < strip.height; ++r) {
      T* s = strip.scores + r * B::kStride;
      auto top = hn::Set(d, kMinusInf);
      for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
        const auto x = hn::Mul(hn::Load(d, s + j), hn::Load(d, k_scale_ + j));
        hn::Store(x, d, s + j);
        if (j >= c.open && j < c.close) top = hn::Max(top, x);
      }
      hn::Store(top, d, strip.top + r * B::kLanes);
    }
  }

 private:
  // Across lanes in one fixed order.
  void add_lanes(std::int64_t strip, const T* lanes, T* sum) const {
    for (std::int64_t r = rows_.strip_begin(strip); r < rows_.strip_begin(strip + 1); ++r) {
      T total = 0;
      for (std::int64_t lane = 0; lane < B::kLanes; ++lane) total += lanes[r * B::kLanes + lane];
      sum[r] = total;
    }
  }

  // What a row's scores are finished with.
  struct Finish {
    hn::Vec<D> slope, query;  // ALiBi
    hn::Vec<D> cap, inverse;  // soft cap
  };

  // Caps, adds ALiBi, hides what row r does not see, and returns the largest score. The product has
  // left the largest raw scores of the open columns in lanes.
  HWY_INLINE T finish_scores(const ScoreStrip<T>& strip, int r, const Columns& c) const {
    const D d;
    auto top = hn::Load(d, strip.top + r * B::kLanes);
    if (!alibi_ && !caps_) {
      const Finish none{top, top, top, top};
      top = finish_columns<true, false, false>(strip, r, c.from, c.open, none, top);
      top = finish_columns<true, false, false>(strip, r, c.close, c.to, none, top);
    } else {
      top = !alibi_  ? finish_row<false, true>(strip, r, c)
            : !caps_ ? finish_row<true, false>(strip, r, c)
                     : finish_row<true, true>(strip, r, c);
    }
    return hn::GetLane(hn::MaxOfLanes(d, top));
  }

  template <bool kAlibi, bool kCap>
  HWY_INLINE hn::Vec<D> finish_row(const ScoreStrip<T>& strip, int r, const Columns& c) const {
    const D d;
    const std::int64_t at = strip.first + r;
    const auto zero = hn::Zero(d);
    Finish f{zero, zero, zero, zero};
    if constexpr (kAlibi) {
      f.slope = hn::Set(
          d, static_cast<T>(p_.score.alibi_slopes[rows_.head[at]]) * static_cast<T>(kLog2e));
      f.query =
          hn::Set(d, static_cast<T>(q_position(p_.score, sequence_, rows_.token[at]) - origin_));
    }
    if constexpr (kCap) {
      f.cap = hn::Set(d, cap_);
      f.inverse = hn::Set(d, T(1) / cap_);
    }
    auto top = hn::Set(d, kMinusInf);
    top = finish_columns<true, kAlibi, kCap>(strip, r, c.from, c.open, f, top);
    top = finish_columns<false, kAlibi, kCap>(strip, r, c.open, c.close, f, top);
    return finish_columns<true, kAlibi, kCap>(strip, r, c.close, c.to, f, top);
  }

  template <bool kMasked, bool kAlibi, bool kCap>
  HWY_INLINE hn::Vec<D> finish_columns(const ScoreStrip<T>& strip, int r, std::int64_t begin,
                                       std::int64_t end, const Finish& f, hn::Vec<D> top) const {
    const D d;
    T* HWY_RESTRICT s = strip.scores + r * B::kStride;
    const std::uint64_t* visible = strip.visible + r * kWords;
    for (std::int64_t j = begin; j < end; j += B::kLanes) {
      auto x = hn::Load(d, s + j);
      if constexpr (kCap) x = capped(d, f.cap, f.inverse, x);
      if constexpr (kAlibi) {
        x = hn::NegMulAdd(f.slope, hn::Abs(hn::Sub(hn::Load(d, k_offset_ + j), f.query)), x);
      }
      if constexpr (kMasked) x = hn::IfThenElse(lanes_of(d, visible, j), x, hn::Set(d, kMinusInf));
      hn::Store(x, d, s + j);
      top = hn::Max(top, x);
    }
    return top;
  }

  // Scores of strip row r to probabilities, in place. Returns whether what was added up so far has
  // to be rescaled, because the maximum moved.
  template <bool kStatistics>
  HWY_INLINE bool softmax_row(const ScoreStrip<T>& strip, int r, T row_max, const Columns& c,
                              const State<T>& now) const {
    const D d;
    const std::int64_t at = strip.first + r;
    T* HWY_RESTRICT s = strip.scores + r * B::kStride;
    auto sum = hn::Load(d, sums_ + at * B::kLanes);
    [[maybe_unused]] auto weighted = hn::Zero(d), squares = hn::Zero(d);
    if constexpr (kStatistics) {
      weighted = hn::Load(d, weighted_ + at * B::kLanes);
      squares = hn::Load(d, squares_ + at * B::kLanes);
    }
    T reference = now.max[at];
    bool grew = row_max > reference + kRescaleThreshold;
    strip.factor[r] = 1;
    if (grew && reference == kMinusInf) {  // nothing but zeros so far
      now.max[at] = reference = row_max;
      grew = false;
    }
    if (grew) {
      const auto move = hn::Set(d, reference - row_max);
      const auto factor = exp2(d, move);
      strip.factor[r] = hn::GetLane(factor);
      if constexpr (kStatistics) {
        weighted = hn::Mul(factor, hn::MulAdd(clamped_difference(d, move), sum, weighted));
        squares = hn::Mul(squares, hn::Mul(factor, factor));
      }
      sum = hn::Mul(sum, factor);
      now.max[at] = reference = row_max;
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
    hn::Store(sum, d, sums_ + at * B::kLanes);
    if constexpr (kStatistics) {
      hn::Store(weighted, d, weighted_ + at * B::kLanes);
      hn::Store(squares, d, squares_ + at * B::kLanes);
    }
    return grew;
  }

  void count_row(const ScoreStrip<T>& strip, int r, T top, const State<T>& now) const {
    const std::int64_t at = strip.first + r;
    std::int64_t seen = strip.masked ? 0 : k_count_;
    if (strip.masked) {
      for (int w = 0; w < kWords; ++w) seen += std::popcount(strip.visible[r * kWords + w]);
    }
    now.seen[at] += static_cast<T>(seen);
    now.top[at] = std::max(now.top[at], top);
  }

  void drop(const ScoreStrip<T>& strip, const Columns& c) const {
    const D d;
    std::uint64_t kept[kWords];
    const std::int64_t begin = c.from / 64, end = (c.to + 63) / 64;
    for (int r = 0; r < strip.height; ++r) {
      const std::int64_t at = strip.first + r;
      kept_bits(p_.dropout, sequence_.query_start + rows_.token[at], rows_.head[at],
                sequence_.stream, k_begin_ + begin * 64, end - begin, kept + begin);
      T* s = strip.scores + r * B::kStride;
      for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
        hn::Store(hn::IfThenElseZero(lanes_of(d, kept, j), hn::Load(d, s + j)), d, s + j);
      }
    }
  }

  // int8 values: their scales go to the probabilities, after these were summed.
  void scale_probabilities(const ScoreStrip<T>& strip, const Columns& c) const {
    const D d;
    for (int r = 0; r < strip.height; ++r) {
      T* s = strip.scores + r * B::kStride;
      const std::uint64_t* visible = strip.visible + r * kWords;
      for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
        auto x = hn::Mul(hn::Load(d, s + j), hn::Load(d, v_scale_ + j));
        if (strip.masked) x = hn::IfThenElseZero(lanes_of(d, visible, j), x);
        hn::Store(x, d, s + j);
      }
    }
  }

  const ForwardParams& p_;
  const Sequence& sequence_;
  const std::int64_t first_token_;
  const BlockRows<T>& rows_;
  const bool statistics_, alibi_, caps_;
  const T cap_;                        // in log2 units
  T *sums_, *weighted_, *squares_;     // [rows][kLanes] partial sums of this segment, one a lane
  T *k_offset_, *k_scale_, *v_scale_;  // [kTile]
  std::int64_t k_begin_ = 0, k_count_ = 0, origin_ = 0;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
