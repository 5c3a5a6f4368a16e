#include "model/pooling.h"

#include <algorithm>
#include <cmath>

namespace attn {

std::vector<float> pool(const float* hidden, std::int64_t tokens, std::int64_t width,
                        const PoolingConfig& config) {
  std::vector<float> out(hidden, hidden + width);  // the first token, [CLS]
  if (config.pooling == Pooling::max) {
    for (std::int64_t t = 1; t < tokens; ++t) {
      for (std::int64_t j = 0; j < width; ++j) {
        float& largest = out[static_cast<std::size_t>(j)];
        largest = std::max(largest, hidden[t * width + j]);
      }
    }
  } else if (config.pooling == Pooling::mean) {
    for (std::int64_t j = 0; j < width; ++j) {
      double sum = 0;
      for (std::int64_t t = 0; t < tokens; ++t) sum += hidden[t * width + j];
      out[static_cast<std::size_t>(j)] = static_cast<float>(sum / static_cast<double>(tokens));
    }
  }
  if (config.normalize) {
    double square = 0;
    for (const float x : out) square += static_cast<double>(x) * x;
    const double length = std::max(std::sqrt(square), 1e-12);
    for (float& x : out) x = static_cast<float>(x / length);
  }
  return out;
}

}  // namespace attn
