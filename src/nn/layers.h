// Layers between the products: bias and activation, gates, norms, residual sums.
// float32, rows contiguous unless a stride says otherwise; vectorised, threads from the context.
#pragma once

#include <cstdint>

#include "attn/context.h"

namespace attn::nn {

enum class Activation : std::uint8_t {
  none,
  relu,
  gelu,       // x Φ(x), by erf (arXiv 1606.08415)
  gelu_tanh,  // 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
  silu,       // x / (1 + e^-x), also called swish
  sigmoid     // 1 / (1 + e^-x)
};

// y = activation(y + bias), in place; y [rows][width], rows `stride` apart; bias [width] or null.
void bias_activate(std::int64_t rows, std::int64_t width, float* y, std::int64_t stride,
                   const float* bias, Activation activation, const Context& context);

// up = activation(gate) * up, `count` numbers each (arXiv 2002.05202): GLU with sigmoid, SwiGLU
// with silu, GEGLU with gelu.
void gate(std::int64_t count, const float* gate, float* up, Activation activation,
          const Context& context);

// x += y, `count` numbers.
void add(std::int64_t count, const float* y, float* x, const Context& context);

struct LayerNormParams {
  std::int64_t rows = 0, width = 0;
  const float* x = nullptr;         // [rows][width]
  const float* residual = nullptr;  // added to x first, or null
  const float* weight = nullptr;    // [width]
  const float* bias = nullptr;      // [width]
  float epsilon = 0;                // added to the variance (of n, not n - 1)
  float* y = nullptr;               // [rows][width]; may be x or residual
};
void layer_norm(const LayerNormParams& params, const Context& context);

struct RmsNormParams {
  std::int64_t rows = 0, width = 0;
  const float* x = nullptr;       // [rows][width]
  const float* weight = nullptr;  // [width]
  float epsilon = 0;              // added to the mean square
  float* y = nullptr;             // [rows][width]; may be x
};
// y = x / sqrt(mean(x^2) + epsilon) * weight (arXiv 1910.07467).
void rms_norm(const RmsNormParams& params, const Context& context);

}  // namespace attn::nn
