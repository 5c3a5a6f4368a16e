#include "nn/cross_entropy.h"

// The order matters to Highway.
// clang-format off
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nn/cross_entropy.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "base/threads.h"

HWY_BEFORE_NAMESPACE();
namespace attn::nn::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sum of exp(x - largest): stretches in float32, their sums in double.
double sum_exp(const float* x, std::int64_t count, float largest) {
  constexpr std::int64_t kStretch = 1024;
  const hn::ScalableTag<float> d;
  const auto n = static_cast<std::int64_t>(hn::Lanes(d));
  const auto shift = hn::Set(d, largest);
  double all = 0;
  for (std::int64_t begin = 0; begin < count; begin += kStretch) {
    const std::int64_t end = std::min(begin + kStretch, count);
    auto sums = hn::Zero(d);
    std::int64_t i = begin;
    for (; i + n <= end; i += n) {
      const auto v = hn::Sub(hn::LoadU(d, x + i), shift);
      sums = hn::Add(sums, hn::IfThenElse(hn::IsNaN(v), v, hn::Exp(d, v)));  // Exp drops a NaN
    }
    all += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sums)));
    for (; i < end; ++i) all += std::exp(static_cast<double>(x[i] - largest));
  }
  return all;
}

}  // namespace attn::nn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::nn {
HWY_EXPORT(sum_exp);

void cross_entropy(const CrossEntropyParams& p, const Context& context) {
  for (std::int64_t r = 0; r < p.rows; ++r) {
    if (p.targets[r] < 0 || p.targets[r] >= p.classes) {
      throw std::invalid_argument("[cross_entropy] target " + std::to_string(p.targets[r]) +
                                  " is outside [0, " + std::to_string(p.classes) + ")");
    }
  }
#pragma omp parallel for num_threads(threads_to_start(context.threads()))
  for (std::int64_t r = 0; r < p.rows; ++r) {
    const float* const x = p.logits + r * p.classes;
    const float* const largest = std::max_element(x, x + p.classes);
    const double sum = HWY_DYNAMIC_DISPATCH(sum_exp)(x, p.classes, *largest);
    p.losses[r] = static_cast<float>(std::log(sum) + static_cast<double>(*largest) -
                                     static_cast<double>(x[p.targets[r]]));
    p.top[r] = static_cast<std::int32_t>(largest - x);
  }
}

}  // namespace attn::nn
#endif  // HWY_ONCE
