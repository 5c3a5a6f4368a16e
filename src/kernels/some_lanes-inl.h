// Loads and stores of a vector's first lanes. Included once a target.
#if defined(ATTN_KERNELS_SOME_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_SOME_LANES_INL_H_
#undef ATTN_KERNELS_SOME_LANES_INL_H_
#else
#define ATTN_KERNELS_SOME_LANES_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The first `count` lanes from memory, the others 0; what lies behind them is not read, which
// masked accesses promise on AVX alone. `count` may exceed the lanes.
template <class D>
HWY_INLINE hn::Vec<D> load_some(D d, const hn::TFromD<D>* from, std::int64_t count) {
  if (count >= static_cast<std::int64_t>(hn::Lanes(d))) return hn::LoadU(d, from);
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  return hn::MaskedLoad(hn::FirstN(d, static_cast<std::size_t>(count)), d, from);
#else
  HWY_ALIGN hn::TFromD<D> some[hn::MaxLanes(d)] = {};
  for (std::int64_t i = 0; i < count; ++i) some[i] = from[i];
  return hn::Load(d, some);
#endif
}

// The first `count` lanes to memory; what lies behind them is not written.
template <class D>
HWY_INLINE void store_some(D d, hn::Vec<D> x, hn::TFromD<D>* to, std::int64_t count) {
  if (count >= static_cast<std::int64_t>(hn::Lanes(d))) {
    hn::StoreU(x, d, to);
    return;
  }
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  hn::BlendedStore(x, hn::FirstN(d, static_cast<std::size_t>(count)), d, to);
#else
  HWY_ALIGN hn::TFromD<D> some[hn::MaxLanes(d)];
  hn::Store(x, d, some);
  for (std::int64_t i = 0; i < count; ++i) to[i] = some[i];
#endif
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
