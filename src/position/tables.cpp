// Absolute positions: sinusoidal and learned tables.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "attn/position.h"

namespace attn {

void sinusoidal(std::span<const std::int64_t> positions, std::int64_t d_model, float* out,
                double base) {
  if (d_model < 1) {
    throw std::invalid_argument("[sinusoidal] d_model is " + std::to_string(d_model) +
                                ", must be 1 or more");
  }
  if (!(base > 0) || !std::isfinite(base)) {
    throw std::invalid_argument("[sinusoidal] base is " + std::to_string(base) +
                                ", must be positive");
  }
  const double width = static_cast<double>(d_model);
  for (std::int64_t position : positions) {
    for (std::int64_t i = 0; i < d_model; ++i) {
      // Components 2i and 2i + 1 share the exponent 2i/d.
      const double exponent = static_cast<double>(i - i % 2) / width;
      const double angle = static_cast<double>(position) / std::pow(base, exponent);
      *out++ = static_cast<float>(i % 2 == 0 ? std::sin(angle) : std::cos(angle));
    }
  }
}

void learned_positions(const float* table, std::int64_t limit, std::int64_t d_model,
                       std::span<const std::int64_t> positions, float* out) {
  if (d_model < 1) {
    throw std::invalid_argument("[learned_positions] d_model is " + std::to_string(d_model) +
                                ", must be 1 or more");
  }
  // All positions are checked before anything is written.
  for (std::int64_t position : positions) {
    if (position < 0 || position >= limit) {
      throw std::invalid_argument("[learned_positions] position " + std::to_string(position) +
                                  " is outside the table, whose limit is " + std::to_string(limit));
    }
  }
  for (std::int64_t position : positions) {
    out = std::copy_n(table + position * d_model, d_model, out);
  }
}

}  // namespace attn
