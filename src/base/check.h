// Validation of attention arguments, shared by the oracle and the fast path so that both refuse the
// same mistakes with the same words. All throw std::invalid_argument. AttentionShape::of lives here
// too.
#pragma once

#include "attn/attention.h"

namespace attn {

constexpr std::int64_t kMaxWidth = 1024;

// The shape with v_width filled in, after checking every field.
AttentionShape checked_shape(const AttentionShape& shape);

// Checks the shape, then everything in the options that needs no mask: score parameters and the
// sizes of lists. Masks check themselves against the geometry.
void check_options(const AttentionShape& shape, const AttentionOptions& options);

// Do these tensors have the planned shape?
void check_inputs(const AttentionShape& planned, const ConstTensor& q, const ConstTensor& k,
                  const ConstTensor& v);

// Is `out` [B, Hq, Lq, Dv] and lse (when there is one) [B, Hq, Lq, 1], of the inputs' type, with
// rows that do not overlap?
void check_output(const AttentionShape& shape, const Tensor& out, const Observed& observed);

}  // namespace attn
