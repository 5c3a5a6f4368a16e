// Dense products of layers: y = x Wᵀ + b. One small header, two libraries behind it (oneDNN, or any
// CBLAS), chosen at configure time by ATTN_DENSE.
//
// Results agree between libraries, batch sizes and thread counts to rounding, not to the bit.
#pragma once

#include <cstdint>
#include <string>

#include "attn/context.h"
#include "nn/layers.h"

namespace attn::nn {

struct DenseParams {
  std::int64_t rows = 0, in = 0, out = 0;
  const float* x = nullptr;  // [rows][in], rows x_stride apart (0: in)
  std::int64_t x_stride = 0;
  const float* w = nullptr;  // [out][in], rows w_stride apart (0: in), as PyTorch stores it
  std::int64_t w_stride = 0;
  const float* bias = nullptr;  // [out], or null
  float* y = nullptr;           // [rows][out], rows y_stride apart (0: out); may not alias x
  std::int64_t y_stride = 0;
  Activation activation = Activation::none;  // applied to x Wᵀ + b
};

// Throws std::invalid_argument for a size that the library behind it cannot take.
void dense(const DenseParams& params, const Context& context);

// Name and version of the library: "oneDNN 2.6.3".
std::string dense_library();

// The product alone, in the library's own file: strides are set, nothing is empty.
void dense_product(const DenseParams& params, int threads);

}  // namespace attn::nn
