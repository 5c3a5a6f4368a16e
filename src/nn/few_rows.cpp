#include "nn/few_rows.h"

// The order matters to Highway.
// clang-format off
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nn/few_rows.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <hwy/cache_control.h>

#include <algorithm>

HWY_BEFORE_NAMESPACE();
namespace attn::nn::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// kOuts outputs of kRows rows. What the next block reads of the weights is fetched on the way:
// lines of several rows in turns are more streams than the CPU foresees.
template <int kRows, int kOuts>
void block(const DenseParams& p, std::int64_t row, std::int64_t out) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const auto n = static_cast<std::int64_t>(hn::Lanes(d));
  const float* x = p.x + row * p.x_stride;
  const float* w = p.w + out * p.w_stride;
  V sums[kOuts][kRows];
  for (auto& of_out : sums) {
    for (V& sum : of_out) sum = hn::Zero(d);
  }
  const auto step = [&](const auto& load, std::int64_t j) {
    V rows[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) rows[r] = load(x + r * p.x_stride + j);
#pragma GCC unroll 4
    for (int o = 0; o < kOuts; ++o) {
      hwy::Prefetch(w + (o + kOuts) * p.w_stride + j);
      const V weights = load(w + o * p.w_stride + j);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[o][r] = hn::MulAdd(weights, rows[r], sums[o][r]);
    }
  };
  std::int64_t j = 0;
  for (; j + n <= p.in; j += n) step([&](const float* from) { return hn::LoadU(d, from); }, j);
  if (j < p.in) {
    const auto rest = hn::FirstN(d, static_cast<std::size_t>(p.in - j));
    step([&](const float* from) { return hn::MaskedLoad(rest, d, from); }, j);
  }
  for (int o = 0; o < kOuts; ++o) {
    for (int r = 0; r < kRows; ++r)
      p.y[(row + r) * p.y_stride + out + o] = hn::GetLane(hn::SumOfLanes(d, sums[o][r]));
  }
}

template <int kOuts>
void rows_of(const DenseParams& p, std::int64_t out) {
  std::int64_t row = 0;
  for (; row + 4 <= p.rows; row += 4) block<4, kOuts>(p, row, out);
  switch (p.rows - row) {
    case 3: return block<3, kOuts>(p, row, out);
    case 2: return block<2, kOuts>(p, row, out);
    case 1: return block<1, kOuts>(p, row, out);
    default: return;
  }
}

// Outputs [begin, end).
void outs(const DenseParams& p, std::int64_t begin, std::int64_t end) {
  std::int64_t out = begin;
  for (; out + 4 <= end; out += 4) rows_of<4>(p, out);
  for (; out < end; ++out) rows_of<1>(p, out);
}

}  // namespace attn::nn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::nn {
HWY_EXPORT(outs);

void few_rows_product(const DenseParams& p, int threads) {
  const auto run = HWY_DYNAMIC_DISPATCH(outs);
  // Whole blocks of outputs to each thread, one stretch of the weights.
  const std::int64_t share = ((p.out + threads - 1) / threads + 3) / 4 * 4;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t)
    run(p, std::min(p.out, t * share), std::min(p.out, (t + 1) * share));
}

}  // namespace attn::nn
#endif  // HWY_ONCE
