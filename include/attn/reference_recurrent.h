// Oracles of attn::recurrent's mechanisms: plain, in double precision, written to be read.
#pragma once

#include "attn/additive.h"
#include "attn/linear_attention.h"
#include "attn/luong.h"
#include "attn/mamba2.h"
#include "attn/recurrent.h"

namespace attn::reference {

// Same arguments as attn::recurrent, a token at a time.
void recurrent(const RecurrentInputs& inputs, const Tensor& out, const Tensor& state = {},
               const RecurrentOptions& options = {});

// Same arguments as attn::linear_attention, every pair of a query and a key: no state.
void linear_attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                      const Tensor& out, const LinearAttentionOptions& options = {});

// Same arguments as attn::mamba2, a token at a time.
void mamba2(const Mamba2Inputs& inputs, const Tensor& y, const Tensor& state = {},
            const Mamba2Options& options = {});

// Additive attention, arguments as in attn/additive.h: the attention above with the score
// v_a . tanh(q + k), one pair at a time.
void additive(const AdditiveInputs& inputs, const Tensor& out, const AttentionOptions& options = {},
              const Observed& observed = {});
void additive_backward(const AdditiveInputs& inputs, const OutputGradients& from,
                       const AdditiveGradients& to, const AttentionOptions& options = {});

// Multiplicative attention, arguments as in attn/luong.h; scores as the paper writes them, W_a
// between a query and a key.
void luong(const AttentionInputs& inputs, const LuongWeights& weights, const Tensor& out,
           const AttentionOptions& options = {}, const Observed& observed = {});
void luong_local(const AttentionInputs& inputs, const LuongLocal& local, const Tensor& out,
                 const LuongLocalObserved& observed = {});

}  // namespace attn::reference
