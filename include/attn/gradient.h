// Gradients of exact attention, recomputed tile by tile from the log-sum-exp: O(L) memory, for
// every mask and score.
//
//   plan.run(q, k, v, out, {.lse = lse});
//   plan.backward({q, k, v}, {.out = out, .lse = lse}, {.out = d_out},
//                 {.q = dq, .k = dk, .v = dv});
//
// The same bits for any thread count and batch; for query chunks too when they run in ascending
// order with `accumulate`. What a row may not see reaches no gradient; rows that see nothing have
// gradients 0. Tensors are float32, or float64 throughout. Where gradients go must not overlap
// anything that is read, nor each other.
#pragma once

#include "attn/tensor.h"

namespace attn {

struct AttentionInputs {
  ConstTensor q, k, v;
};

// What the forward run returned.
struct AttentionResults {
  ConstTensor out, lse;
  ConstTensor entropy = {};  // needed when a gradient flows into the entropy
};

// Gradients of the loss with respect to what the forward run returned; empty: none.
struct OutputGradients {
  ConstTensor out;           // [B, Hq, Lq, Dv]
  ConstTensor lse = {};      // [B, Hq, Lq, 1]
  ConstTensor entropy = {};  // [B, Hq, Lq, 1]
};

// Where gradients go; empty: not computed. Shapes are those of what they belong to; a gradient of
// something that was broadcast is summed over it.
struct InputGradients {
  Tensor q = {}, k = {}, v = {};
  Tensor bias = {};          // as Score::bias
  Tensor alibi_slopes = {};  // [1, 1, 1, Hq]
  Tensor t5 = {};            // [1, 1, buckets, Hq]
  Tensor sinks = {};         // [1, 1, 1, Hq]
  bool accumulate = false;   // add to what is there
};

}  // namespace attn
