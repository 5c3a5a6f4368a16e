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

// recurrent(), with gates that are made 64 tokens at a time where `gates` is not null: they take no
// memory that grows with the length.
void run_recurrent(const RecurrentInputs& inputs, const Tensor& out, const Tensor& state,
                   const RecurrentOptions& options, const Context& context,
                   const kernels::MakeGates* gates);

}  // namespace attn
