// Linear attention by random features (FAVOR+): blocks of tokens become features, and the
// recurrence runs over those.
#pragma once

#include "attn/linear_attention.h"

namespace attn {

// As linear_attention() and linear_attention_backward(), of checked arguments.
void favor_attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                     const Tensor& out, const LinearAttentionOptions& options,
                     const LinearState& state, const Context& context);
void favor_attention_backward(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                              const ConstTensor& d_out, const Tensor& d_q, const Tensor& d_k,
                              const Tensor& d_v, const LinearAttentionOptions& options,
                              const Context& context);

}  // namespace attn
