// The observers' second pass: the probabilities of one block of query rows, tile by tile once more,
// and what is asked of them.
//
// Scores are those of the forward kernel to the bit, and so is the softmax: the forward pass leaves
// each row's reference and factor. Sums over queries are integers, so that the order of blocks,
// tiles and threads moves no bit; sums of a row go by ascending keys.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/forward.h"

namespace attn::kernels {

// Fixed point of probabilities summed over queries. A total stays below 2^62, since queries are
// fewer than 2^24; its sign bit says that some term was not finite.
constexpr int kFixedBits = 38;
constexpr std::int64_t kMaxFixedQueries = std::int64_t{1} << 24;
constexpr std::uint64_t kNotFinite = std::uint64_t{1} << 63;

// What is asked; null data and counts of 0 are not. Query and key indices are rows of the tensors
// (in a ragged batch, of all sequences). T is float, or double for float64.
struct ObserveParams {
  Matrix softmax;  // T [B, Hq, Lq, 2]: probability = exp2(score - first) * second
  std::int64_t q_heads = 0, q_len = 0, k_len = 0;

  // Sums over queries, for each batch entry and head; added to by all threads.
  std::uint64_t* columns = nullptr;  // [k_len]
  struct Bins {
    std::int64_t first = 0, step = 1, count = 0;
    std::uint64_t* mass = nullptr;  // [count]
  } bins;
  struct Offsets {
    const std::int64_t* values = nullptr;  // [count] ascending
    std::int64_t count = 0;
    std::uint64_t* mass = nullptr;     // [count]
    std::uint64_t* queries = nullptr;  // [count]
  } offsets;
  struct Cells {
    std::int64_t q_begin = 0, q_end = 0, k_begin = 0, k_end = 0;
    std::int64_t rows = 0, columns = 0;
    std::uint64_t* mass = nullptr;  // [rows * columns]; null: not asked
    Matrix largest;                 // T, from 0
    bool asked() const { return mass != nullptr || largest.data != nullptr; }
  } cells;

  // Rows of their own.
  struct KeyOfSet {
    std::int64_t key = 0, set = 0;
  };
  struct KeySets {
    const KeyOfSet* keys = nullptr;  // [count] ascending
    std::int64_t count = 0, sets = 0;
    Matrix mass;
  } key_sets;
  struct ExactRow {
    std::int64_t query = 0, place = 0;
  };
  struct ExactRows {
    const ExactRow* rows = nullptr;  // [count] ascending by query
    std::int64_t count = 0;
    Matrix probabilities;
  } exact;
  struct Top {
    std::int64_t k = 0;  // 0: not asked
    Matrix weights;
    std::int32_t* keys = nullptr;  // [B * Hq * Lq * k]
  } top;
  Matrix value_weighted;
};

struct ObserveKernel {
  // Scratch of one thread for blocks of at most `tokens` query tokens, 64-byte aligned.
  std::size_t (*workspace_bytes)(const ForwardParams&, const ObserveParams&,
                                 std::int64_t tokens) = nullptr;
  void (*run)(const ForwardParams&, const ObserveParams&, const ForwardBlock&,
              void* workspace) = nullptr;
};

// The kernel for an instruction set (not automatic) and float32 or float64.
const ObserveKernel& observe_kernel(Isa isa, DType dtype);

}  // namespace attn::kernels
