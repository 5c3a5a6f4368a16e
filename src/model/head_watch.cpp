#include "model/head_watch.h"

#include <algorithm>

namespace attn {

HeadWatch::HeadWatch(const TransformerConfig& config, std::int64_t top_keys)
    : heads_(config.heads), top_(top_keys) {
  const auto rows = static_cast<std::size_t>(config.layers * heads_),
             entries = rows * static_cast<std::size_t>(top_);
  last_.entropy.resize(rows);
  last_.sink.resize(rows);
  last_.keys.resize(entries);
  last_.weights.resize(entries);
}

AttentionWatch HeadWatch::watch(std::int64_t queries) {
  queries_ = queries;
  const auto rows = static_cast<std::size_t>(heads_ * queries),
             entries = rows * static_cast<std::size_t>(top_);
  entropy_.resize(rows);
  sink_.resize(rows);
  weights_.resize(entries);
  keys_.resize(entries);
  const auto ask = [this](std::int64_t) {
    Observed observed;
    observed.entropy = {entropy_.data(), Shape{1, heads_, queries_, 1}};
    observed.key_sets = {.sets = {{0}}, .mass = {sink_.data(), Shape{1, heads_, queries_, 1}}};
    observed.top = {
        .k = top_, .weights = {weights_.data(), Shape{1, heads_, queries_, top_}}, .keys = keys_};
    return observed;
  };
  return {ask, [this](const SeenAttention& seen) { keep(seen.layer); }};
}

void HeadWatch::keep(std::int64_t layer) {
  for (std::int64_t h = 0; h < heads_; ++h) {
    const std::int64_t from = h * queries_ + queries_ - 1, to = layer * heads_ + h;
    last_.entropy[static_cast<std::size_t>(to)] = entropy_[static_cast<std::size_t>(from)];
    last_.sink[static_cast<std::size_t>(to)] = sink_[static_cast<std::size_t>(from)];
    std::copy_n(weights_.begin() + from * top_, top_, last_.weights.begin() + to * top_);
    std::copy_n(keys_.begin() + from * top_, top_, last_.keys.begin() + to * top_);
  }
}

}  // namespace attn
