// Multiplicative attention (Luong, Pham, Manning, arXiv 1508.04025, 3.1): of a decoder's state h
// over a source's states s,
//
//   dot      h . s
//   general  h . (W_a s)
//   concat   v_a . tanh(W_a [h; s])
//
// without a scale, softmax over the keys that the query sees. Dot and general are exact attention
// (attn/attention.h) with scale 1, over keys projected by W_a; concat is additive attention
// (attn/additive.h), W_a cut in two. A decoder projects its source once (attn::project) and calls
// these two itself; the functions here do it all at each call.
//
// Local attention (local-p) looks only at a window around a place that it predicts:
//
//   p = S sigmoid(v_p . tanh(W_p h)),   weight(s) = softmax over |s - p| <= D,
//   times exp(-(s - p)^2 / (2 sigma^2)), sigma = D / 2; S is the source's length, s counts from 0.
//
// As in the paper the softmax comes first, and its product with the bell is not normalised again.
//
// Tensors are float32, or float64 throughout. All functions throw std::invalid_argument.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/attention.h"
#include "attn/context.h"
#include "attn/gradient.h"
#include "attn/observe.h"
#include "attn/tensor.h"

namespace attn {

// What is given says which score it is: nothing dot, w general, both concat.
struct LuongWeights {
  ConstTensor w = {};    // general: [1, 1 or H, Dq, Dk]; concat: [1, 1 or H, D, Dq + Dk]
  ConstTensor v_a = {};  // concat: [1, 1 or H, 1, D]
};

// q [B, H, Lq, Dq], k [B, H, Lk, Dk], v [B, H, Lk, Dv], out [B, H, Lq, Dv]. Options and Observed as
// for exact attention, without a scale, soft cap, custom score and ragged batches.
void luong(const AttentionInputs& inputs, const LuongWeights& weights, const Tensor& out,
           const AttentionOptions& options = {}, const Context& context = Context(),
           const Observed& observed = {});

// Where gradients go; empty: not computed. Shapes are those of what they belong to.
struct LuongGradients {
  Tensor q = {}, k = {}, v = {}, w = {}, v_a = {};
};
void luong_backward(const AttentionInputs& inputs, const LuongWeights& weights,
                    const AttentionResults& results, const OutputGradients& from,
                    const LuongGradients& to, const AttentionOptions& options = {},
                    const Context& context = Context());

struct LuongLocal {
  ConstTensor w_p = {};  // [1, 1 or H, P, Dq]
  ConstTensor v_p = {};  // [1, 1 or H, 1, P]
  double window = 10;    // D, above 0
  // S of each batch entry: keys from there on are hidden. Empty: Lk.
  std::vector<std::int64_t> lengths = {};
  ConstTensor w = {};  // [1, 1 or H, Dq, Dk]: the score is general; empty: dot
};

// What luong_local also returns; empty: not asked.
struct LuongLocalObserved {
  Tensor positions = {};  // [B, H, Lq, 1] p
  Tensor weights = {};    // [B, H, Lq, Lk] what multiplies the values, bell included
};

// A small loop, as windows are: rows cost O(D (Dk + Dv)), whatever Lk.
void luong_local(const AttentionInputs& inputs, const LuongLocal& local, const Tensor& out,
                 const Context& context = Context(), const LuongLocalObserved& observed = {});

struct LuongLocalGradients {
  Tensor q = {}, k = {}, v = {}, w = {}, w_p = {}, v_p = {};
};
// The forward pass is computed again, row by row. Where a window's bounds pass a key the output
// jumps; the gradient is that between jumps.
void luong_local_backward(const AttentionInputs& inputs, const LuongLocal& local,
                          const ConstTensor& d_out, const LuongLocalGradients& to,
                          const Context& context = Context());

}  // namespace attn
