// Multiplicative attention: exact attention with scale 1 over projected keys, or additive attention
// over both projected.
#include "attn/luong.h"

#include <string>
#include <utility>

#include "attn/additive.h"
#include "base/check_luong.h"
#include "base/checker.h"
#include "recurrent/owned.h"

namespace attn {

namespace {

constexpr Checker kCheck("luong");

enum class Form : std::uint8_t { dot, general, concat };

Form form_of(const LuongWeights& weights) {
  if (!weights.v_a.empty()) return Form::concat;
  return weights.w.empty() ? Form::dot : Form::general;
}

AttentionOptions unscaled(AttentionOptions options) {
  options.score.scale = 1;
  return options;
}

// Some columns of a matrix.
template <class Void>
BasicTensor<Void> columns(BasicTensor<Void> x, std::int64_t first, std::int64_t count) {
  if (x.empty()) return x;
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  x.data = static_cast<Byte*>(x.data) + first * static_cast<std::int64_t>(size_of(x.dtype));
  x.shape[3] = count;
  return x;
}

// The two halves of concat's W_a [W_q W_k].
template <class Void>
std::pair<BasicTensor<Void>, BasicTensor<Void>> halves(const BasicTensor<Void>& w,
                                                       const AttentionInputs& in) {
  return {columns(w, 0, in.q.width()), columns(w, in.q.width(), in.k.width())};
}

Owned projected(const ConstTensor& x, const ConstTensor& w, const Context& context) {
  Owned y(x.dtype, {x.batch(), x.heads(), x.length(), w.length()});
  project(x, w, {}, y.view, context);
  return y;
}

}  // namespace

void luong(const AttentionInputs& in, const LuongWeights& weights, const Tensor& out,
           const AttentionOptions& options, const Context& context, const Observed& observed) {
  check_luong(in, weights, options);
  switch (form_of(weights)) {
    case Form::dot: attention(in.q, in.k, in.v, out, unscaled(options), context, observed); return;
    case Form::general:
      attention(in.q, projected(in.k, weights.w, context).view, in.v, out, unscaled(options),
                context, observed);
      return;
    case Form::concat: {
      const auto [w_q, w_k] = halves(weights.w, in);
      const Owned q = projected(in.q, w_q, context), k = projected(in.k, w_k, context);
      additive({q.view, k.view, in.v, weights.v_a}, out, options, context, observed);
    }
  }
}

void luong_backward(const AttentionInputs& in, const LuongWeights& weights,
                    const AttentionResults& results, const OutputGradients& from,
                    const LuongGradients& to, const AttentionOptions& options,
                    const Context& context) {
  check_luong(in, weights, options);
  const Form form = form_of(weights);
  if (!to.w.empty() && form == Form::dot) kCheck.fail("the gradient of w is asked without w");
  if (!to.v_a.empty() && form != Form::concat)
    kCheck.fail("the gradient of v_a is asked without v_a");
  switch (form) {
    case Form::dot:
      plan(AttentionShape::of(in.q, in.k, in.v), unscaled(options), context)
          .backward(in, results, from, {.q = to.q, .k = to.k, .v = to.v});
      return;
    case Form::general: {
      const Owned k = projected(in.k, weights.w, context), dk(in.k.dtype, k.view.shape);
      plan(AttentionShape::of(in.q, k.view, in.v), unscaled(options), context)
          .backward({in.q, k.view, in.v}, results, from, {.q = to.q, .k = dk.view, .v = to.v});
      project_backward(in.k, weights.w, dk.view, {.x = to.k, .w = to.w}, context);
      return;
    }
    case Form::concat: {
      const auto [w_q, w_k] = halves(weights.w, in);
      const auto [dw_q, dw_k] = halves(to.w, in);
      const Owned q = projected(in.q, w_q, context), k = projected(in.k, w_k, context);
      const Owned dq(in.q.dtype, q.view.shape), dk(in.k.dtype, k.view.shape);
      additive_backward({q.view, k.view, in.v, weights.v_a}, results, from,
                        {dq.view, dk.view, to.v, to.v_a}, options, context);
      project_backward(in.q, w_q, dq.view, {.x = to.q, .w = dw_q}, context);
      project_backward(in.k, w_k, dk.view, {.x = to.k, .w = dw_k}, context);
    }
  }
}

}  // namespace attn
