// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "attn/language_model.h"

namespace attn {

class Sampler {
 public:
  // Throws std::invalid_argument for a setting that has no meaning.
  explicit Sampler(const SamplerOptions& options);

  // The token that follows `before` (the prompt and what was generated). The same seed gives the
  // same tokens: the n-th call draws the n-th number. Throws std::invalid_argument when no logit is
  // a number above -infinity.
  std::int32_t next(std::span<const float> logits, std::span<const std::int32_t> before);

 private:
  double draw();  // in [0, 1)

  SamplerOptions options_;
  std::uint64_t draws_ = 0;
  std::vector<std::pair<float, std::int32_t>> candidates_;  // logit and token
};

}  // namespace attn
