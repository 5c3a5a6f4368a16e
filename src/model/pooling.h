// How hidden states become one vector for a text, as the modules of sentence-transformers say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace attn {

enum class Pooling : std::uint8_t { mean, cls, max };

struct PoolingConfig {
  Pooling pooling = Pooling::mean;
  bool normalize = false;  // to length 1
};

// modules.json of a folder: a transformer, then perhaps pooling, then perhaps normalisation.
// Without that file the plain mean. Throws attn::Error for what is not known.
PoolingConfig read_pooling(const std::string& folder);

// One vector [width] of hidden states [tokens][width].
std::vector<float> pool(const float* hidden, std::int64_t tokens, std::int64_t width,
                        const PoolingConfig& config);

}  // namespace attn
