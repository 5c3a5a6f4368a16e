// What all tile kernels are told: where tensors lie, which keys are seen, how pairs are scored.
#pragma once

#include <cstdint>

#include "attn/attention.h"

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

// Where rows of keys or values lie and how they are stored.
struct Stored {
  Matrix rows;
  DType dtype = DType::f32;
  Matrix scales = {};                       // int8: float32, one a token and head
  const PageRun* runs = nullptr;            // paged: of all sequences
  const std::int64_t* run_begin = nullptr;  // [sequences + 1]
  std::int64_t panel = 0;                   // keys a panel, when they lie packed
};

struct Bias {
  const void* data = nullptr;  // null: none
  Strides strides{};           // 0 where broadcast; the last may be 0 or any
};

// One sequence of the batch, and where its rows are in the tensors.
struct Sequence {
  std::int64_t batch = 0;   // for masks, bias, scores, dropout
  std::int64_t tensor = 0;  // batch entry of the tensors
  std::int64_t q_begin = 0, q_len = 0;
  std::int64_t k_begin = 0, k_len = 0;
  std::int64_t query_start = 0;
  std::uint32_t stream = 0;  // of dropout
};

// How visible pairs are scored.
struct ScoreParams {
  double scale = 1;
  double soft_cap = 0;
  Bias bias;
  const float* alibi_slopes = nullptr;  // [q heads]
  bool far_positions = false;           // some distance is not exact in the arithmetic's type
  const float* t5 = nullptr;            // [q heads][2 * t5_reach + 1], by clamped k_pos - q_pos
  std::int64_t t5_reach = 0;
  const float* sinks = nullptr;  // [q heads]
  const ScoreFunction* custom = nullptr;
  const std::int64_t* q_positions = nullptr;  // [q_len]; null: query_start, ...
  const std::int64_t* k_positions = nullptr;  // [k_len]; null: 0, 1, ...

  // Raw scores are changed by more than a soft cap and ALiBi over near distances, which the softmax
  // pass of the forward kernel does on its way.
  bool beyond_softmax() const {
    return (alibi_slopes != nullptr && far_positions) || bias.data != nullptr || t5 != nullptr ||
           custom != nullptr;
  }
  // Something beside ALiBi alone changes raw scores.
  bool modified() const { return soft_cap > 0 || beyond_softmax(); }
};

// Dropout of probabilities; attn/attention.h says which pairs are kept.
struct DropoutParams {
  std::uint32_t threshold = 0;    // a pair whose field is below is dropped; 0: none
  std::uint32_t key[2] = {0, 0};  // the seed, its lower half first
  double scale = 1;               // of what is kept
};

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
