// Validation of the arguments of recurrences with a matrix state and of linear attention, shared by
// the oracle and the fast path.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/linear_attention.h"
#include "attn/mamba2.h"
#include "attn/recurrent.h"
#include "base/checker.h"

namespace attn {

// Throws std::invalid_argument in the name of `check`.
void check_recurrent(const RecurrentInputs& inputs, const RecurrentOptions& options,
                     const Checker& check);

// Batch entries, or sequences one after the other.
std::int64_t sequence_count(std::int64_t batch, const std::vector<std::int64_t>& offsets);

// [sequences, H, Dk, Dv], with the sum of keys a column more.
Shape state_shape(const RecurrentInputs& inputs, const RecurrentOptions& options);

void check_linear_attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                            const LinearAttentionOptions& options, const Checker& check);

// What recurrent() does not check.
void check_mamba2(const Mamba2Inputs& inputs, const Mamba2Options& options, const Checker& check);

}  // namespace attn
