// Validation of attention arguments, shared by the oracle and the fast path so that both refuse the
// same mistakes with the same words. All throw std::invalid_argument. AttentionShape::of lives here
// too.
#pragma once

#include "attn/attention.h"

namespace attn {

constexpr std::int64_t kMaxWidth = 1024;

// What is computed in: float64 for float64 queries, else float32. Bias, log-sum-exp and all that is
// observed have this type.
DType arithmetic_type(DType queries);

// Entries of the batch, or sequences of a ragged one.
std::int64_t sequence_count(const AttentionShape& shape, const AttentionOptions& options);

// The shape with v_width and kv_dtype filled in, after checking every field.
AttentionShape checked_shape(const AttentionShape& shape);

// Checks the shape, then everything in the options that needs no mask: score parameters and the
// sizes of lists. Masks check themselves against the geometry.
void check_options(const AttentionShape& shape, const AttentionOptions& options);

// Are these the planned queries, keys and values, with the scales that int8 needs, and pages that
// lie in their pool?
void check_inputs(const AttentionShape& planned, const AttentionOptions& options,
                  const ConstTensor& q, const KeyValue& kv);

// Is `out` [B, Hq, Lq, Dv] of a type that goes with the queries', with rows that do not overlap?
void check_output(const AttentionShape& shape, const Tensor& out);

// Does `out` leave alone what is read?
void check_apart(const Tensor& out, const ConstTensor& q, const KeyValue& kv);

// Has each question a place for its answer, of the right type and shape?
void check_observed(const AttentionShape& shape, const Observed& observed);

// Do the arguments of backward fit the plan and each other, and can it do what they ask?
void check_backward(const AttentionShape& shape, const AttentionOptions& options,
                    const AttentionInputs& inputs, const OutputGradients& from,
                    const InputGradients& to);
// Are they there, if the gradients need them?
void check_results(const AttentionShape& shape, const AttentionResults& results,
                   const OutputGradients& from);

}  // namespace attn
