// y = x Wᵀ for few rows x, as a step of generation has: the weights are read once, at the rate of
// the memory. Libraries pack them first, for many rows.
#pragma once

#include <cstdint>

#include "nn/dense.h"

namespace attn::nn {

// Up to here it is faster than the libraries (docs/performance.md).
constexpr std::int64_t kFewRows = 16;

// The product alone; strides are set, nothing is empty. A row's bits depend neither on the others
// nor on the threads.
void few_rows_product(const DenseParams& params, int threads);

}  // namespace attn::nn
