// One vector of a text's hidden states.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace attn {

// hidden [tokens][width], of one token at least. Sums are in double.
std::vector<float> pool(const float* hidden, std::int64_t tokens, std::int64_t width,
                        const PoolingConfig& config);

}  // namespace attn
