// The forward tile kernel: exact attention of one block of query rows over its listed key tiles.
//
// A product row is one query token of one head of a group: row r of a block is token
// token_begin + r / group, head kv_head * group + r % group, so that a key/value tile is read once
// for all heads that share it. What the caller may choose (rows in a block, which thread runs it)
// moves no bit of a result; tile and segment, which would, are constants of the instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attn/context.h"
#include "kernels/params.h"

namespace attn::kernels {

// Where answers about rows go; null data: not asked.
struct Statistics {
  Matrix max_logit, entropy, relative_entropy, max_probability, mean_variance;
  bool any() const {
    return max_logit.data != nullptr || entropy.data != nullptr ||
           relative_entropy.data != nullptr || max_probability.data != nullptr ||
           mean_variance.data != nullptr;
  }
};

struct ForwardParams {
  Matrix q;
  DType q_dtype = DType::f32;
  Stored k, v;
  Matrix out;  // data is written
  DType out_dtype = DType::f32;
  Matrix lse;  // null data: not written
  // Of each row, for a second pass: probability = exp2(score - [0]) * [1], scores in log2 units as
  // this kernel computes them. [B, Hq, Lq, 2] of the arithmetic's type; null data: not written.
  Matrix softmax;
  std::int64_t group = 1, width = 0, v_width = 0;
  ScoreParams score;
  DropoutParams dropout;
  Statistics statistics;
  const KeyRotation* rotation = nullptr;
};

struct ForwardBlock {
  Sequence sequence;
  std::int64_t kv_head = 0, token_begin = 0, token_count = 0;
  Schedule schedule;
  // Where keys are split between several runs: memory for the states of the segments that the
  // schedule visits, state_bytes() each; fold() makes rows of them. Null: run() does it all.
  void* states = nullptr;
  // What this thread will probably run next, its schedule without rows: fetched meanwhile. Null:
  // nothing.
  const ForwardBlock* next = nullptr;
};

struct ForwardKernel {
  std::int64_t strip = 0;    // rows of the micro-kernel
  std::int64_t tile = 0;     // keys
  std::int64_t segment = 0;  // keys
  std::int64_t panel = 0;    // keys side by side when they are packed
  // Scratch of one thread for blocks of at most `rows` rows, 64-byte aligned.
  std::size_t (*workspace_bytes)(std::int64_t rows, std::int64_t width,
                                 std::int64_t v_width) = nullptr;
  std::size_t (*state_bytes)(std::int64_t rows, std::int64_t v_width) = nullptr;
  void (*run)(const ForwardParams&, const ForwardBlock&, void* workspace) = nullptr;
  // Folds `count` states at block.states and writes the rows.
  void (*fold)(const ForwardParams&, const ForwardBlock&, std::int64_t count,
               void* workspace) = nullptr;
};

// The kernel for an instruction set (not automatic) and float32 or float64.
const ForwardKernel& forward_kernel(Isa isa, DType dtype);

}  // namespace attn::kernels
