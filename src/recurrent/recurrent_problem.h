// The arguments of recurrent() and recurrent_backward() as the kernels take them, and their work.
#pragma once

#include <vector>

#include "attn/recurrent.h"
#include "kernels/recurrent.h"

namespace attn {

struct RecurrentProblem {
  kernels::RecurrentParams params;                // without outputs
  std::vector<kernels::RecurrentUnit> sequences;  // of head 0, all columns
};

// Of checked arguments.
RecurrentProblem recurrent_problem(const RecurrentInputs& inputs, const RecurrentOptions& options);

}  // namespace attn
