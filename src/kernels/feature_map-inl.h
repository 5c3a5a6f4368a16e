// Feature maps of linear attention that go element by element. Included once a target.
#if defined(ATTN_KERNELS_FEATURE_MAP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_FEATURE_MAP_INL_H_
#undef ATTN_KERNELS_FEATURE_MAP_INL_H_
#else
#define ATTN_KERNELS_FEATURE_MAP_INL_H_
#endif

#include <hwy/highway.h>

#include "attn/linear_attention.h"
#include "kernels/exp2-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// phi(x); NaN stays.
template <FeatureMap kMap, class D>
HWY_INLINE hn::Vec<D> feature_of(D d, hn::Vec<D> x) {
  using T = hn::TFromD<D>;
  if constexpr (kMap == FeatureMap::relu) {
    return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Zero(d), x);
  } else if constexpr (kMap == FeatureMap::elu_plus_one) {
    return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), hn::Add(x, hn::Set(d, T(1))),
                          exp2(d, hn::Mul(x, hn::Set(d, T(1.4426950408889634)))));
  } else {
    return x;
  }
}

// phi'(x)
template <FeatureMap kMap, class D>
HWY_INLINE hn::Vec<D> feature_slope(D d, hn::Vec<D> x) {
  using T = hn::TFromD<D>;
  const auto one = hn::Set(d, T(1));
  const auto positive = hn::Gt(x, hn::Zero(d));
  if constexpr (kMap == FeatureMap::relu) {
    return hn::IfThenElseZero(positive, one);
  } else if constexpr (kMap == FeatureMap::elu_plus_one) {
    return hn::IfThenElse(positive, one, feature_of<kMap>(d, x));
  } else {
    return one;
  }
}

// Calls each.template operator()<map>().
template <class Each>
HWY_INLINE void with_map(FeatureMap map, const Each& each) {
  switch (map) {
    case FeatureMap::relu: return each.template operator()<FeatureMap::relu>();
    case FeatureMap::elu_plus_one: return each.template operator()<FeatureMap::elu_plus_one>();
    default: return each.template operator()<FeatureMap::identity>();
  }
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
