// Micro-kernels of the backward pass: products over the width with rows as they are, and products
// over rows. Included once a target.
#if defined(ATTN_KERNELS_BACKWARD_MICRO_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_BACKWARD_MICRO_INL_H_
#undef ATTN_KERNELS_BACKWARD_MICRO_INL_H_
#else
#define ATTN_KERNELS_BACKWARD_MICRO_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "kernels/micro-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// scores[r][...] = sum over i of q[r][i] * k[i][...], for kV vectors of keys; rows of q and of the
// scores are kStride apart, so at most kTile terms fit one call: with `add` it goes on where the
// call before ended.
template <int kM, int kV, class T>
HWY_NOINLINE void row_panel(const T* HWY_RESTRICT q, const T* HWY_RESTRICT k, std::int64_t width,
                            bool add, T* HWY_RESTRICT scores) {
  using B = Blocking<T>;
  const typename B::D d;
  hn::Vec<typename B::D> sum[kV][kM];
#pragma GCC unroll 2
  for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) sum[v][r] = hn::Zero(d);
  }
  if (add) {
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
      for (int r = 0; r < kM; ++r) sum[v][r] = hn::Load(d, scores + r * B::kStride + v * B::kLanes);
    }
  }
#pragma GCC unroll 2
  for (std::int64_t i = 0; i < width; ++i) {
    hn::Vec<typename B::D> key[kV];
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) key[v] = hn::Load(d, k + v * B::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) {
      const auto element = hn::Set(d, q[r * B::kStride]);
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) sum[v][r] = hn::MulAdd(element, key[v], sum[v][r]);
    }
    ++q;
    k += B::kPanel;
  }
#pragma GCC unroll 2
  for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) hn::Store(sum[v][r], d, scores + r * B::kStride + v * B::kLanes);
  }
}

// out[r][...] += sum over rows of weights[row][r] * x[row][...], for kV vectors of columns and kM
// neighbouring keys r: what value_panel does, by keys instead of rows.
template <int kM, int kV, class T>
HWY_NOINLINE void key_panel(const T* HWY_RESTRICT weights, const T* HWY_RESTRICT x,
                            std::int64_t rows, T* HWY_RESTRICT out) {
  using B = Blocking<T>;
  const typename B::D d;
  hn::Vec<typename B::D> sum[kV][kM];
#pragma GCC unroll 2
  for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) sum[v][r] = hn::Load(d, out + r * B::kPanel + v * B::kLanes);
  }
#pragma GCC unroll 2
  for (std::int64_t i = 0; i < rows; ++i) {
    hn::Vec<typename B::D> value[kV];
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) value[v] = hn::Load(d, x + v * B::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) {
      const auto element = hn::Set(d, weights[r]);
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) sum[v][r] = hn::MulAdd(element, value[v], sum[v][r]);
    }
    weights += B::kStride;
    x += B::kPanel;
  }
#pragma GCC unroll 2
  for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) {
      hn::Store(sum[v][r], d, out + r * B::kPanel + v * B::kLanes);
    }
  }
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
