// The decays of the mechanisms that attn/recurrent.h runs, as logarithms, made of what their layers
// compute. All of them are 0 or less for any input, and none overflows.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/tensor.h"

namespace attn {

// ln(1 - 2^(-5 - h)) for head h: RetNet (arXiv 2307.08621). [heads]
std::vector<double> retnet_log_decay(std::int64_t heads);

enum class DecayKind : std::uint8_t {
  gla,    // ln(sigmoid(x)) / 16, by channel and token (arXiv 2312.06635)
  rwkv,   // -e^x: RWKV-5 by channel, RWKV-6 by channel and token (arXiv 2404.05892)
  rwkv7,  // -e^(-1/2) sigmoid(x) (BlinkDL/RWKV-LM, RWKV-v7)
  delta   // -softplus(x), of gated DeltaNet (arXiv 2412.06464); times its A, exp(A_log), by the
          // caller
};

// log_decay[i] = f(x[i]), of the same shape and type, float32 or float64; they may be the same
// memory. Throws std::invalid_argument when they do not fit.
void log_decay(DecayKind kind, const ConstTensor& x, const Tensor& log_decay);
// d_x = d_log_decay f'(x), shaped alike; may be the memory of d_log_decay.
void log_decay_backward(DecayKind kind, const ConstTensor& x, const ConstTensor& d_log_decay,
                        const Tensor& d_x);

}  // namespace attn
