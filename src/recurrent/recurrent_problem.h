// The arguments of recurrent() and recurrent_backward() as the kernels take them, and their work.
#pragma once

#include <vector>

#include "attn/linear_attention.h"
#include "attn/recurrent.h"
#include "kernels/recurrent.h"

namespace attn {

struct RecurrentProblem {
  kernels::RecurrentParams params;                // without outputs
  std::vector<kernels::RecurrentUnit> sequences;  // of head 0, all columns
};

// Of checked arguments.
RecurrentProblem recurrent_problem(const RecurrentInputs& inputs, const RecurrentOptions& options);

// What relatives of recurrent() ask for beside its arguments.
struct RecurrentExtras {
  FeatureMap map = FeatureMap::identity;      // of queries and keys, by element
  const kernels::MakeGates* gates = nullptr;  // made 64 tokens at a time: no memory that grows
};
void run_recurrent(const RecurrentInputs& inputs, const Tensor& out, const Tensor& state,
                   const RecurrentOptions& options, const Context& context,
                   const RecurrentExtras& extras);

// recurrent_backward() through a feature map, to queries and keys before it.
void run_recurrent_backward(const RecurrentInputs& inputs, const ConstTensor& d_out,
                            const ConstTensor& d_state, const RecurrentGradients& to,
                            const RecurrentOptions& options, const Context& context,
                            FeatureMap map);

}  // namespace attn
