// The score of additive attention, v_a . tanh(q + k), of tiles of pairs, and its gradients.
//
// tanh(q + k) = 1 - 2 / (1 + e^(2q) e^(2k)), so that exponentials are taken once a query and once a
// key, and a pair costs a multiply-add, a comparison and a quarter of a division a column (four
// fractions are brought under one denominator). What is too large for e^(2x), or no number, is
// *far*: its pairs go through tanh itself. Which way a pair goes depends on its query and its key
// alone, so that no other query or key moves its bits.
#pragma once

#include <cstdint>

#include "attn/context.h"
#include "attn/score.h"

namespace attn::kernels {

// Rows of a matrix, `stride` elements apart.
struct AdditiveRows {
  const void* data = nullptr;
  std::int64_t stride = 0;
};

// Keys as they are kept: panels [panel][columns][AdditiveKernel::panel] of e^(2k), columns being
// the width rounded up to AdditiveKernel::together.
struct AdditivePanels {
  const void* exponentials = nullptr;
  const void* far = nullptr;              // [panels][panel] T, not 0: a far key
  const std::uint8_t* any_far = nullptr;  // [panels]
};

// One head of one batch entry.
struct AdditiveHead {
  std::int64_t width = 0, k_len = 0;
  AdditiveRows q, k;
  AdditivePanels panels;
  // v_a / scale, [columns], 0 past the width; scale is a power of two that leaves at most 1.
  const void* weights = nullptr;
  double scale = 1, sum = 0;  // sum: of v_a
  // Gradients, added to.
  AdditiveRows dq;         // data is written; null: not asked
  void* dk = nullptr;      // as the panels: of 1/4 dL/dk_c / v_a_c
  double* dv_a = nullptr;  // [tiles][columns]: by tiles of AdditiveKernel::tile keys
};

struct AdditiveKernel {
  std::int64_t panel = 0;     // keys side by side
  std::int64_t together = 0;  // columns
  std::int64_t tile = 0;      // keys; no call of scores or gradients crosses its bounds
  // Keys [0, count) of one panel, which is written whole; returns whether any is far.
  bool (*prepare)(const AdditiveRows& keys, std::int64_t count, std::int64_t width,
                  void* exponentials, void* far) = nullptr;
  // Adds the scores to those of the tile.
  void (*scores)(const AdditiveHead&, const ScoreTile&) = nullptr;
  // Adds what a tile gives to the gradients: to a query's in tiles as they are called, to a key's
  // by ascending rows. Pairs whose `d` is 0 are taken for hidden.
  void (*gradients)(const AdditiveHead&, const ScoreGradientTile&) = nullptr;
};

// The kernel for an instruction set (not automatic) and float32 or float64.
const AdditiveKernel& additive_kernel(Isa isa, DType dtype);

}  // namespace attn::kernels
