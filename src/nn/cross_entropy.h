// The loss of a language model: how little it expected what came.
#pragma once

#include <cstdint>

#include "attn/context.h"

namespace attn::nn {

struct CrossEntropyParams {
  std::int64_t rows = 0, classes = 0;
  const float* logits = nullptr;          // [rows][classes]
  const std::int32_t* targets = nullptr;  // [rows]
  float* losses = nullptr;      // [rows]: ln(sum of exp(logits)) - logits[target], in nats
  std::int32_t* top = nullptr;  // [rows]: class of the largest logit, the lowest of equals
};
// A row that holds a NaN has a loss of NaN. Throws std::invalid_argument for a target outside
// [0, classes).
void cross_entropy(const CrossEntropyParams& params, const Context& context);

}  // namespace attn::nn
