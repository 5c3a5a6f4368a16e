#include "attn/mamba2.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "attention/parallel.h"
#include "attn/recurrent.h"
#include "base/check_recurrent.h"
#include "base/context_use.h"

namespace attn {

namespace {

// ln(1 + e^x) without overflow
template <class T>
T softplus(T x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

// Steps of time and what follows from them, [B, H, L] each.
template <class T>
struct Steps {
  std::vector<T> raw, dt, log_decay;
  Shape shape;

  Steps(const Mamba2Inputs& in, const Mamba2Options& options)
      : shape{in.x.batch(), in.x.heads(), in.x.length(), 1} {
    const auto count = static_cast<std::size_t>(shape[0] * shape[1] * shape[2]);
    raw.resize(count);
    dt.resize(count);
    log_decay.resize(count);
    const T least = static_cast<T>(options.dt_min), most = static_cast<T>(options.dt_max);
    std::size_t i = 0;
    for (std::int64_t b = 0; b < shape[0]; ++b) {
      for (std::int64_t h = 0; h < shape[1]; ++h) {
        const T a = *in.a.row<T>(0, h, 0);
        const T bias = in.dt_bias.empty() ? T(0) : *in.dt_bias.row<T>(0, h, 0);
        for (std::int64_t l = 0; l < shape[2]; ++l, ++i) {
          raw[i] = *in.dt.row<T>(b, h, l) + bias;
          const T step = options.softplus ? softplus(raw[i]) : raw[i];  // NaN stays
          dt[i] = step < least ? least : step > most ? most : step;
          log_decay[i] = a * dt[i];
        }
      }
    }
  }

  // The derivative of dt by what was given.
  T derivative(std::size_t i, const Mamba2Options& options) const {
    const T step = dt[i];
    if (step == static_cast<T>(options.dt_max)) return 0;
    if (options.dt_min > 0 && step == static_cast<T>(options.dt_min)) return 0;
    return options.softplus ? 1 / (1 + std::exp(-raw[i])) : T(1);
  }

  RecurrentInputs inputs(const Mamba2Inputs& in) const {
    RecurrentInputs to;
    to.q = in.c;
    to.k = in.b;
    to.v = in.x;
    to.log_decay = {log_decay.data(), shape};
    to.beta = {dt.data(), shape};
    to.state = in.state;
    return to;
  }
};

RecurrentOptions recurrence(const Mamba2Options& options) {
  RecurrentOptions to;
  to.offsets = options.offsets;
  return to;
}

// y += d x
template <class T>
void add_skip(const ConstTensor& d, const ConstTensor& x, const Tensor& y, const Context& context) {
  if (d.empty() || y.empty()) return;
  const ContextUse use(context);
  parallel_units(context.threads(), x.batch() * x.heads(), [&](int, std::int64_t i) {
    const std::int64_t b = i / x.heads(), h = i % x.heads();
    const T factor = *d.row<T>(0, h, 0);
    for (std::int64_t l = 0; l < x.length(); ++l) {
      const T* from = x.row<T>(b, h, l);
      T* to = y.row<T>(b, h, l);
      for (std::int64_t c = 0; c < x.width(); ++c) to[c] += factor * from[c];
    }
  });
}

template <class T>
void differentiate_steps(const Mamba2Inputs& in, const Steps<T>& steps, const std::vector<T>& d_dt,
                         const std::vector<T>& d_log, const Mamba2Options& options,
                         const Mamba2Gradients& to) {
  const Shape& s = steps.shape;
  for (std::int64_t h = 0; h < s[1]; ++h) {
    const T a = *in.a.row<T>(0, h, 0);
    T d_a = 0, d_bias = 0;
    for (std::int64_t b = 0; b < s[0]; ++b) {
      for (std::int64_t l = 0; l < s[2]; ++l) {
        const auto i = static_cast<std::size_t>((b * s[1] + h) * s[2] + l);
        const T d = (d_dt[i] + a * d_log[i]) * steps.derivative(i, options);
        d_a += d_log[i] * steps.dt[i];
        d_bias += d;
        if (!to.dt.empty()) *to.dt.row<T>(b, h, l) = d;
      }
    }
    if (!to.a.empty()) *to.a.row<T>(0, h, 0) = d_a;
    if (!to.dt_bias.empty()) *to.dt_bias.row<T>(0, h, 0) = d_bias;
  }
}

template <class T>
void differentiate_skip(const Mamba2Inputs& in, const ConstTensor& d_y, const Tensor& d_d) {
  for (std::int64_t h = 0; h < in.x.heads() && !d_d.empty(); ++h) {
    T sum = 0;
    for (std::int64_t b = 0; b < in.x.batch() && !d_y.empty(); ++b) {
      for (std::int64_t l = 0; l < in.x.length(); ++l) {
        for (std::int64_t c = 0; c < in.x.width(); ++c)
          sum += in.x.row<T>(b, h, l)[c] * d_y.row<T>(b, h, l)[c];
      }
    }
    *d_d.row<T>(0, h, 0) = sum;
  }
}

template <class T>
void run_backward(const Mamba2Inputs& in, const ConstTensor& d_y, const ConstTensor& d_state,
                  const Mamba2Gradients& to, const Mamba2Options& options, const Context& context) {
  const Steps<T> steps(in, options);
  std::vector<T> d_dt(steps.dt.size()), d_log(steps.dt.size());
  RecurrentGradients gradients;
  gradients.q = to.c;
  gradients.k = to.b;
  gradients.v = to.x;
  gradients.state = to.state;
  if (!to.dt.empty() || !to.a.empty() || !to.dt_bias.empty()) {
    gradients.beta = {d_dt.data(), steps.shape};
    gradients.log_decay = {d_log.data(), steps.shape};
  }
  recurrent_backward(steps.inputs(in), d_y, d_state, gradients, recurrence(options), context);
  differentiate_steps(in, steps, d_dt, d_log, options, to);
  if (!d_y.empty() && !to.x.empty()) add_skip<T>(in.d, d_y, to.x, context);
  differentiate_skip<T>(in, d_y, to.d);
}

}  // namespace

void mamba2(const Mamba2Inputs& in, const Tensor& y, const Tensor& state,
            const Mamba2Options& options, const Context& context) {
  check_mamba2(in, options, Checker("mamba2"));
  const auto run = [&]<class T>(T) {
    const Steps<T> steps(in, options);
    recurrent(steps.inputs(in), y, state, recurrence(options), context);
    add_skip<T>(in.d, in.x, y, context);
  };
  in.x.dtype == DType::f64 ? run(double()) : run(float());
}

void mamba2_backward(const Mamba2Inputs& in, const ConstTensor& d_y, const ConstTensor& d_state,
                     const Mamba2Gradients& to, const Mamba2Options& options,
                     const Context& context) {
  constexpr Checker kCheck("mamba2_backward");
  check_mamba2(in, options, kCheck);
  const DType dtype = in.x.dtype;
  const Shape of_heads{1, in.x.heads(), 1, 1};
  kCheck.output("the gradient of dt", to.dt, in.dt.shape, dtype);
  kCheck.output("the gradient of a", to.a, of_heads, dtype);
  kCheck.output("the gradient of d", to.d, of_heads, dtype);
  kCheck.output("the gradient of dt_bias", to.dt_bias, of_heads, dtype);
  if (dtype == DType::f64)
    run_backward<double>(in, d_y, d_state, to, options, context);
  else
    run_backward<float>(in, d_y, d_state, to, options, context);
}

}  // namespace attn
