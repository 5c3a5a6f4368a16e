#include <cstddef>
#include <string>
#include <vector>

#include "attention/parallel.h"
#include "attention/plan.h"
#include "attn/recurrent.h"
#include "base/check_recurrent.h"
#include "base/context_use.h"
#include "recurrent/recurrent_problem.h"

namespace attn {

namespace {

constexpr Checker kCheck("recurrent_backward");

// A gradient of something that may count for several: then the kernel leaves one for each head and
// batch entry (sequence, where tokens are summed), and they are summed in order.
template <class T>
class SharedGradient {
 public:
  SharedGradient(const Tensor& to, std::int64_t batch, std::int64_t sequences, std::int64_t heads)
      : to_(to), sums_tokens_(to.shape[2] == 1) {
    if (to.empty()) return;
    const Shape shape{sums_tokens_ ? sequences : batch, heads, to.shape[2], to.shape[3]};
    view_ = to;
    if (to.shape == shape) return;
    parts_.resize(static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]));
    view_ = Tensor(parts_.data(), shape);
  }

  kernels::Matrix matrix() const { return matrix_of(view_); }
  bool sums_tokens() const { return sums_tokens_; }

  void sum() const {
    if (parts_.empty()) return;
    for (std::int64_t b = 0; b < to_.shape[0]; ++b) {
      for (std::int64_t h = 0; h < to_.shape[1]; ++h) {
        for (std::int64_t l = 0; l < to_.shape[2]; ++l) {
          for (std::int64_t c = 0; c < to_.shape[3]; ++c) sum_element(b, h, l, c);
        }
      }
    }
  }

 private:
  void sum_element(std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t c) const {
    const bool all_b = to_.shape[0] == 1, all_h = to_.shape[1] == 1;
    T sum = 0;
    for (std::int64_t i = all_b ? 0 : b; i < (all_b ? view_.shape[0] : b + 1); ++i) {
      for (std::int64_t j = all_h ? 0 : h; j < (all_h ? view_.shape[1] : h + 1); ++j)
        sum += view_.row<T>(i, j, l)[c];
    }
    to_.row<T>(b, h, l)[c] = sum;
  }

  Tensor to_;
  bool sums_tokens_;
  std::vector<T> parts_;
  Tensor view_;
};

void check_gradients(const RecurrentInputs& in, const RecurrentOptions& options,
                     const ConstTensor& d_out, const ConstTensor& d_state,
                     const RecurrentGradients& to) {
  const DType dtype = in.q.dtype;
  const auto given = [&](const char* what, const ConstTensor& x, const Shape& shape) {
    if (x.empty()) return;
    kCheck.view(what, x);
    kCheck.dtype(what, x, dtype);
    kCheck.shape(what, x, shape);
  };
  given("d_out", d_out, in.v.shape);
  given("d_state", d_state, state_shape(in, options));
  struct Pair {
    const char* what;
    Tensor to;
    ConstTensor of;
  };
  const Pair pairs[] = {{"the gradient of q", to.q, in.q},
                        {"the gradient of k", to.k, in.k},
                        {"the gradient of v", to.v, in.v},
                        {"the gradient of log_decay", to.log_decay, in.log_decay},
                        {"the gradient of beta", to.beta, in.beta},
                        {"the gradient of bonus", to.bonus, in.bonus},
                        {"the gradient of a", to.a, in.a},
                        {"the gradient of b", to.b, in.b}};
  const ConstTensor read[] = {in.q, in.k, in.v,     in.log_decay, in.beta, in.bonus,
                              in.a, in.b, in.state, d_out,        d_state};
  for (const Pair& pair : pairs) {
    if (pair.to.empty()) continue;
    if (pair.of.empty()) kCheck.fail(std::string(pair.what) + " is asked for, but there is none");
    kCheck.output(pair.what, pair.to, pair.of.shape, dtype);
    for (const ConstTensor& x : read) kCheck.apart(pair.what, pair.to, "what is read", x);
  }
  kCheck.output("the gradient of state", to.state, state_shape(in, options), dtype);
  for (const ConstTensor& x : read)
    kCheck.apart("the gradient of state", to.state, "what is read", x);
}

template <class T>
void run_backward(const RecurrentInputs& in, const ConstTensor& d_out, const ConstTensor& d_state,
                  const RecurrentGradients& to, const RecurrentOptions& options,
                  const Context& context, FeatureMap map) {
  const RecurrentProblem problem = recurrent_problem(in, options);
  const auto sequences = static_cast<std::int64_t>(problem.sequences.size());
  const std::int64_t heads = in.v.heads(), q_heads = in.q.heads(), group = heads / q_heads;
  const auto shared = [&](const Tensor& x) {
    return SharedGradient<T>(x, in.q.batch(), sequences, heads);
  };
  const SharedGradient<T> log_decay = shared(to.log_decay), beta = shared(to.beta),
                          bonus = shared(to.bonus);
  kernels::RecurrentGradientParams p;
  p.forward = problem.params;
  p.forward.map = map;
  p.d_out = matrix_of(d_out);
  p.d_after = matrix_of(d_state);
  p.q = matrix_of(to.q);
  p.k = matrix_of(to.k);
  p.v = matrix_of(to.v);
  p.a = matrix_of(to.a);
  p.b = matrix_of(to.b);
  p.before = matrix_of(to.state);
  p.log_decay = log_decay.matrix();
  p.sum_log_decay = log_decay.sums_tokens();
  p.beta = beta.matrix();
  p.sum_beta = beta.sums_tokens();
  p.bonus = bonus.matrix();
  const auto& kernel = kernels::recurrent_gradient_kernel(context.isa(), in.q.dtype);
  const std::size_t bytes = kernel.workspace_bytes(p);
  std::vector<std::vector<T>> checkpoints(static_cast<std::size_t>(context.threads()));
  {
    const ContextUse use(context);
    // Heads of a group one after the other: they add to the same gradients.
    parallel_units(context.threads(), sequences * q_heads, [&](int thread, std::int64_t number) {
      kernels::RecurrentUnit unit = problem.sequences[static_cast<std::size_t>(number / q_heads)];
      std::vector<T>& kept = checkpoints[static_cast<std::size_t>(thread)];
      const std::int64_t count = kernel.checkpoint_count(p, unit.end - unit.begin);
      if (kept.size() < static_cast<std::size_t>(count))
        kept.resize(static_cast<std::size_t>(count));
      for (std::int64_t i = 0; i < group; ++i) {
        unit.head = number % q_heads * group + i;
        kernel.run(p, unit, i > 0, context.workspace(thread, bytes), kept.data());
      }
    });
  }
  log_decay.sum();
  beta.sum();
  bonus.sum();
}

}  // namespace

void run_recurrent_backward(const RecurrentInputs& inputs, const ConstTensor& d_out,
                            const ConstTensor& d_state, const RecurrentGradients& to,
                            const RecurrentOptions& options, const Context& context,
                            FeatureMap map) {
  check_recurrent(inputs, options, kCheck);
  check_gradients(inputs, options, d_out, d_state, to);
  if (inputs.q.dtype == DType::f64)
    run_backward<double>(inputs, d_out, d_state, to, options, context, map);
  else
    run_backward<float>(inputs, d_out, d_state, to, options, context, map);
}

void recurrent_backward(const RecurrentInputs& inputs, const ConstTensor& d_out,
                        const ConstTensor& d_state, const RecurrentGradients& to,
                        const RecurrentOptions& options, const Context& context) {
  run_recurrent_backward(inputs, d_out, d_state, to, options, context, FeatureMap::identity);
}

}  // namespace attn
