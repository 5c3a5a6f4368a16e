// Oracles of the mechanisms with a state: plain, in double precision, written to be read.
#pragma once

#include "attn/linear_attention.h"
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

}  // namespace attn::reference
