// Validation of additive attention's arguments, shared by the oracle and the fast path. All throw
// std::invalid_argument.
#pragma once

#include "attn/additive.h"

namespace attn {

// Do tensors and options go together? `out` has values for q's rows and lies apart from the inputs.
void check_additive(const AdditiveInputs& inputs, const AttentionOptions& options);
void check_additive_output(const AdditiveInputs& inputs, const Tensor& out);
void check_additive_gradients(const AdditiveInputs& inputs, const OutputGradients& from,
                              const AdditiveGradients& to);

}  // namespace attn
