// RWKV-4's weighted mean over a block of channels, and its gradients: attn/scan.h says what they
// are. Lanes are channels.
#pragma once

#include <cstddef>

#include "attn/context.h"
#include "kernels/channel_block.h"

namespace attn::kernels {

struct Wkv4Params {
  // As attn::Wkv4Inputs and attn::Wkv4Outputs; null data where empty.
  Matrix k, v, decay, bonus, state;
  Matrix out, state_out;  // data is written
  // Backward: null where no gradient flows, or where none is asked.
  Matrix d_out, d_state_out;
  Matrix dk, dv, d_state;  // data is written
  // Of each sequence, [sequences][1] rows, for the caller to sum.
  Matrix d_decay, d_bonus;
  std::int64_t tokens_kept = 0;  // a state is kept every so many tokens
};

struct Wkv4Kernel {
  std::int64_t lanes = 0;
  std::size_t (*workspace_bytes)(std::int64_t channels) = nullptr;
  void (*run)(const Wkv4Params&, const ChannelBlock&, void* workspace) = nullptr;
  std::size_t (*backward_workspace_bytes)(const Wkv4Params&, std::int64_t length,
                                          std::int64_t channels) = nullptr;
  void (*backward)(const Wkv4Params&, const ChannelBlock&, void* workspace) = nullptr;
};

// The kernel for an instruction set (not automatic) and float32 or float64.
const Wkv4Kernel& wkv4_kernel(Isa isa, DType dtype);

}  // namespace attn::kernels
