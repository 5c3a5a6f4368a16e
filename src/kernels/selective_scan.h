// The selective scan of a block of channels: attn/scan.h says what it computes.
//
// Lanes are channels. Every state is one chain of multiply-adds over the tokens, every output one
// chain over ascending states: how tokens and channels are cut moves no bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attn/context.h"
#include "kernels/channel_block.h"

namespace attn::kernels {

struct ScanParams {
  // As attn::ScanInputs and attn::ScanOutputs; null data where empty.
  Matrix u, delta, a, b, c, d, z, delta_bias, state;
  Matrix out, state_out, elapsed;  // data is written
  std::int64_t states = 0;
  bool softplus = false;
};

struct ScanKernel {
  std::int64_t lanes = 0;
  // Channels of a block that suit the caches.
  std::int64_t (*channels)(std::int64_t states) = nullptr;
  std::size_t (*workspace_bytes)(const ScanParams&, std::int64_t length,
                                 std::int64_t channels) = nullptr;
  void (*run)(const ScanParams&, const ChannelBlock&, void* workspace) = nullptr;
};

// The kernel for an instruction set (not automatic) and float32 or float64.
const ScanKernel& scan_kernel(Isa isa, DType dtype);

struct ScanBackwardParams {
  ScanParams forward;         // its outputs are not used
  Matrix d_out, d_state_out;  // null where no gradient flows
  // Data is written; null: not asked.
  Matrix du, d_delta, dz, d_state;
  // Of each sequence, [sequences][states] and [sequences][1] rows, for the caller to sum.
  Matrix da, dd, d_delta_bias;
  std::int64_t tokens_kept = 0;  // a state is kept every so many tokens
};

// Of a block, [length][states], summed over its channels; null: not asked.
struct ScanBlockSums {
  void *db = nullptr, *dc = nullptr;
};

struct ScanBackwardKernel {
  std::int64_t lanes = 0;
  std::size_t (*workspace_bytes)(const ScanBackwardParams&, std::int64_t length,
                                 std::int64_t channels) = nullptr;
  void (*run)(const ScanBackwardParams&, const ChannelBlock&, const ScanBlockSums&,
              void* workspace) = nullptr;
};

const ScanBackwardKernel& scan_backward_kernel(Isa isa, DType dtype);

}  // namespace attn::kernels
