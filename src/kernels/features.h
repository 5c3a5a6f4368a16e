// FAVOR+, random features of exp(q . k): rows of queries or keys to rows of features, and back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attn/context.h"
#include "attn/tensor.h"

namespace attn::kernels {

// Tokens that are worked on together; rows of features are `step` elements apart, aligned.
constexpr std::int64_t kFeatureRows = 64;

struct FeatureParams {
  std::int64_t width = 0, features = 0, step = 0;
  double scale = 1;                         // of x, before the directions
  const void* directions = nullptr;         // [width][step], of the arithmetic's type
  const void* directions_by_row = nullptr;  // [features][row_step]
  std::int64_t row_step = 0;
};

struct FeatureKernel {
  std::size_t (*workspace_bytes)(const FeatureParams&) = nullptr;
  // `rows` (at most kFeatureRows) of x to the logarithms of features, their largest of each row to
  // `tops`.
  void (*map)(const FeatureParams&, const void* x, std::int64_t x_step, std::int64_t rows,
              void* out, void* tops, void* workspace) = nullptr;
  // out[r] = exp(out[r] - reference[r]) / sqrt(features)
  void (*exponentiate)(const FeatureParams&, std::int64_t rows, const void* references,
                       void* out) = nullptr;
  // d_x = the gradient through the map, from that of the features, which it changes.
  void (*differentiate)(const FeatureParams&, const void* x, std::int64_t x_step, std::int64_t rows,
                        const void* features, void* d_features, void* d_x, std::int64_t d_x_step,
                        void* workspace) = nullptr;
};

const FeatureKernel& feature_kernel(Isa isa, DType dtype);

}  // namespace attn::kernels
