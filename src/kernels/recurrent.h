// The matrix-state recurrence by chunks of tokens, for one head of one sequence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "attn/context.h"
#include "attn/linear_attention.h"
#include "attn/tensor.h"
#include "kernels/params.h"

namespace attn::kernels {

// Tokens that are worked on as matrices.
constexpr std::int64_t kRecurrentChunk = 64;

// Something that may count for several batch entries, heads, tokens or channels: stride 0 there.
struct Spread {
  const void* data = nullptr;  // null: not given
  Strides strides{};
  std::int64_t width = 1;  // channels that differ: 1 or the width of keys
};

// What one thread does at a time: some value columns of one head, as columns do not meet.
struct RecurrentUnit {
  std::int64_t batch = 0;                     // of the tensors
  std::int64_t sequence = 0;                  // of the states
  std::int64_t head = 0, begin = 0, end = 0;  // tokens
  std::int64_t column = 0, columns = 0;
};

// Gates that are made when the state comes to them: a number a token of log_decay and of beta, for
// `count` tokens of the unit from `token` on. Called by several threads.
using MakeGates = std::function<void(const RecurrentUnit&, std::int64_t token, std::int64_t count,
                                     void* log_decay, void* beta)>;

struct RecurrentParams {
  Matrix q, k, v;
  Matrix a, b;             // null data: none
  std::int64_t group = 1;  // heads that share a head of q and k
  std::int64_t width = 0, v_width = 0;
  Spread log_decay, beta, bonus;
  // Of q and k, element by element; without `bonus`, `delta` and `rank_one`.
  FeatureMap map = FeatureMap::identity;
  const MakeGates* gates = nullptr;  // in place of log_decay and beta, forward, without `delta`
  bool delta = false, rank_one = false, normalise = false;
  double epsilon = 0;
  Matrix out;            // data is written; null: not wanted
  Matrix before, after;  // states; strides of batch, head and row; null: zeros, not wanted

  std::int64_t state_width() const { return v_width + (normalise ? 1 : 0); }
};

struct RecurrentKernel {
  // Columns are best divided in multiples of this.
  std::int64_t panel = 0;
  std::size_t (*workspace_bytes)(const RecurrentParams&, std::int64_t columns) = nullptr;
  void (*run)(const RecurrentParams&, const RecurrentUnit&, void* workspace) = nullptr;
  // One token of all columns, from a state to a state; needs no workspace.
  void (*step)(const RecurrentParams&, const RecurrentUnit&) = nullptr;
};

// The kernel for an instruction set (not automatic) and float32 or float64.
const RecurrentKernel& recurrent_kernel(Isa isa, DType dtype);

// Where gradients go; null data: not wanted.
struct RecurrentGradientParams {
  RecurrentParams forward;  // without outputs
  Matrix d_out, d_after;    // given; null: zeros
  Matrix q, k, v, a, b, before;
  // By sequence and head; rows are tokens, or one where tokens are summed.
  Matrix log_decay, beta, bonus;
  bool sum_log_decay = false, sum_beta = false;
};

struct RecurrentGradientKernel {
  std::size_t (*workspace_bytes)(const RecurrentGradientParams&) = nullptr;
  // Numbers that `checkpoints` must hold for a sequence of `tokens`.
  std::int64_t (*checkpoint_count)(const RecurrentGradientParams&, std::int64_t tokens) = nullptr;
  // One head, all columns; `add`: to the gradients of q and k that another head of its group left.
  void (*run)(const RecurrentGradientParams&, const RecurrentUnit&, bool add, void* workspace,
              void* checkpoints) = nullptr;
};

const RecurrentGradientKernel& recurrent_gradient_kernel(Isa isa, DType dtype);

}  // namespace attn::kernels
