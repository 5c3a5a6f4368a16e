// What the gradient of a row needs to know beside its scores, made once before all tiles. Included
// once a target.
#if defined(ATTN_KERNELS_BACKWARD_TERMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_BACKWARD_TERMS_INL_H_
#undef ATTN_KERNELS_BACKWARD_TERMS_INL_H_
#else
#define ATTN_KERNELS_BACKWARD_TERMS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/backward.h"
#include "kernels/scores-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// What prepare() leaves of a row. With e = 2^(s - shift), p = rest e,
// ds = e (rest dp + offset - slope (s - shift)).
struct Term {
  static constexpr int kShift = 0, kOffset = 1, kRest = 2, kSlope = 3, kCount = 4;
};

// Does a row's gradient need more than a shift and an offset? A sink alone does not: it is in the
// shift.
inline bool general_terms(const BackwardParams& p) {
  return p.d_entropy.data != nullptr || (p.d_lse.data != nullptr && p.score.sinks != nullptr);
}

template <class T>
T* row_of(const Matrix& m, const Sequence& s, std::int64_t head, std::int64_t row) {
  return static_cast<T*>(const_cast<void*>(m.data)) + s.tensor * m.batch + head * m.head +
         row * m.length;
}

template <class T>
T dot(const T* HWY_RESTRICT a, const T* HWY_RESTRICT b, std::int64_t width) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + lanes <= width; i += lanes)
    sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  T total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < width; ++i) total += a[i] * b[i];
  return total;
}

template <class T>
void prepare_rows(const BackwardParams& p, const Sequence& sequence, std::int64_t head,
                  std::int64_t first, std::int64_t count, double* d_sink) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const bool general = general_terms(p);
  for (std::int64_t i = sequence.q_begin + first; i < sequence.q_begin + first + count; ++i) {
    const auto given = [&](const Matrix& m) {
      return m.data == nullptr ? 0.0 : static_cast<double>(*row_of<T>(m, sequence, head, i));
    };
    T* terms = row_of<T>(p.terms, sequence, head, i);
    std::fill_n(terms, Term::kCount, T(0));
    const double lse = given(p.lse);
    if (lse == -kInf) {  // sees nothing: every p is 0
      terms[Term::kShift] = std::numeric_limits<T>::infinity();
      continue;
    }
    const double mean =
        p.d_out.data == nullptr
            ? 0.0
            : static_cast<double>(dot(row_of<T>(p.d_out, sequence, head, i),
                                      row_of<T>(p.out, sequence, head, i), p.v_width));
    const double d_lse = given(p.d_lse), d_entropy = given(p.d_entropy), entropy = given(p.entropy);
    double shift = lse, rest = 1, ln_rest = 0;
    if (p.score.sinks != nullptr) {
      // What the sink leaves to the keys, 1 / (1 + e^(sink - lse)), and its own share.
      const double sink = p.score.sinks[head], top = std::max(lse, sink);
      const double with_sink = top + std::log1p(std::exp(std::min(lse, sink) - top));
      ln_rest = lse - with_sink;
      rest = std::exp(ln_rest);
      if (!general) shift = with_sink;
      const double sink_p = std::exp(sink - with_sink);
      if (sink_p != 0) *d_sink -= sink_p * (mean + d_entropy * (sink - with_sink + entropy));
    }
    terms[Term::kShift] = static_cast<T>(shift * kLog2e);
    if (general) {
      const double of_entropy = rest == 0 ? 0 : rest * d_entropy;
      terms[Term::kOffset] =
          static_cast<T>(d_lse - rest * mean - of_entropy * (rest == 0 ? 0 : ln_rest + entropy));
      terms[Term::kRest] = static_cast<T>(rest);
      terms[Term::kSlope] = static_cast<T>(of_entropy * kLn2);
    } else {
      terms[Term::kOffset] = static_cast<T>(d_lse - mean);
    }
  }
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
