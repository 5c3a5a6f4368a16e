// The machine's own limit, measured: fused multiply-adds on registers, nothing else.
#pragma once

#include "attn/context.h"
#include "attn/tensor.h"

namespace attn::kernels {

// GFLOP/s of `threads` threads together over about `seconds`, with the vectors of one ISA.
double fma_ceiling_gflops(Isa isa, DType dtype, int threads, double seconds);

}  // namespace attn::kernels
