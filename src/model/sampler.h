// Choosing the next token from logits. The settings act in this order, as in Hugging Face's
// generate(): repetition penalty, temperature, top-k, top-p, min-p.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace attn {

struct SamplerOptions {
  double temperature = 0;         // 0: the token of the largest logit, the lowest among equals
  std::int64_t top_k = 0;         // only the k most probable; 0: all
  double top_p = 1;               // only the fewest that have this much probability together
  double min_p = 0;               // only those with this share of the most probable's probability
  double repetition_penalty = 1;  // divides positive logits of tokens that are there already, and
                                  // multiplies negative ones (arXiv 1909.05858)
  std::uint64_t seed = 0;
};

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
