// The causal convolution of a block of channels, and its gradients: attn/scan.h says what they are.
// Lanes are channels.
#pragma once

#include "attn/context.h"
#include "kernels/channel_block.h"

namespace attn::kernels {

constexpr std::int64_t kMostWidth = 8;

struct ConvolutionParams {
  // As attn::ConvolutionInputs and attn::ConvolutionOutputs; null data where empty.
  Matrix x, weight, bias, state;
  Matrix out, state_out;  // data is written
  std::int64_t width = 0;
  bool silu = false;
  // Backward: null where no gradient flows, or where none is asked.
  Matrix d_out, d_state_out;
  Matrix dx, d_state;  // data is written
  // Of each sequence, [sequences][width] and [sequences][1] rows, for the caller to sum.
  Matrix d_weight, d_bias;
};

struct ConvolutionKernel {
  std::int64_t lanes = 0;
  void (*run)(const ConvolutionParams&, const ChannelBlock&) = nullptr;
  void (*backward)(const ConvolutionParams&, const ChannelBlock&) = nullptr;
};

// The kernel for an instruction set (not automatic) and float32 or float64.
const ConvolutionKernel& convolution_kernel(Isa isa, DType dtype);

}  // namespace attn::kernels
