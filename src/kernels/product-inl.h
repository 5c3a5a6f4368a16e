// Products of small matrices that lie in scratch memory: c = aᵀ b, sums over the rows of both.
// Included once a target.
//
// An element is one chain of fused multiply-adds over ascending rows, whatever the strip height.
#if defined(ATTN_KERNELS_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_PRODUCT_INL_H_
#undef ATTN_KERNELS_PRODUCT_INL_H_
#else
#define ATTN_KERNELS_PRODUCT_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "kernels/ahead-inl.h"
#include "kernels/micro-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// A matrix of rows `step` elements apart, whole vectors each; in scratch aligned to 64 bytes, and
// finite up to whole vectors.
template <class T>
struct Rows {
  T* data = nullptr;
  std::int64_t step = 0;
  T* operator[](std::int64_t row) const { return data + row * step; }
};

// Rows of a sum between two looks ahead.
constexpr std::int64_t kRowsAhead = 8;

// c[r][...] = (kAdd ? c[r][...] : 0) + sum over i of a[i][r] * b[i][...], r < kM, kV vectors.
template <int kM, int kV, bool kAdd, class T>
HWY_NOINLINE void product_panel(const T* HWY_RESTRICT a, std::int64_t a_step,
                                const T* HWY_RESTRICT b, std::int64_t b_step, std::int64_t depth,
                                T* HWY_RESTRICT c, std::int64_t c_step, Ahead* ahead) {
  using B = Blocking<T>;
  const typename B::D d;
  hn::Vec<typename B::D> sum[kV][kM];
#pragma GCC unroll 2
  for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r)
      sum[v][r] = kAdd ? hn::LoadU(d, c + r * c_step + v * B::kLanes) : hn::Zero(d);
  }
  for (std::int64_t begin = 0; begin < depth; begin += kRowsAhead) {
    const std::int64_t end = std::min(depth, begin + kRowsAhead);
    if (ahead != nullptr) ahead->fetch_step();
#pragma GCC unroll 2
    for (std::int64_t i = begin; i < end; ++i) {
      hn::Vec<typename B::D> row[kV];
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) row[v] = hn::LoadU(d, b + v * B::kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kM; ++r) {
        const auto element = hn::Set(d, a[r]);
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) sum[v][r] = hn::MulAdd(element, row[v], sum[v][r]);
      }
      a += a_step;
      b += b_step;
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) hn::StoreU(sum[v][r], d, c + r * c_step + v * B::kLanes);
  }
}

// product_panel for 1...kRows rows and any number of whole vectors of columns. `ahead`: what to
// fetch meanwhile; null: nothing.
template <bool kAdd, class T>
void product_strip(std::int64_t rows, const T* a, std::int64_t a_step, const T* b,
                   std::int64_t b_step, std::int64_t depth, T* c, std::int64_t c_step,
                   std::int64_t columns, Ahead* ahead = nullptr) {
  using B = Blocking<T>;
  using Panel = void (*)(const T*, std::int64_t, const T*, std::int64_t, std::int64_t, T*,
                         std::int64_t, Ahead*);
  static constexpr auto kTable = []<int... kM>(std::integer_sequence<int, kM...>) {
    return std::array<std::array<Panel, 2>, B::kRows>{
        {{&product_panel<kM + 1, 1, kAdd, T>, &product_panel<kM + 1, 2, kAdd, T>}...}};
  }
  (std::make_integer_sequence<int, B::kRows>());
  const auto& panel = kTable[static_cast<std::size_t>(rows - 1)];
  std::int64_t at = 0;
  for (; at + B::kPanel <= columns; at += B::kPanel)
    panel[1](a, a_step, b + at, b_step, depth, c + at, c_step, ahead);
  if (at < columns) panel[0](a, a_step, b + at, b_step, depth, c + at, c_step, ahead);
}

// Calls each(first row, rows) for strips of at most kRows rows, of nearly equal heights.
template <class T, class Each>
HWY_INLINE void for_strips(std::int64_t rows, const Each& each) {
  constexpr std::int64_t kMost = Blocking<T>::kRows;
  std::int64_t strips = (rows + kMost - 1) / kMost;
  for (std::int64_t at = 0; at < rows; --strips) {
    const std::int64_t height = (rows - at + strips - 1) / strips;
    each(at, height);
    at += height;
  }
}

// Whole products; columns are rounded up to vectors.
template <bool kAdd, class T>
void product(std::int64_t rows, const T* a, std::int64_t a_step, const T* b, std::int64_t b_step,
             std::int64_t depth, const Rows<T>& c, std::int64_t columns, Ahead* ahead = nullptr) {
  const std::int64_t whole =
      (columns + Blocking<T>::kLanes - 1) / Blocking<T>::kLanes * Blocking<T>::kLanes;
  for_strips<T>(rows, [&](std::int64_t r, std::int64_t height) HWY_ATTR {
    product_strip<kAdd>(height, a + r, a_step, b, b_step, depth, c[r], c.step, whole, ahead);
  });
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
