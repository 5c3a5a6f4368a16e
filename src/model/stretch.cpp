#include "model/stretch.h"

#include <cmath>
#include <stdexcept>
#include <string>

namespace attn {

void stretch(TransformerConfig& config, RopeScaling scaling) {
  if (!config.rope) {
    throw std::invalid_argument(
        "[rope_scaling] the model has no rotary positions (RoPE) to stretch");
  }
  if (scaling.original_length == 0) scaling.original_length = config.rope->scaling.original_length;
  if (scaling.original_length == 0) scaling.original_length = config.positions;
  if (config.latent) {
    throw std::invalid_argument(
        "[rope_scaling] the scale of latent attention follows from the model's own scaling; no "
        "other "
        "is run");
  }
  RopeOptions rope = *config.rope;
  rope.scaling = scaling;
  rope_table(rope, config.head_width);  // throws for what has no meaning
  const double positions =
      std::floor(static_cast<double>(scaling.original_length) * scaling.factor);
  constexpr double kMost = 1 << 30;
  if (positions > kMost) {
    throw std::invalid_argument("[rope_scaling] a factor of " + std::to_string(scaling.factor) +
                                " makes more than 2^30 positions");
  }
  config.rope = rope;
  config.positions = static_cast<std::int64_t>(positions);
}

}  // namespace attn
