#include "attn/mamba2.h"

#include <cstddef>
#include <string>
#include <vector>

#include "attention/parallel.h"
#include "attn/recurrent.h"
#include "base/check_recurrent.h"
#include "base/context_use.h"
#include "recurrent/recurrent_problem.h"
#include "recurrent/time_steps.h"

namespace attn {

namespace {

// Without decays and betas.
RecurrentInputs inputs_of(const Mamba2Inputs& in) {
  RecurrentInputs to;
  to.q = in.c;
  to.k = in.b;
  to.v = in.x;
  to.state = in.state;
  return to;
}

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

// From the gradients of steps and of decays.
template <class T>
void differentiate_steps(const Mamba2Inputs& in, const TimeSteps<T>& steps,
                         const std::vector<T>& dt, const std::vector<T>& d_dt,
                         const std::vector<T>& d_log, const Mamba2Gradients& to) {
  const std::int64_t length = in.x.length();
  for (std::int64_t h = 0; h < in.x.heads(); ++h) {
    const T a = *in.a.row<T>(0, h, 0);
    T d_a = 0, d_bias = 0;
    for (std::int64_t b = 0; b < in.x.batch(); ++b) {
      auto i = static_cast<std::size_t>((b * in.x.heads() + h) * length);
      for (std::int64_t l = 0; l < length; ++l, ++i) {
        const T d = (d_dt[i] + a * d_log[i]) * steps.derivative(b, h, l, dt[i]);
        d_a += d_log[i] * dt[i];
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
  const TimeSteps<T> steps(in, options);
  const std::int64_t heads = in.x.heads(), length = in.x.length();
  const Shape shape{in.x.batch(), heads, length, 1};
  const auto count = static_cast<std::size_t>(in.x.batch() * heads * length);
  std::vector<T> dt(count), log_decay(count), d_dt(count), d_log(count);
  for (std::int64_t row = 0; row < in.x.batch() * heads; ++row) {
    steps.fill(row / heads, row % heads, 0, length, log_decay.data() + row * length,
               dt.data() + row * length);
  }
  RecurrentInputs inputs = inputs_of(in);
  inputs.log_decay = {log_decay.data(), shape};
  inputs.beta = {dt.data(), shape};
  RecurrentGradients gradients;
  gradients.q = to.c;
  gradients.k = to.b;
  gradients.v = to.x;
  gradients.state = to.state;
  if (!to.dt.empty() || !to.a.empty() || !to.dt_bias.empty()) {
    gradients.beta = {d_dt.data(), shape};
    gradients.log_decay = {d_log.data(), shape};
  }
  recurrent_backward(inputs, d_y, d_state, gradients, recurrence(options), context);
  differentiate_steps(in, steps, dt, d_dt, d_log, to);
  if (!d_y.empty() && !to.x.empty()) add_skip<T>(in.d, d_y, to.x, context);
  differentiate_skip<T>(in, d_y, to.d);
}

}  // namespace

void mamba2(const Mamba2Inputs& in, const Tensor& y, const Tensor& state,
            const Mamba2Options& options, const Context& context) {
  constexpr Checker kCheck("mamba2");
  check_mamba2(in, options, kCheck);
  kCheck.apart("y", y, "dt", in.dt);
  kCheck.apart("state", state, "dt", in.dt);
  const auto run = [&]<class T>(T) {
    const TimeSteps<T> steps(in, options);
    const kernels::MakeGates gates = [&steps](const kernels::RecurrentUnit& unit,
                                              std::int64_t token, std::int64_t count,
                                              void* log_decay, void* beta) {
      steps.fill(unit.batch, unit.head, token, count, static_cast<T*>(log_decay),
                 static_cast<T*>(beta));
    };
    run_recurrent(inputs_of(in), y, state, recurrence(options), context, {.gates = &gates});
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
