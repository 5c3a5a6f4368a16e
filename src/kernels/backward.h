// The backward tile kernel: gradients of a block of keys, from all query rows that see it.
//
// With s a score in log2 units, as the forward kernel computes it:
//
//   p = 2^(s - lse),  dp = dO . v,  ds = p (dp + offset of the row)
//   dV += p dO,  dK += scale ds q,  dQ += scale ds k
//
// which are five products, since p is computed once. Keys stay while rows pass. A key's sums are
// one chain of multiply-adds over ascending rows (tokens, and heads of the group within a token), a
// row's sum one chain over ascending keys: how keys and rows are cut into blocks moves no bit. Key
// blocks that another thread works on take turns at a row's dQ.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "attn/context.h"
#include "kernels/params.h"

namespace attn::kernels {

struct BackwardParams {
  Matrix q, k, v, out, d_out;             // d_out: null data if no gradient flows into the output
  Matrix lse, d_lse, entropy, d_entropy;  // the last three: null where no gradient flows
  Matrix dq, dk, dv;                      // data is written; null: not asked
  Bias d_bias;                            // as ScoreParams::bias; null: not asked
  bool accumulate = false;                // start from what is there
  std::int64_t group = 1, width = 0, v_width = 0;
  ScoreParams score;
  const ScoreGradient* custom_gradient = nullptr;
  DropoutParams dropout;
  // Of each row, as prepare() leaves it: T [B, Hq, Lq, 4].
  Matrix terms;
};

// Rows of a block that see some of the keys.
struct BackwardRows {
  std::int64_t token_begin = 0, token_count = 0;
  Schedule schedule;  // runs: of these keys alone
  // Of every BackwardKernel::rows rows: how many key blocks have had their turn.
  std::atomic<std::int32_t>* turns = nullptr;
  std::int32_t turn = 0;  // of these keys
};

// Blocks of rows, one after the other in ascending order.
class RowBlocks {
 public:
  virtual bool next(BackwardRows& rows) = 0;
  // Some thread has given up: whoever waits for its turn must, too.
  virtual bool failed() const = 0;

 protected:
  ~RowBlocks() = default;
};

struct BackwardBlock {
  Sequence sequence;
  std::int64_t kv_head = 0;
  std::int64_t tile_begin = 0, tile_end = 0;  // at most BackwardKernel's `tiles` of its workspace
  RowBlocks* rows = nullptr;
  // Gradients that are shared, sums of each tile by ascending rows: how tiles and rows are cut into
  // blocks moves no bit of them either.
  double* slopes = nullptr;  // [tiles][group] added to: of ALiBi's slopes; null: not asked
  double* t5 = nullptr;      // [tiles][group][2 * t5_reach + 1] likewise
};

struct BackwardKernel {
  std::int64_t rows = 0;  // that take their turn together
  std::size_t (*workspace_bytes)(const BackwardParams&, std::int64_t tiles) = nullptr;
  // Terms of rows [first, first + count) of a head; adds the gradient of the head's sink to
  // *d_sink.
  void (*prepare)(const BackwardParams&, const Sequence&, std::int64_t head, std::int64_t first,
                  std::int64_t count, double* d_sink) = nullptr;
  // Rows that no block of keys has seen keep what is in dq.
  void (*run)(const BackwardParams&, const BackwardBlock&, std::int64_t tiles,
              void* workspace) = nullptr;
};

// The kernel for an instruction set (not automatic) and float32 or float64.
const BackwardKernel& backward_kernel(Isa isa, DType dtype);

}  // namespace attn::kernels
