// Heads that are silenced, or replaced by their mean.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/language_model.h"
#include "model/transformer.h"

namespace attn {

// Replaces the heads' outputs; nothing when there are no heads. Throws std::invalid_argument for a
// head that is not there or is named twice, and for means of another size.
HeadOutputs ablate(const HeadAblation& ablation, const TransformerConfig& config);

// Sums up what heads put out. Sums are in double, tokens in order: the same whatever runs together.
class HeadMeans {
 public:
  explicit HeadMeans(const TransformerConfig& config);

  // Adds the tokens of a layer from `skip` on; outputs [tokens][heads][value_width].
  void add(std::int64_t layer, std::int64_t tokens, std::int64_t skip, const float* outputs);
  // [layers][heads][value_width]; zeros when nothing was added.
  std::vector<float> means() const;

 private:
  std::size_t width_;                // of all heads of a layer
  std::vector<double> sums_;         // [layers][width_]
  std::vector<std::int64_t> count_;  // [layers]: tokens
};

}  // namespace attn
