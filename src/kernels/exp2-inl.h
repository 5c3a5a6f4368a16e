// 2^t for t <= about 8, exact at 0, 0 for -infinity and NaN for NaN. Relative error 1.5e-7 (float),
// 1e-15 (double). Included once a target.
#if defined(ATTN_KERNELS_EXP2_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_EXP2_INL_H_
#undef ATTN_KERNELS_EXP2_INL_H_
#else
#define ATTN_KERNELS_EXP2_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The larger of t and `low`, or NaN if t is NaN: on x86 Max returns its second argument then,
// elsewhere it may swallow it.
template <class D>
HWY_INLINE hn::Vec<D> at_least(D d, hn::TFromD<D> low, hn::Vec<D> t) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  return hn::Max(hn::Set(d, low), t);
#else
  return hn::IfThenElse(hn::Lt(t, hn::Set(d, low)), hn::Set(d, low), t);
#endif
}

#if HWY_TARGET == HWY_AVX3
// vscalef multiplies by 2^floor(t) and vreduce leaves t - floor(t): no rounding trick, no clamp.
HWY_INLINE hn::Vec<hn::ScalableTag<float>> exp2(hn::ScalableTag<float> d,
                                                hn::Vec<hn::ScalableTag<float>> t) {
  const auto f = hn::VFromD<hn::ScalableTag<float>>{_mm512_reduce_ps(t.raw, 0x09)};
  auto p = hn::MulAdd(hn::Set(d, 0.00186713017f), f, hn::Set(d, 0.00901702978f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.0557999127f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.240164444f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.693151295f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  return hn::VFromD<hn::ScalableTag<float>>{_mm512_scalef_ps(p.raw, t.raw)};
}
#else
template <class D, hwy::EnableIf<sizeof(hn::TFromD<D>) == 4>* = nullptr>
HWY_INLINE hn::Vec<D> exp2(D d, hn::Vec<D> t) {
  // Adding 1.5 * 2^23 + 127 leaves round(t) + 127, the biased exponent, in the low bits. At the
  // clamp it is 0, whose power is exactly 0.
  const hn::RebindToSigned<D> di;
  const auto magic = hn::Set(d, 12582912.0f + 127.0f);
  t = at_least(d, -127.0f, t);
  const auto biased = hn::Add(t, magic);
  const auto f = hn::Sub(t, hn::Sub(biased, magic));
  auto p = hn::MulAdd(hn::Set(d, 0.00132647273f), f, hn::Set(d, 0.00967151299f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.0555073358f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.240222424f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.693147004f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, biased))));
}
#endif

template <class D, hwy::EnableIf<sizeof(hn::TFromD<D>) == 8>* = nullptr>
HWY_INLINE hn::Vec<D> exp2(D d, hn::Vec<D> t) {
  const hn::RebindToSigned<D> di;
  const auto magic = hn::Set(d, 6755399441055744.0 + 1023.0);
  t = at_least(d, -1023.0, t);
  const auto biased = hn::Add(t, magic);
  const auto f = hn::Sub(t, hn::Sub(biased, magic));
  // Taylor series of 2^f, ln(2)^n / n!, to |f| <= 1/2.
  constexpr double kTerms[] = {1.3691488853904128e-12, 2.5678435993488202e-11,
                               4.4455382718708116e-10, 7.0549116208011233e-09,
                               1.0178086009239699e-07, 1.3215486790144309e-06,
                               1.5252733804059840e-05, 1.5403530393381609e-04,
                               1.3333558146428443e-03, 9.6181291076284770e-03,
                               5.5504108664821580e-02, 2.4022650695910071e-01,
                               6.9314718055994531e-01, 1.0};
  auto p = hn::Set(d, kTerms[0]);
  for (std::size_t i = 1; i < sizeof(kTerms) / sizeof(kTerms[0]); ++i) {
    p = hn::MulAdd(p, f, hn::Set(d, kTerms[i]));
  }
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<52>(hn::BitCast(di, biased))));
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
