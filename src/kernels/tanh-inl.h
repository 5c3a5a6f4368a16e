// tanh(x), with the sign of x, exact at 0 and NaN for NaN. Relative error 5e-7 (float; the last
// bits of a quotient), 1e-15 (double). Included once a target.
#if defined(ATTN_KERNELS_TANH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_TANH_INL_H_
#undef ATTN_KERNELS_TANH_INL_H_
#else
#define ATTN_KERNELS_TANH_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "kernels/exp2-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The smaller of t and `high`, or NaN if t is NaN; see at_least.
template <class D>
HWY_INLINE hn::Vec<D> at_most(D d, hn::TFromD<D> high, hn::Vec<D> t) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  return hn::Min(hn::Set(d, high), t);
#else
  return hn::IfThenElse(hn::Gt(t, hn::Set(d, high)), hn::Set(d, high), t);
#endif
}

// x p(x^2) / q(x^2), minimax in relative error (1.6e-7) on |x| <= 8.1, where tanh is 1 but for
// 1.8e-7. The division runs beside the multiply-adds.
template <class D, hwy::EnableIf<sizeof(hn::TFromD<D>) == 4>* = nullptr>
HWY_INLINE hn::Vec<D> tanh(D d, hn::Vec<D> x) {
  x = at_most(d, 8.1f, at_least(d, -8.1f, x));
  const auto z = hn::Mul(x, x);
  auto p = hn::MulAdd(hn::Set(d, 1.1325529e-05f), z, hn::Set(d, 0.0029415465f));
  auto q = hn::MulAdd(hn::Set(d, 2.426238e-07f), z, hn::Set(d, 0.00023732679f));
  p = hn::MulAdd(p, z, hn::Set(d, 0.12916858f));
  q = hn::MulAdd(q, z, hn::Set(d, 0.023776837f));
  p = hn::MulAdd(p, z, hn::Set(d, 0.9999998f));
  q = hn::MulAdd(q, z, hn::Set(d, 0.4625006f));
  q = hn::MulAdd(q, z, hn::Set(d, 1.0f));
  return hn::Div(hn::Mul(x, p), q);
}

template <class D, hwy::EnableIf<sizeof(hn::TFromD<D>) == 8>* = nullptr>
HWY_INLINE hn::Vec<D> tanh(D d, hn::Vec<D> x) {
  return hn::CallTanh(d, x);
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
