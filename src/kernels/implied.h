// Rows of |a_ij|, the attention that recurrences imply (attn/implied.h): backwards from the query,
// through the gates.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attn/context.h"
#include "attn/tensor.h"

namespace attn::kernels {

// Vectors of tokens of one head; null data: none. Strides in elements, 0: one for all.
struct TokenRows {
  const void* data = nullptr;
  std::int64_t stride = 0;
  std::int64_t component = 1;  // 0: one number for all components
};

// A head with a state [width][...], as RecurrentInputs.
struct ImpliedState {
  std::int64_t width = 0;
  TokenRows q, k;
  TokenRows decay;  // not its logarithm
  TokenRows beta;   // a number a token
  TokenRows bonus;
  TokenRows a, b;
  bool delta = false;
};

// Channels of their own, as ScanInputs; one group of channels.
struct ImpliedScan {
  std::int64_t channels = 0;  // a multiple of a vector
  std::int64_t states = 0;
  const void *steps = nullptr, *a = nullptr;  // [tokens][channels], [states][channels]
  const void *b = nullptr, *c = nullptr;      // [tokens][states]
};

struct ImpliedKernel {
  std::int64_t lanes = 0;
  // Queries [begin, begin + count), to rows `stride` apart; a row's numbers after its query are not
  // written.
  std::size_t (*state_bytes)(std::int64_t width) = nullptr;
  void (*state_rows)(const ImpliedState&, std::int64_t begin, std::int64_t count, void* rows,
                     std::int64_t stride, void* workspace) = nullptr;
  // The same, added to what is there.
  std::size_t (*scan_bytes)(std::int64_t states, std::int64_t count) = nullptr;
  void (*scan_rows)(const ImpliedScan&, std::int64_t begin, std::int64_t count, void* rows,
                    std::int64_t stride, void* workspace) = nullptr;
};

// The kernel for an instruction set (not automatic) and float32 or float64.
const ImpliedKernel& implied_kernel(Isa isa, DType dtype);

}  // namespace attn::kernels
