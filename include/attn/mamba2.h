// Mamba-2's state space (SSD; Dao and Gu 2024, arXiv 2405.21060): the recurrence of recurrent.h
// with one decay a token and head, written in the terms of state-space models.
//
//   dt_t = clamp(softplus(dt_t + dt_bias), dt_min, dt_max)
//   S_t = exp(dt_t a) S_{t-1} + dt_t b_t x_tᵀ       y_t = c_tᵀ S_t + d x_t
//
// States of two parts that were run apart: merge_states() of recurrent.h, whose log_decay
// [B, H, 1, 1] is the sum of dt_t a over the second part, dt_t after softplus and clamp.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "attn/context.h"
#include "attn/tensor.h"

namespace attn {

struct Mamba2Inputs {
  ConstTensor x;             // [B, H, L, P]
  ConstTensor dt;            // [B, H, L, 1], before softplus
  ConstTensor a;             // [1, H, 1, 1], below 0: -exp(A_log)
  ConstTensor b, c;          // [B, G, L, N]; H a multiple of G: consecutive heads share a group
  ConstTensor d = {};        // [1, H, 1, 1]. Empty: 0
  ConstTensor dt_bias = {};  // [1, H, 1, 1]. Empty: 0
  ConstTensor state = {};    // [B, H, N, P], before the first token. Empty: 0
};

struct Mamba2Options {
  bool softplus = true;
  double dt_min = 0, dt_max = std::numeric_limits<double>::infinity();
  // Sequences one after the other, as RecurrentOptions::offsets.
  std::vector<std::int64_t> offsets = {};
};

// y [B, H, L, P]; `state` [B, H, N, P] after the last token, which may be the memory of
// inputs.state (empty: not wanted). float32, or float64 throughout. Memory beyond these does not
// grow with the length. Throws std::invalid_argument when shapes or types do not fit, or outputs
// overlap inputs otherwise.
void mamba2(const Mamba2Inputs& inputs, const Tensor& y, const Tensor& state = {},
            const Mamba2Options& options = {}, const Context& context = Context());

// Where gradients go; empty: not computed.
struct Mamba2Gradients {
  Tensor x = {}, dt = {}, a = {}, b = {}, c = {}, d = {}, dt_bias = {}, state = {};
};

// Gradients of a loss, given those with respect to y and the last state (empty: none). Kept
// meanwhile: four numbers a token and head, and what recurrent_backward() keeps.
void mamba2_backward(const Mamba2Inputs& inputs, const ConstTensor& d_y, const ConstTensor& d_state,
                     const Mamba2Gradients& to, const Mamba2Options& options = {},
                     const Context& context = Context());

}  // namespace attn
