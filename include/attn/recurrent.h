// Attention with a state instead of keys: one recurrence with different gates.
//
//   S_t = diag(w_t) S_{t-1} + beta_t k_t v_tᵀ      y_t = q_tᵀ S_t
//
// A head's state S is [Dk][Dv] however long the sequence is. What decays it makes the mechanism:
// nothing is linear attention (arXiv 2006.16236), a number a head RetNet (2307.08621),
// a number a token Mamba-2 (2405.21060), a number a channel RWKV-5 (2404.05892),
// a number a channel and token GLA (2312.06635) and RWKV-6 (2404.05892).
//
// With a `bonus` u, RWKV's reading: y_t = q_tᵀ (S_{t-1} + diag(u) k_t v_tᵀ), before the decay.
// With the delta rule (DeltaNet 2406.06484, gated 2412.06464) a token corrects what the state holds
// for its key: beta_t k_t (v_t - k_tᵀ diag(w_t) S_{t-1})ᵀ is written.
// With a rank-one term the state goes through diag(w_t) + a_t b_tᵀ: RWKV-7 (2503.14456) with
// b = kappa^ and a = -(kappa^ o its a).
//
//   attn::recurrent({.q = q, .k = k, .v = v, .log_decay = w}, out);   // a text
//   attn::recurrent({.q = q, .k = k, .v = v, .state = s}, out, s);    // then a token
//
// A sequence runs in chunks of at most 64 tokens, as products of matrices; a token as one pass over
// the state. Decays are logarithms, and a chunk ends early where their sum would leave what floats
// hold, so that nothing overflows at any length. What a token holds (NaN too) changes no earlier
// output by more than rounding (a chunk may end before it). The same bits for any thread count and
// in a batch or alone; a sequence in two calls agrees with one to rounding, for chunks begin anew.
// float32, or float64 throughout.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/context.h"
#include "attn/tensor.h"

namespace attn {

// What a token writes for its key.
enum class StateRule : std::uint8_t {
  add,   // its value
  delta  // its value less what the state, decayed, holds for the key; |k| = 1 keeps it bounded
};

struct RecurrentInputs {
  // [B, Hq, L, Dk], each read by H / Hq consecutive heads (the groups of Mamba-2: C and B). Widths
  // 1...1024.
  ConstTensor q, k;
  ConstTensor v;  // [B, H, L, Dv]
  // Natural logarithms, 0 or less, of w: [B, H, L, Dk], any dimension may be 1 and then counts for
  // all. -infinity forgets everything. Empty: no decay.
  ConstTensor log_decay = {};
  ConstTensor beta = {};   // [B, H, L, 1], any of B, H, L may be 1. Empty: 1.
  ConstTensor bonus = {};  // [1, H, 1, Dk]. Empty: y reads the state after its token.
  // As q: a_t b_tᵀ S_{t-1} is added to the decayed state. Both or none; with StateRule::add,
  // without bonus and normalisation.
  ConstTensor a = {}, b = {};
  // Before the first token: [B, H, Dk, Dv], with `normalise` [B, H, Dk, Dv + 1]. Empty: 0.
  ConstTensor state = {};
};

struct RecurrentOptions {
  StateRule rule = StateRule::add;
  // y_t / (q_tᵀ z_t + epsilon) where z decays as S and sums beta_t k_t: the last column of the
  // state; 0 where that sum is 0. For keys and queries that are not negative, as feature maps make
  // them.
  bool normalise = false;
  double epsilon = 0;
  // Sequences one after the other along the length, with batch 1: sequence s has tokens
  // [offsets[s], offsets[s + 1]), and the states are [sequences, H, Dk, Dv]. Empty: a batch.
  std::vector<std::int64_t> offsets = {};
};

// Runs the recurrence: out [B, H, L, Dv], and the states after the last token to `state` unless it
// is empty, which may be the memory of `inputs.state`. Throws std::invalid_argument when shapes or
// types do not fit, or outputs overlap inputs otherwise.
void recurrent(const RecurrentInputs& inputs, const Tensor& out, const Tensor& state = {},
               const RecurrentOptions& options = {}, const Context& context = Context());

// The state of a sequence in two parts, from those of the parts, for sequences that are spread over
// machines: `state` = diag(w) first + second, where `second` was run from nothing and w is the
// product of its decays; log_decay [B, H, 1, Dk] holds their sum, any dimension may be 1. `state`
// may be the memory of either. Of StateRule::add without a and b, so also of Mamba-2: log_decay
// [B, H, 1, 1] is then the sum of dt_t a. Throws std::invalid_argument when shapes or types do not
// fit.
void merge_states(const ConstTensor& first, const ConstTensor& second, const ConstTensor& log_decay,
                  const Tensor& state);
// The same of StateRule::delta, or with a and b (RWKV-7): `state` = transition first + second. The
// transition [B, H, Dk, Dk] of the second part is the state that it makes of the identity when all
// its values, then [B, H, L, Dk], are 0. `state` may be the memory of `second`.
void merge_delta_states(const ConstTensor& first, const ConstTensor& second,
                        const ConstTensor& transition, const Tensor& state);

// Where gradients go; empty: not computed. Shapes are those of what they belong to; the gradient of
// something that counts for several is summed over them.
struct RecurrentGradients {
  Tensor q = {}, k = {}, v = {}, log_decay = {}, beta = {}, bonus = {}, a = {}, b = {}, state = {};
};

// Gradients of a loss, given those with respect to `out` and to the last states (empty: none). What
// the forward run computed is computed again; states at every 64th token are kept meanwhile, of one
// head a thread. A log_decay of -infinity has gradient 0. The same bits for any thread count.
void recurrent_backward(const RecurrentInputs& inputs, const ConstTensor& d_out,
                        const ConstTensor& d_state, const RecurrentGradients& to,
                        const RecurrentOptions& options = {}, const Context& context = Context());

}  // namespace attn
