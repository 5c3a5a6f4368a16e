#include "kernels/features.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/features.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/arena.h"
#include "kernels/by_isa.h"
#include "kernels/exp2-inl.h"
#include "kernels/product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
constexpr T kLog2E = T(1.4426950408889634);

template <class T>
struct FeatureScratch {
  T* across;     // [width or features][rows]
  Rows<T> rows;  // [rows][width]
  std::size_t bytes;

  FeatureScratch(const FeatureParams& p, Arena arena) {
    const std::int64_t step = round_up(p.width, Blocking<T>::kLanes);
    across = arena.take<T>(std::max(p.width, p.features) * kFeatureRows);
    rows = {arena.take<T>(kFeatureRows * step), step};
    bytes = arena.used();
  }
};

// Rows to [width][kFeatureRows], what is past them 0.
template <class T>
void across(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t width, T* to) {
  constexpr std::int64_t kPanel = Blocking<T>::kPanel;
  for (std::int64_t p = 0; p < rows; p += kPanel) {
    pack_panel<T, kFeatureRows>(from + p * stride, stride, std::min(kPanel, rows - p), width,
                                to + p);
  }
}

template <class T>
T half_square(const T* x, std::int64_t count) {
  using B = Blocking<T>;
  const typename B::D d;
  auto squares = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + B::kLanes <= count; i += B::kLanes) {
    const auto v = hn::LoadU(d, x + i);
    squares = hn::MulAdd(v, v, squares);
  }
  T sum = hn::GetLane(hn::SumOfLanes(d, squares));
  for (; i < count; ++i) sum += x[i] * x[i];
  return sum / 2;
}

template <class T>
void map_features(const FeatureParams& p, const void* x, std::int64_t x_step, std::int64_t rows,
                  void* out, void* tops, void* workspace) {
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(out);
  const FeatureScratch<T> scratch(p, Arena(workspace));
  const T scale = static_cast<T>(p.scale);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < p.width; ++c) scratch.rows[r][c] = scale * from[r * x_step + c];
  }
  across(scratch.rows.data, scratch.rows.step, rows, p.width, scratch.across);
  product<false>(rows, scratch.across, kFeatureRows, static_cast<const T*>(p.directions), p.step,
                 p.width, Rows<T>{to, p.step}, p.features);
  using B = Blocking<T>;
  const typename B::D d;
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto less = hn::Set(d, half_square(scratch.rows[r], p.width));
    auto top = hn::Set(d, -std::numeric_limits<T>::infinity());
    T* row = to + r * p.step;
    std::int64_t c = 0;
    for (; c + B::kLanes <= p.features; c += B::kLanes) {
      const auto y = hn::Sub(hn::Load(d, row + c), less);
      hn::Store(y, d, row + c);
      top = hn::IfThenElse(hn::Gt(y, top), y, top);  // never NaN
    }
    T largest = hn::GetLane(hn::MaxOfLanes(d, top));
    for (; c < p.features; ++c) {
      row[c] -= hn::GetLane(less);
      largest = row[c] > largest ? row[c] : largest;
    }
    static_cast<T*>(tops)[r] = largest;
  }
}

template <class T>
void exponentiate_features(const FeatureParams& p, std::int64_t rows, const void* references,
                           void* out) {
  using B = Blocking<T>;
  const typename B::D d;
  const auto factor = hn::Set(d, static_cast<T>(1 / std::sqrt(static_cast<double>(p.features))));
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto reference = hn::Set(d, static_cast<const T*>(references)[r]);
    T* row = static_cast<T*>(out) + r * p.step;
    for (std::int64_t c = 0; c < p.step; c += B::kLanes) {
      const auto t = hn::Mul(hn::Sub(hn::Load(d, row + c), reference), hn::Set(d, kLog2E<T>));
      hn::Store(hn::Mul(factor, exp2(d, t)), d, row + c);
    }
  }
}

template <class T>
void differentiate_features(const FeatureParams& p, const void* x, std::int64_t x_step,
                            std::int64_t rows, const void* features, void* d_features, void* d_x,
                            std::int64_t d_x_step, void* workspace) {
  const T *from = static_cast<const T*>(x), *phi = static_cast<const T*>(features);
  T *d_phi = static_cast<T*>(d_features), *to = static_cast<T*>(d_x);
  // d x^ = (d phi o phi) directions - (sum of d phi o phi) x^
  const FeatureScratch<T> scratch(p, Arena(workspace));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < p.features; ++c) d_phi[r * p.step + c] *= phi[r * p.step + c];
  }
  across(d_phi, p.step, rows, p.features, scratch.across);
  product<false>(rows, scratch.across, kFeatureRows, static_cast<const T*>(p.directions_by_row),
                 p.row_step, p.features, scratch.rows, p.width);
  const T scale = static_cast<T>(p.scale);
  for (std::int64_t r = 0; r < rows; ++r) {
    T sum = 0;
    for (std::int64_t c = 0; c < p.features; ++c) sum += d_phi[r * p.step + c];
    for (std::int64_t c = 0; c < p.width; ++c)
      to[r * d_x_step + c] = scale * (scratch.rows[r][c] - sum * scale * from[r * x_step + c]);
  }
}

template <class T>
std::size_t feature_bytes(const FeatureParams& p) {
  return FeatureScratch<T>(p, Arena(nullptr)).bytes;
}

template <class T>
const FeatureKernel& feature_kernel_for() {
  static constexpr FeatureKernel kKernel{&feature_bytes<T>, &map_features<T>,
                                         &exponentiate_features<T>, &differentiate_features<T>};
  return kKernel;
}

const FeatureKernel& feature_kernel_of(DType dtype) {
  return dtype == DType::f64 ? feature_kernel_for<double>() : feature_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const FeatureKernel& feature_kernel(Isa isa, DType dtype) {
  ATTN_RETURN_BY_ISA(isa, feature_kernel_of(dtype));
}

}  // namespace attn::kernels
#endif
