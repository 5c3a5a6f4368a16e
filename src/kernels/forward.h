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
#include "attn/mask.h"
#include "attn/score.h"
#include "attn/tensor.h"

namespace attn::kernels {

// Consecutive key tiles of one kind: keys [begin * tile, end * tile). Tiles that no row of the
// block sees are in no run.
struct TileRun {
  std::int32_t begin = 0, end = 0;
  bool partial = false;          // some row does not see some key of a tile
  std::int64_t bits_offset = 0;  // of the first tile, into Schedule::bits
};

// Which keys the rows of a block see: intervals, or bits of the partial tiles.
struct Schedule {
  const TileRun* runs = nullptr;
  std::int64_t run_count = 0;
  // Head j of a group has mask slot slot_of_head[j]. Needed when a run is partial.
  const std::int32_t* slot_of_head = nullptr;
  // Rows by intervals: token t of the block, of slot s, sees intervals
  // interval_begin[s * (block_tokens + 1) + t] up to the next entry; a slot whose first entry is
  // negative sees everything.
  const std::int64_t* interval_begin = nullptr;
  const Interval* intervals = nullptr;
  // Rows by bits, when any slot of the group is not made of intervals: for each partial tile
  // [slots][block tokens][tile / 64] words. Null otherwise.
  const std::uint64_t* bits = nullptr;
  std::int64_t slots = 1, block_tokens = 0;
};

struct Matrix {
  const void* data = nullptr;
  std::int64_t batch = 0, head = 0, length = 0;  // strides in elements
};

struct Bias {
  const void* data = nullptr;  // null: none
  Strides strides{};           // 0 where broadcast; the last may be 0 or any
};

struct ForwardParams {
  Matrix q, k, v;
  Matrix out;  // data is written
  Matrix lse;  // null data: not written
  std::int64_t group = 1, q_len = 0, k_len = 0, width = 0, v_width = 0;
  double scale = 1;
  double soft_cap = 0;
  Bias bias;
  const float* alibi_slopes = nullptr;  // [q heads]
  bool far_positions = false;           // some distance is not exact in the tensors' type
  const float* t5 = nullptr;            // [q heads][2 * t5_reach + 1], by clamped k_pos - q_pos
  std::int64_t t5_reach = 0;
  const float* sinks = nullptr;  // [q heads]
  const ScoreFunction* custom = nullptr;
  std::int64_t query_start = 0;
  const std::int64_t* q_positions = nullptr;
  const std::int64_t* k_positions = nullptr;
};

struct ForwardBlock {
  std::int64_t batch = 0, kv_head = 0, token_begin = 0, token_count = 0;
  Schedule schedule;
};

struct ForwardKernel {
  std::int64_t strip = 0;    // rows of the micro-kernel
  std::int64_t tile = 0;     // keys
  std::int64_t segment = 0;  // keys
  // Scratch of one thread for blocks of at most `rows` rows, 64-byte aligned.
  std::size_t (*workspace_bytes)(std::int64_t rows, std::int64_t width,
                                 std::int64_t v_width) = nullptr;
  void (*run)(const ForwardParams&, const ForwardBlock&, void* workspace) = nullptr;
};

// The kernel for an instruction set (not automatic) and float32 or float64.
const ForwardKernel& forward_kernel(Isa isa, DType dtype);

// Flushes denormals and rounds to nearest while alive, so that every thread computes alike.
class FloatMode {
 public:
  FloatMode();
  ~FloatMode();
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
  std::uint64_t saved_;
};

}  // namespace attn::kernels
