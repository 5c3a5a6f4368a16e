// What gates and time steps are made of: e^x, sigmoid, softplus, for every argument. NaN stays NaN.
// Relative error of float: 4e-7, and 7.3e-8 |x| from rounding x log2(e) and log2(e) itself. And
// vectors of which only the first lanes lie in memory. Included once a target.
#if defined(ATTN_KERNELS_GATES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_GATES_INL_H_
#undef ATTN_KERNELS_GATES_INL_H_
#else
#define ATTN_KERNELS_GATES_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "kernels/exp2-inl.h"
#include "kernels/tanh-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// 2^t for every t: infinity where it exceeds the type.
template <class D>
HWY_INLINE hn::Vec<D> exp2_any(D d, hn::Vec<D> t) {
  using T = hn::TFromD<D>;
  // There the scaling instruction does it.
  if constexpr (HWY_TARGET == HWY_AVX3 && sizeof(T) == 4) return exp2(d, t);
  return exp2(d, at_most(d, sizeof(T) == 4 ? T(128) : T(1024), t));
}

// e^x
template <class D>
HWY_INLINE hn::Vec<D> exp(D d, hn::Vec<D> x) {
  return exp2_any(d, hn::Mul(x, hn::Set(d, static_cast<hn::TFromD<D>>(1.4426950408889634074))));
}

// 1 / (1 + e^-x)
template <class D>
HWY_INLINE hn::Vec<D> sigmoid(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, hn::TFromD<D>(1));
  return hn::Div(one, hn::Add(one, exp(d, hn::Neg(x))));
}

// ln(1 + y) + x for y in [0, 1], the logarithm in relative error: y times a polynomial.
template <class D, hwy::EnableIf<sizeof(hn::TFromD<D>) == 4>* = nullptr>
HWY_INLINE hn::Vec<D> add_log_of_one_and(D d, hn::Vec<D> y, hn::Vec<D> x) {
  auto p = hn::MulAdd(hn::Set(d, 0.00523268804f), y, hn::Set(d, -0.0295052137f));
  p = hn::MulAdd(p, y, hn::Set(d, 0.0782259107f));
  p = hn::MulAdd(p, y, hn::Set(d, -0.136632428f));
  p = hn::MulAdd(p, y, hn::Set(d, 0.191060051f));
  p = hn::MulAdd(p, y, hn::Set(d, -0.24842982f));
  p = hn::MulAdd(p, y, hn::Set(d, 0.333190978f));
  p = hn::MulAdd(p, y, hn::Set(d, -0.499994934f));
  p = hn::MulAdd(p, y, hn::Set(d, 0.99999994f));
  return hn::MulAdd(p, y, x);
}
template <class D, hwy::EnableIf<sizeof(hn::TFromD<D>) == 8>* = nullptr>
HWY_INLINE hn::Vec<D> add_log_of_one_and(D d, hn::Vec<D> y, hn::Vec<D> x) {
  return hn::Add(hn::CallLog1p(d, y), x);
}

// ln(1 + e^x)
template <class D>
HWY_INLINE hn::Vec<D> softplus(D d, hn::Vec<D> x) {
  const auto e = exp(d, hn::Neg(hn::Abs(x)));
  return add_log_of_one_and(d, e, at_least(d, hn::TFromD<D>(0), x));
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
