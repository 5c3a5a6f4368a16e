#include "base/check_luong.h"

#include <cmath>
#include <string>
#include <tuple>
#include <utility>

#include "base/checker.h"

namespace attn {

namespace {

constexpr Checker kGlobal("luong");
constexpr Checker kCheck("luong_local");

}  // namespace

void check_luong(const AttentionInputs& in, const LuongWeights& weights,
                 const AttentionOptions& options) {
  if (options.score.scale) {
    kGlobal.fail("a scale of " + text(*options.score.scale) + " is given: there is none");
  }
  for (const auto& [what, x] :
       {std::pair("q", &in.q), std::pair("k", &in.k), std::pair("v", &in.v)}) {
    kGlobal.view(what, *x);
    if (x->dtype != DType::f32 && x->dtype != DType::f64) {
      kGlobal.fail(std::string(what) + " is " + name(x->dtype) + ", must be float32 or float64");
    }
    kGlobal.dtype(what, *x, in.q.dtype);
  }
  const ConstTensor& w = weights.w;
  if (w.empty()) {
    if (!weights.v_a.empty()) kGlobal.fail("v_a is given without w");
    return;
  }
  kGlobal.view("w", w);
  kGlobal.dtype("w", w, in.q.dtype);
  const std::int64_t heads = w.heads() == 1 ? 1 : in.k.heads();
  if (weights.v_a.empty())
    kGlobal.shape("w", w, {1, heads, in.q.width(), in.k.width()});
  else
    kGlobal.shape("w", w, {1, heads, w.length(), in.q.width() + in.k.width()});
}

void check_luong_local(const AttentionInputs& in, const LuongLocal& local) {
  for (const auto& [what, x] :
       {std::pair("q", &in.q), std::pair("k", &in.k), std::pair("v", &in.v),
        std::pair("w_p", &local.w_p), std::pair("v_p", &local.v_p), std::pair("w", &local.w)}) {
    if (x == &local.w && x->empty()) continue;
    kCheck.view(what, *x);
    if (x->dtype != DType::f32 && x->dtype != DType::f64) {
      kCheck.fail(std::string(what) + " is " + name(x->dtype) + ", must be float32 or float64");
    }
    kCheck.dtype(what, *x, in.q.dtype);
  }
  kCheck.same("k", in.k.batch(), "q", in.q.batch(), "batch");
  kCheck.same("k", in.k.heads(), "q", in.q.heads(), "heads");
  kCheck.same("v", in.v.batch(), "k", in.k.batch(), "batch");
  kCheck.same("v", in.v.heads(), "k", in.k.heads(), "heads");
  kCheck.same("v", in.v.length(), "k", in.k.length(), "length");
  const auto heads = [&](const ConstTensor& x) { return x.heads() == 1 ? 1 : in.q.heads(); };
  if (local.w.empty())
    kCheck.same("k", in.k.width(), "q", in.q.width(), "width");
  else
    kCheck.shape("w", local.w, {1, heads(local.w), in.q.width(), in.k.width()});
  kCheck.shape("w_p", local.w_p, {1, heads(local.w_p), local.w_p.length(), in.q.width()});
  kCheck.shape("v_p", local.v_p, {1, heads(local.v_p), 1, local.w_p.length()});
  if (!(local.window > 0) || !std::isfinite(local.window)) {
    kCheck.fail("window is " + text(local.window) + ", must be above 0");
  }
  if (local.lengths.empty()) return;
  kCheck.same("lengths", static_cast<std::int64_t>(local.lengths.size()), "the batch", in.q.batch(),
              "entries");
  for (const std::int64_t n : local.lengths) {
    if (n < 0 || n > in.k.length())
      kCheck.fail("a length is " + text(n) + ", must be 0 to " + text(in.k.length()));
  }
}

void check_luong_local_output(const AttentionInputs& in, const Tensor& out,
                              const LuongLocalObserved& observed) {
  const auto [b, h, l, d] = in.q.shape;
  kCheck.shape("out", out, {b, h, l, in.v.width()});
  kCheck.dtype("out", out, in.q.dtype);
  kCheck.view("out", out);
  kCheck.rows_apart("out", out);
  kCheck.apart("out", out, "q", in.q);
  kCheck.apart("out", out, "k", in.k);
  kCheck.apart("out", out, "v", in.v);
  kCheck.output("positions", observed.positions, {b, h, l, 1}, in.q.dtype);
  kCheck.output("weights", observed.weights, {b, h, l, in.k.length()}, in.q.dtype);
}

void check_luong_local_gradients(const AttentionInputs& in, const LuongLocal& local,
                                 const ConstTensor& d_out, const LuongLocalGradients& to) {
  kCheck.shape("the gradient of out", d_out,
               {in.q.batch(), in.q.heads(), in.q.length(), in.v.width()});
  kCheck.dtype("the gradient of out", d_out, in.q.dtype);
  kCheck.view("the gradient of out", d_out);
  if (!to.w.empty() && local.w.empty()) kCheck.fail("the gradient of w is asked without w");
  for (const auto& [what, x, of] : {std::tuple("the gradient of q", &to.q, &in.q),
                                    std::tuple("the gradient of k", &to.k, &in.k),
                                    std::tuple("the gradient of v", &to.v, &in.v),
                                    std::tuple("the gradient of w", &to.w, &local.w),
                                    std::tuple("the gradient of w_p", &to.w_p, &local.w_p),
                                    std::tuple("the gradient of v_p", &to.v_p, &local.v_p)}) {
    kCheck.output(what, *x, of->shape, of->dtype);
    for (const auto& [read, other] :
         {std::pair("q", &in.q), std::pair("k", &in.k), std::pair("v", &in.v),
          std::pair("the gradient of out", &d_out)})
      kCheck.apart(what, *x, read, *other);
  }
}

}  // namespace attn
