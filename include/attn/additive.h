// Additive attention (Bahdanau, Cho, Bengio, arXiv 1409.0473, A.1.2):
//
//   score(s, h) = v_a . tanh(W_a s + U_a h)
//
// softmax over the keys h that the query s sees, and the mean of their values by these weights.
//
//   attn::project(h, u, {}, keys);                       // U_a h, once for a source
//   const attn::AdditiveKeys kept(keys_view, context);   // once, too
//   for (each step) {
//     attn::project(s, w, b, queries);                   // W_a s + b
//     attn::additive(queries_view, kept, values, v_a, out, {.mask = padding}, context);
//   }
//
// Queries and keys come projected, a bias in either. This is a score of exact attention, so masks,
// positions, bias, ALiBi, sinks, dropout and everything in Observed (log-sum-exp, weights of chosen
// queries, ...) are those of attn/attention.h, and so is what it promises: rows that see nothing,
// NaN behind a mask, bits that depend neither on threads nor on how many queries come at once.
// No Lq x Lk (x D) array is made. Not taken: a scale, a soft cap or a custom score (the score has
// none), ragged batches (use padding). Tensors are float32, or float64 throughout.
//
// A pair costs D quarter divisions and some multiply-adds: tanh(q + k) = 1 - 2 / (1 + e^2q e^2k),
// exponentials once a query and once a key. Its error is that of a number of size 1, whatever q +
// k.
//
// All functions throw std::invalid_argument: "[additive] q has width 64, k has 32".
#pragma once

#include <memory>

#include "attn/attention.h"
#include "attn/context.h"
#include "attn/gradient.h"
#include "attn/observe.h"
#include "attn/tensor.h"

namespace attn {

struct AdditiveInputs {
  ConstTensor q;    // [B, H, Lq, D] W_a s
  ConstTensor k;    // [B, H, Lk, D] U_a h
  ConstTensor v;    // [B, H, Lk, Dv] values, often h itself
  ConstTensor v_a;  // [1, 1 or H, 1, D]
};

// Where gradients go; empty: not computed. Shapes are those of what they belong to.
struct AdditiveGradients {
  Tensor q = {}, k = {}, v = {}, v_a = {};
};

// Projected keys, prepared for every query to come (their exponentials, as much memory as the keys
// themselves). Immutable, copies share it. Refers to k, which must live as long and not change.
// Serves contexts of the instruction set of the one that it was made with.
class AdditiveKeys {
 public:
  explicit AdditiveKeys(const ConstTensor& k, const Context& context = Context());

  const ConstTensor& k() const;

  struct Impl;  // for the library's own rooms
  const Impl& impl() const { return *impl_; }

 private:
  std::shared_ptr<const Impl> impl_;
};

// out [B, H, Lq, Dv].
void additive(const ConstTensor& q, const AdditiveKeys& keys, const ConstTensor& v,
              const ConstTensor& v_a, const Tensor& out, const AttentionOptions& options = {},
              const Context& context = Context(), const Observed& observed = {});
// The same with keys that are used once; needs as much memory as they have meanwhile.
void additive(const AdditiveInputs& inputs, const Tensor& out, const AttentionOptions& options = {},
              const Context& context = Context(), const Observed& observed = {});

// Gradients, recomputed tile by tile from the log-sum-exp, in memory O(L D). `results` are what the
// forward run returned, `from` what flows into them. The same bits for any thread count.
void additive_backward(const AdditiveInputs& inputs, const AttentionResults& results,
                       const OutputGradients& from, const AdditiveGradients& to,
                       const AttentionOptions& options = {}, const Context& context = Context());

// y [B, H, L, O] = w x + b of each row of x [B, H, L, I]; w [1, 1 or H, O, I], its rows any stride
// apart; b [1, 1 or H, 1, O] or empty. For who has no library of dense products at hand: threads
// and vectors, but no blocking.
void project(const ConstTensor& x, const ConstTensor& w, const ConstTensor& b, const Tensor& y,
             const Context& context = Context());

// Its gradients from dL/dy; w and b are summed over batch and length (and heads that share them).
struct ProjectGradients {
  Tensor x = {}, w = {}, b = {};
};
void project_backward(const ConstTensor& x, const ConstTensor& w, const ConstTensor& d_y,
                      const ProjectGradients& to, const Context& context = Context());

}  // namespace attn
