// From scores and dO . v to probabilities and the gradients of scores, row by row. Included once a
// target.
#if defined(ATTN_KERNELS_SOFTMAX_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_SOFTMAX_GRADIENT_INL_H_
#undef ATTN_KERNELS_SOFTMAX_GRADIENT_INL_H_
#else
#define ATTN_KERNELS_SOFTMAX_GRADIENT_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "kernels/arena.h"
#include "kernels/backward.h"
#include "kernels/backward_terms-inl.h"
#include "kernels/dropout-inl.h"
#include "kernels/exp2-inl.h"
#include "kernels/micro-inl.h"
#include "kernels/scores-inl.h"
#include "kernels/visible-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// What a strip sees of the tile: columns [begin, end) by some row, [from, to) in whole vectors.
struct SeenColumns {
  std::int64_t begin = 0, end = 0, from = 0, to = 0;
  bool masked = false;  // some row does not see some of them
};

template <class T>
class SoftmaxGradient {
  using B = Blocking<T>;
  using D = typename B::D;

 public:
  struct Row {
    T *p, *ds;                     // [kTile] in: scores and dO . v; out: p and ds
    const T* terms;                // [Term::kCount]
    const std::uint64_t* visible;  // [kTile / 64]
    std::int64_t token;            // query index
    std::int32_t head;             // query head
  };

  // ds is of raw scores, or of scores that something is still to be derived through (`derived`).
  SoftmaxGradient(const BackwardParams& params, const Sequence& sequence, bool derived,
                  Arena& arena)
      : p_(params),
        sequence_(sequence),
        alibi_(params.score.alibi_slopes != nullptr && !params.score.modified()),
        factored_(general_terms(params)),
        general_(factored_ || params.dropout.threshold > 0),
        scale_(derived ? T(1) : static_cast<T>(params.score.scale)),
        k_offset_(arena.take<T>(B::kTile)) {}

  // `token`: the first of the rows.
  void begin_tile(std::int64_t k_begin, std::int64_t k_count, std::int64_t token) {
    k_begin_ = k_begin;
    if (!alibi_) return;
    // Relative to the first query: exact in T for near positions.
    origin_ = q_position(p_.score, sequence_, token);
    for (std::int64_t j = 0; j < B::kTile; ++j) {
      k_offset_[j] =
          j < k_count ? static_cast<T>(k_position(p_.score, k_begin + j) - origin_) : T(0);
    }
  }

  HWY_INLINE void run(const Row& row, const SeenColumns& c) const {
    if (general_)
      general_row(row, c);
    else if (alibi_)
      c.masked ? plain_row<true, true>(row, c) : plain_row<false, true>(row, c);
    else
      c.masked ? plain_row<true, false>(row, c) : plain_row<false, false>(row, c);
  }

 private:
  static constexpr std::int64_t kWords = B::kTile / 64;

  HWY_INLINE hn::Vec<D> with_alibi(hn::Vec<D> s, std::int64_t j, hn::Vec<D> slope,
                                   hn::Vec<D> q) const {
    return hn::NegMulAdd(slope, hn::Abs(hn::Sub(hn::Load(D(), k_offset_ + j), q)), s);
  }
  HWY_INLINE hn::Vec<D> slope_of(const Row& row) const {
    return hn::Set(D(), static_cast<T>(p_.score.alibi_slopes[row.head]) * static_cast<T>(kLog2e));
  }
  HWY_INLINE hn::Vec<D> offset_of(const Row& row) const {
    return hn::Set(D(), static_cast<T>(q_position(p_.score, sequence_, row.token) - origin_));
  }

  // p = 2^(s - shift), ds = p (dp + offset).
  template <bool kMasked, bool kAlibi>
  HWY_INLINE void plain_row(const Row& row, const SeenColumns& c) const {
    const D d;
    T* HWY_RESTRICT p_row = row.p;
    T* HWY_RESTRICT ds_row = row.ds;
    const T* terms = row.terms;
    const auto shift = hn::Set(d, terms[Term::kShift]), offset = hn::Set(d, terms[Term::kOffset]);
    const auto scale = hn::Set(d, scale_);
    [[maybe_unused]] auto slope = shift, q = shift;
    if constexpr (kAlibi) {
      slope = slope_of(row);
      q = offset_of(row);
    }
    for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
      auto s = hn::Load(d, p_row + j);
      if constexpr (kAlibi) s = with_alibi(s, j, slope, q);
      auto p = exp2(d, hn::Sub(s, shift));
      auto ds = hn::Mul(hn::Mul(p, scale), hn::Add(hn::Load(d, ds_row + j), offset));
      if constexpr (kMasked) {
        const auto visible = lanes_of(d, row.visible, j);
        p = hn::IfThenElseZero(visible, p);
        ds = hn::IfThenElseZero(visible, ds);
      }
      hn::Store(p, d, p_row + j);
      hn::Store(ds, d, ds_row + j);
    }
  }

  // With dropout, gradients into the entropy, or sinks and gradients into the log-sum-exp.
  HWY_NOINLINE void general_row(const Row& row, const SeenColumns& c) const {
    const D d;
    T* HWY_RESTRICT p_row = row.p;
    T* HWY_RESTRICT ds_row = row.ds;
    const T* terms = row.terms;
    const auto shift = hn::Set(d, terms[Term::kShift]), offset = hn::Set(d, terms[Term::kOffset]);
    const auto rest = hn::Set(d, factored_ ? terms[Term::kRest] : T(1));
    const auto entropy = hn::Set(d, terms[Term::kSlope]);
    const auto scale = hn::Set(d, scale_);
    const bool drops = p_.dropout.threshold > 0;
    const auto kept_scale = hn::Set(d, static_cast<T>(p_.dropout.scale));
    std::uint64_t kept[kWords];
    if (drops) {
      const std::int64_t begin = c.from / 64, end = (c.to + 63) / 64;
      kept_bits(p_.dropout, sequence_.query_start + row.token, row.head, sequence_.stream,
                k_begin_ + begin * 64, end - begin, kept + begin);
    }
    for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
      auto s = hn::Load(d, p_row + j);
      if (alibi_) s = with_alibi(s, j, slope_of(row), offset_of(row));
      const auto x = hn::Sub(s, shift);
      auto e = exp2(d, x);
      auto p = hn::Mul(e, rest), dp = hn::Load(d, ds_row + j);
      if (drops) {
        const auto lanes = lanes_of(d, kept, j);
        // What is dropped weighs 0, but NaN stays NaN, as in the forward pass.
        p = hn::Mul(p, hn::IfThenElseZero(lanes, kept_scale));
        dp = hn::IfThenElseZero(lanes, hn::Mul(dp, kept_scale));
      }
      // A probability of 0 has an infinite logarithm, and no part in the entropy.
      const auto ln_p = hn::Max(x, hn::Set(d, T(-10000)));
      auto ds = hn::NegMulAdd(entropy, ln_p, hn::MulAdd(rest, dp, offset));
      ds = hn::Mul(hn::Mul(e, scale), ds);
      const auto visible = lanes_of(d, row.visible, j);
      hn::Store(hn::IfThenElseZero(visible, p), d, p_row + j);
      hn::Store(hn::IfThenElseZero(visible, ds), d, ds_row + j);
    }
  }

  const BackwardParams& p_;
  const Sequence& sequence_;
  const bool alibi_, factored_, general_;
  const T scale_;
  T* k_offset_;
  std::int64_t k_begin_ = 0, origin_ = 0;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
