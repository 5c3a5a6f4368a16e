#include "base/check_additive.h"

#include <string>
#include <tuple>
#include <utility>

#include "base/checker.h"

namespace attn {

namespace {

constexpr Checker kCheck("additive");

void check_options(const AttentionOptions& options) {
  const Score& score = options.score;
  if (score.scale) kCheck.fail("a scale of " + text(*score.scale) + " is given: there is none");
  if (score.soft_cap != 0) {
    kCheck.fail("a soft cap of " + text(score.soft_cap) + " is given: there is none");
  }
  if (score.custom) kCheck.fail("a custom score is given: the score is additive");
  if (!options.ragged.q_offsets.empty()) kCheck.fail("ragged batches are not taken: use padding");
}

}  // namespace

void check_additive(const AdditiveInputs& in, const AttentionOptions& options) {
  for (const auto& [what, x] : {std::pair("k", &in.k), std::pair("q", &in.q), std::pair("v", &in.v),
                                std::pair("v_a", &in.v_a)}) {
    kCheck.view(what, *x);
    if (x->dtype != DType::f32 && x->dtype != DType::f64) {
      kCheck.fail(std::string(what) + " is " + name(x->dtype) + ", must be float32 or float64");
    }
    kCheck.dtype(what, *x, in.k.dtype);
  }
  kCheck.same("q", in.q.batch(), "k", in.k.batch(), "batch");
  kCheck.same("q", in.q.heads(), "k", in.k.heads(), "heads");
  kCheck.same("q", in.q.width(), "k", in.k.width(), "width");
  if (in.k.width() < 1) kCheck.fail("k has width 0");
  kCheck.same("v", in.v.batch(), "k", in.k.batch(), "batch");
  kCheck.same("v", in.v.heads(), "k", in.k.heads(), "heads");
  kCheck.same("v", in.v.length(), "k", in.k.length(), "length");
  kCheck.shape("v_a", in.v_a, {1, in.v_a.heads() == 1 ? 1 : in.q.heads(), 1, in.q.width()});
  check_options(options);
}

void check_additive_output(const AdditiveInputs& in, const Tensor& out) {
  kCheck.shape("out", out, {in.q.batch(), in.q.heads(), in.q.length(), in.v.width()});
  kCheck.dtype("out", out, in.q.dtype);
  kCheck.view("out", out);
  kCheck.rows_apart("out", out);
  for (const auto& [what, x] : {std::pair("q", &in.q), std::pair("k", &in.k), std::pair("v", &in.v),
                                std::pair("v_a", &in.v_a)}) {
    kCheck.apart("out", out, what, *x);
  }
}

void check_additive_gradients(const AdditiveInputs& in, const OutputGradients& from,
                              const AdditiveGradients& to) {
  for (const auto& [what, x, of] : {std::tuple("the gradient of q", &to.q, &in.q),
                                    std::tuple("the gradient of k", &to.k, &in.k),
                                    std::tuple("the gradient of v", &to.v, &in.v),
                                    std::tuple("the gradient of v_a", &to.v_a, &in.v_a)}) {
    kCheck.output(what, *x, of->shape, of->dtype);
    for (const auto& [read, other] :
         {std::pair("q", &in.q), std::pair("k", &in.k), std::pair("v", &in.v),
          std::pair("v_a", &in.v_a), std::pair("the gradient of out", &from.out)}) {
      kCheck.apart(what, *x, read, *other);
    }
  }
}

}  // namespace attn
