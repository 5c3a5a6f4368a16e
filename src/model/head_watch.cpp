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

std::vector<TokenAttention> attention_of(const ModelInfo& info, std::int64_t tokens,
                                         std::int64_t from, std::int64_t top_keys,
                                         const std::function<void(const Observed&)>& observe) {
  const std::int64_t heads = info.layers * info.heads;
  const auto rows = static_cast<std::size_t>(heads * tokens);
  std::vector<float> entropy(rows), sink(rows), weights(rows * static_cast<std::size_t>(top_keys));
  std::vector<std::int32_t> keys(weights.size());
  const Shape of_rows{info.layers, info.heads, tokens, 1};
  Observed asked;
  asked.entropy = {entropy.data(), of_rows};
  asked.key_sets = {.sets = {{0}}, .mass = {sink.data(), of_rows}};
  asked.top = {.k = top_keys,
               .weights = {weights.data(), Shape{info.layers, info.heads, tokens, top_keys}},
               .keys = keys};
  observe(asked);
  std::vector<TokenAttention> all;
  for (std::int64_t q = from; q < tokens; ++q) {
    TokenAttention& one = all.emplace_back();
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t row = h * tokens + q;
      one.entropy.push_back(entropy[static_cast<std::size_t>(row)]);
      one.sink.push_back(sink[static_cast<std::size_t>(row)]);
      const auto copy = [&](const auto& answers, auto& to) {
        const auto begin = answers.begin() + row * top_keys;
        to.insert(to.end(), begin, begin + top_keys);
      };
      copy(keys, one.keys);
      copy(weights, one.weights);
    }
  }
  return all;
}

}  // namespace attn
