#include <string>

#include "base/check.h"
#include "base/checker.h"

namespace attn {

namespace {

constexpr Checker kCheck("backward");

// A tensor of the forward pass, or a gradient that flows into one.
void check_given(const char* what, const ConstTensor& x, const Shape& shape, DType type) {
  kCheck.shape(what, x, shape);
  kCheck.dtype(what, x, type);
  kCheck.view(what, x);
}

void check_asked(const char* what, const Tensor& x, const Shape& shape, DType type, bool exists) {
  if (x.empty()) return;
  if (!exists) kCheck.fail(std::string(what) + " is asked, but the score has none");
  kCheck.output(what, x, shape, type);
}

}  // namespace

void check_backward(const AttentionShape& shape, const AttentionOptions& options,
                    const AttentionInputs& inputs, const OutputGradients& from,
                    const InputGradients& to) {
  const AttentionShape s = checked_shape(shape);
  const Score& score = options.score;
  if (s.dtype != DType::f32 && s.dtype != DType::f64) {
    kCheck.fail(std::string("q is ") + name(s.dtype) + ", must be float32 or float64");
  }
  if (*s.kv_dtype != s.dtype) {
    kCheck.fail(std::string("k is ") + name(*s.kv_dtype) + ", must be " + name(s.dtype) +
                " as the queries");
  }
  if (score.custom && !score.custom_gradient) {
    kCheck.fail("the score has a custom function without its derivative");
  }
  const Shape q = {s.batch, s.q_heads, s.q_len, s.width},
              k = {s.batch, s.kv_heads, s.k_len, s.width},
              v = {s.batch, s.kv_heads, s.k_len, s.v_width}, row = {s.batch, s.q_heads, s.q_len, 1},
              out = {s.batch, s.q_heads, s.q_len, s.v_width}, heads = {1, 1, 1, s.q_heads};
  check_given("q", inputs.q, q, s.dtype);
  check_given("k", inputs.k, k, s.dtype);
  check_given("v", inputs.v, v, s.dtype);
  if (!from.out.empty()) check_given("the gradient of out", from.out, out, s.dtype);
  if (!from.lse.empty()) check_given("the gradient of lse", from.lse, row, s.dtype);
  if (!from.entropy.empty()) check_given("the gradient of entropy", from.entropy, row, s.dtype);
  check_asked("the gradient of q", to.q, q, s.dtype, true);
  check_asked("the gradient of k", to.k, k, s.dtype, true);
  check_asked("the gradient of v", to.v, v, s.dtype, true);
  for (const Tensor* gradient : {&to.q, &to.k, &to.v}) {
    const char* what = gradient == &to.q   ? "the gradient of q"
                       : gradient == &to.k ? "the gradient of k"
                                           : "the gradient of v";
    kCheck.apart(what, *gradient, "q", inputs.q);
    kCheck.apart(what, *gradient, "k", inputs.k);
    kCheck.apart(what, *gradient, "v", inputs.v);
    kCheck.apart(what, *gradient, "the gradient of out", from.out);
  }
  check_asked("the gradient of bias", to.bias, score.bias.shape, s.dtype, !score.bias.empty());
  check_asked("the gradient of alibi_slopes", to.alibi_slopes, heads, s.dtype,
              score.alibi_slopes.has_value());
  check_asked("the gradient of t5", to.t5, {1, 1, score.t5 ? score.t5->buckets : 0, s.q_heads},
              s.dtype, score.t5.has_value());
  check_asked("the gradient of sinks", to.sinks, heads, s.dtype, !score.sinks.empty());
}

void check_results(const AttentionShape& shape, const AttentionResults& results,
                   const OutputGradients& from) {
  const AttentionShape s = checked_shape(shape);
  const Shape row = {s.batch, s.q_heads, s.q_len, 1};
  check_given("out", results.out, {s.batch, s.q_heads, s.q_len, s.v_width}, s.dtype);
  check_given("lse", results.lse, row, s.dtype);
  if (!from.entropy.empty()) check_given("entropy", results.entropy, row, s.dtype);
}

}  // namespace attn
