// Validation of multiplicative attention's arguments, shared by the oracle and the fast path. All
// throw std::invalid_argument.
#pragma once

#include "attn/luong.h"

namespace attn {

void check_luong(const AttentionInputs& inputs, const LuongWeights& weights,
                 const AttentionOptions& options);

void check_luong_local(const AttentionInputs& inputs, const LuongLocal& local);
void check_luong_local_output(const AttentionInputs& inputs, const Tensor& out,
                              const LuongLocalObserved& observed);
void check_luong_local_gradients(const AttentionInputs& inputs, const LuongLocal& local,
                                 const ConstTensor& d_out, const LuongLocalGradients& to);

}  // namespace attn
