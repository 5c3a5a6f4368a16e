#include "nn/layers.h"

// The order matters to Highway.
// clang-format off
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nn/layers.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base/threads.h"

HWY_BEFORE_NAMESPACE();
namespace attn::nn::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// erf as x P(x²) / Q(x²) on [-3.92, 3.92], ±1 beyond: our own minimax fit of erf(x)/x (relative
// error 5e-8 before rounding), within 4e-7 of erf everywhere.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V erf(D d, V x) {
  const V limit = hn::Set(d, 3.92F);
  const V c = hn::Clamp(x, hn::Neg(limit), limit);
  const V t = hn::Mul(c, c);
  V p = hn::Set(d, 1.9924305760810057e-08F);
  p = hn::MulAdd(p, t, hn::Set(d, -1.9578051251301076e-06F));
  p = hn::MulAdd(p, t, hn::Set(d, 0.00014184384781401604F));
  p = hn::MulAdd(p, t, hn::Set(d, 0.003701350651681423F));
  p = hn::MulAdd(p, t, hn::Set(d, 0.05057253688573837F));
  p = hn::MulAdd(p, t, hn::Set(d, 0.19991853833198547F));
  p = hn::MulAdd(p, t, hn::Set(d, 1.1283791065216064F));
  V q = hn::Set(d, 0.0009559747413732111F);
  q = hn::MulAdd(q, t, hn::Set(d, 0.014352690428495407F));
  q = hn::MulAdd(q, t, hn::Set(d, 0.11499593406915665F));
  q = hn::MulAdd(q, t, hn::Set(d, 0.5105048418045044F));
  q = hn::MulAdd(q, t, hn::Set(d, 1.0F));
  const V one = hn::Set(d, 1.0F);
  const V y = hn::Clamp(hn::Div(hn::Mul(c, p), q), hn::Neg(one), one);
  // Comparisons drop a NaN; it must come through.
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V activate(D d, V x, Activation activation) {
  const V half = hn::Set(d, 0.5F);
  const V half_x = hn::Mul(x, half);
  switch (activation) {
    case Activation::relu: return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Zero(d), x);
    case Activation::gelu:
      return hn::MulAdd(half_x, erf(d, hn::Mul(x, hn::Set(d, 0.70710678118654752F))), half_x);
    case Activation::gelu_tanh: {
      const V cubic = hn::MulAdd(hn::Mul(hn::Mul(x, x), x), hn::Set(d, 0.044715F), x);
      const V t = hn::Tanh(d, hn::Mul(cubic, hn::Set(d, 0.79788456080286536F)));
      return hn::MulAdd(half_x, t, half_x);
    }
    case Activation::silu:
    case Activation::sigmoid: {
      const V one = hn::Set(d, 1.0F);
      // Exp takes no more than 104, where it is infinite.
      const V e = hn::Exp(d, hn::Min(hn::Neg(x), hn::Set(d, 104.0F)));
      // Min drops a NaN; it must come through.
      const V top = activation == Activation::silu ? x : hn::IfThenElse(hn::IsNaN(x), x, one);
      return hn::Div(top, hn::Add(one, e));
    }
    case Activation::none: break;
  }
  return x;
}

template <class D>
HWY_INLINE void bias_activate_at(D d, float* y, const float* bias, std::int64_t j,
                                 Activation activation) {
  auto v = hn::LoadU(d, y + j);
  if (bias != nullptr) v = hn::Add(v, hn::LoadU(d, bias + j));
  hn::StoreU(activate(d, v, activation), d, y + j);
}

void bias_activate_row(float* y, const float* bias, std::int64_t width, Activation activation) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::int64_t n = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t j = 0;
  for (; j + n <= width; j += n) bias_activate_at(d, y, bias, j, activation);
  for (; j < width; ++j) bias_activate_at(one, y, bias, j, activation);
}

template <class D>
HWY_INLINE void gate_at(D d, const float* gate, float* up, std::int64_t j, Activation activation) {
  const auto g = activate(d, hn::LoadU(d, gate + j), activation);
  hn::StoreU(hn::Mul(g, hn::LoadU(d, up + j)), d, up + j);
}

void gate_row(const float* gate, float* up, std::int64_t count, Activation activation) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::int64_t n = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t j = 0;
  for (; j + n <= count; j += n) gate_at(d, gate, up, j, activation);
  for (; j < count; ++j) gate_at(one, gate, up, j, activation);
}

void rms_norm_row(const RmsNormParams& p, std::int64_t row) {
  const hn::ScalableTag<float> d;
  const std::int64_t n = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t whole = p.width / n * n;
  const float* x = p.x + row * p.width;
  float* y = p.y + row * p.width;
  auto squares = hn::Zero(d);
  for (std::int64_t j = 0; j < whole; j += n) {
    const auto v = hn::LoadU(d, x + j);
    squares = hn::MulAdd(v, v, squares);
  }
  float square = hn::GetLane(hn::SumOfLanes(d, squares));
  for (std::int64_t j = whole; j < p.width; ++j) square += x[j] * x[j];
  const float inverse = 1.0F / std::sqrt(square / static_cast<float>(p.width) + p.epsilon);
  const auto inverses = hn::Set(d, inverse);
  for (std::int64_t j = 0; j < whole; j += n) {
    const auto v = hn::Mul(hn::LoadU(d, x + j), inverses);
    hn::StoreU(hn::Mul(v, hn::LoadU(d, p.weight + j)), d, y + j);
  }
  for (std::int64_t j = whole; j < p.width; ++j) y[j] = x[j] * inverse * p.weight[j];
}

void layer_norm_row(const LayerNormParams& p, std::int64_t row) {
  const hn::ScalableTag<float> d;
  const std::int64_t n = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t whole = p.width / n * n;
  const float* x = p.x + row * p.width;
  const float* r = p.residual == nullptr ? nullptr : p.residual + row * p.width;
  float* y = p.y + row * p.width;

  // x + residual, and its mean.
  auto sums = hn::Zero(d);
  for (std::int64_t j = 0; j < whole; j += n) {
    auto v = hn::LoadU(d, x + j);
    if (r != nullptr) v = hn::Add(v, hn::LoadU(d, r + j));
    hn::StoreU(v, d, y + j);
    sums = hn::Add(sums, v);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (std::int64_t j = whole; j < p.width; ++j) {
    y[j] = x[j] + (r == nullptr ? 0.0F : r[j]);
    sum += y[j];
  }
  const float mean = sum / static_cast<float>(p.width);

  // The variance around it.
  auto squares = hn::Zero(d);
  const auto means = hn::Set(d, mean);
  for (std::int64_t j = 0; j < whole; j += n) {
    const auto c = hn::Sub(hn::LoadU(d, y + j), means);
    squares = hn::MulAdd(c, c, squares);
  }
  float square = hn::GetLane(hn::SumOfLanes(d, squares));
  for (std::int64_t j = whole; j < p.width; ++j) square += (y[j] - mean) * (y[j] - mean);
  const float inverse = 1.0F / std::sqrt(square / static_cast<float>(p.width) + p.epsilon);

  const auto inverses = hn::Set(d, inverse);
  for (std::int64_t j = 0; j < whole; j += n) {
    const auto v = hn::Mul(hn::Sub(hn::LoadU(d, y + j), means), inverses);
    hn::StoreU(hn::MulAdd(v, hn::LoadU(d, p.weight + j), hn::LoadU(d, p.bias + j)), d, y + j);
  }
  for (std::int64_t j = whole; j < p.width; ++j) {
    y[j] = (y[j] - mean) * inverse * p.weight[j] + p.bias[j];
  }
}

}  // namespace attn::nn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::nn {
HWY_EXPORT(bias_activate_row);
HWY_EXPORT(gate_row);
HWY_EXPORT(layer_norm_row);
HWY_EXPORT(rms_norm_row);

namespace {

// Below this many numbers a second thread costs more than it brings.
constexpr std::int64_t kWorthThreads = 1 << 15;

int threads_for(std::int64_t numbers, const Context& context) {
  return numbers < kWorthThreads ? 1 : threads_to_start(context.threads());
}

}  // namespace

void bias_activate(std::int64_t rows, std::int64_t width, float* y, std::int64_t stride,
                   const float* bias, Activation activation, const Context& context) {
  if (bias == nullptr && activation == Activation::none) return;
#pragma omp parallel for num_threads(threads_for(rows* width, context))
  for (std::int64_t i = 0; i < rows; ++i) {
    HWY_DYNAMIC_DISPATCH(bias_activate_row)(y + i * stride, bias, width, activation);
  }
}

namespace {

// f(begin, count) for stretches of `count` numbers.
template <class F>
void in_stretches(std::int64_t count, const Context& context, const F& f) {
  constexpr std::int64_t kStretch = 4096;
#pragma omp parallel for num_threads(threads_for(count, context))
  for (std::int64_t i = 0; i < count; i += kStretch) f(i, std::min(kStretch, count - i));
}

}  // namespace

void gate(std::int64_t count, const float* gate, float* up, Activation activation,
          const Context& context) {
  in_stretches(count, context, [&](std::int64_t at, std::int64_t n) {
    HWY_DYNAMIC_DISPATCH(gate_row)(gate + at, up + at, n, activation);
  });
}

void add(std::int64_t count, const float* y, float* x, const Context& context) {
  in_stretches(count, context, [&](std::int64_t at, std::int64_t n) {
    for (std::int64_t i = at; i < at + n; ++i) x[i] += y[i];
  });
}

void rms_norm(const RmsNormParams& params, const Context& context) {
#pragma omp parallel for num_threads(threads_for(params.rows* params.width, context))
  for (std::int64_t i = 0; i < params.rows; ++i) HWY_DYNAMIC_DISPATCH(rms_norm_row)(params, i);
}

void layer_norm(const LayerNormParams& params, const Context& context) {
#pragma omp parallel for num_threads(threads_for(params.rows* params.width, context))
  for (std::int64_t i = 0; i < params.rows; ++i) HWY_DYNAMIC_DISPATCH(layer_norm_row)(params, i);
}

}  // namespace attn::nn
#endif  // HWY_ONCE
