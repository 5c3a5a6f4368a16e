#include "model/ablation.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace attn {

HeadOutputs ablate(const HeadAblation& ablation, const TransformerConfig& config) {
  if (ablation.heads.empty() && ablation.means.empty()) return {};
  const std::int64_t heads = config.heads, width = config.value_width;
  const auto text = [](std::int64_t n) { return std::to_string(n); };
  std::vector<bool> named(static_cast<std::size_t>(config.layers * heads));
  for (const HeadAblation::Head& h : ablation.heads) {
    const std::string name = text(h.layer) + "." + text(h.head);
    if (h.layer < 0 || h.layer >= config.layers || h.head < 0 || h.head >= heads) {
      throw std::invalid_argument("[ablate] there is no head " + name + ": the model has " +
                                  text(config.layers) + " layers of " + text(heads) +
                                  " heads, counted from 0");
    }
    const auto at = static_cast<std::size_t>(h.layer * heads + h.head);
    if (named[at]) throw std::invalid_argument("[ablate] head " + name + " is named twice");
    named[at] = true;
  }
  const auto numbers = ablation.heads.size() * static_cast<std::size_t>(width);
  if (!ablation.means.empty() && ablation.means.size() != numbers) {
    throw std::invalid_argument("[ablate] means has " + std::to_string(ablation.means.size()) +
                                " numbers, must have " + std::to_string(numbers) + ", " +
                                text(width) + " a head");
  }
  return [ablation, heads, width](std::int64_t layer, std::int64_t tokens, float* outputs) {
    for (std::size_t i = 0; i < ablation.heads.size(); ++i) {
      if (ablation.heads[i].layer != layer) continue;
      const float* const mean = ablation.means.empty()
                                    ? nullptr
                                    : ablation.means.data() + i * static_cast<std::size_t>(width);
      float* to = outputs + ablation.heads[i].head * width;
      for (std::int64_t t = 0; t < tokens; ++t, to += heads * width) {
        if (mean == nullptr) {
          std::fill_n(to, width, 0.0F);
        } else {
          std::copy_n(mean, width, to);
        }
      }
    }
  };
}

HeadMeans::HeadMeans(const TransformerConfig& config)
    : width_(static_cast<std::size_t>(config.heads * config.value_width)),
      sums_(static_cast<std::size_t>(config.layers) * width_),
      count_(static_cast<std::size_t>(config.layers)) {}

void HeadMeans::add(std::int64_t layer, std::int64_t tokens, std::int64_t skip,
                    const float* outputs) {
  double* const sums = sums_.data() + static_cast<std::size_t>(layer) * width_;
  for (std::int64_t t = skip; t < tokens; ++t) {
    const float* const row = outputs + static_cast<std::size_t>(t) * width_;
    for (std::size_t i = 0; i < width_; ++i) sums[i] += static_cast<double>(row[i]);
  }
  count_[static_cast<std::size_t>(layer)] += tokens - std::min(skip, tokens);
}

std::vector<float> HeadMeans::means() const {
  std::vector<float> means(sums_.size());
  for (std::size_t i = 0; i < means.size(); ++i) {
    const auto count = static_cast<double>(std::max<std::int64_t>(count_[i / width_], 1));
    means[i] = static_cast<float>(sums_[i] / count);
  }
  return means;
}

}  // namespace attn
