// Small decoders with weights by the formula of made_weights.h, without a file.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "made_weights.h"
#include "model/transformer.h"

namespace attn {

inline const Context& one_thread() {
  static const Context context({.threads = 1});
  return context;
}

// As LLaMA: RMS norms, RoPE, SwiGLU; 3 heads on one key/value head.
inline TransformerConfig small_llama(std::int64_t layers = 2) {
  TransformerConfig c;
  c.layers = layers;
  c.width = 60;
  c.heads = 3;
  c.kv_heads = 1;
  c.head_width = c.value_width = 20;
  c.feed_forward_width = 88;
  c.vocabulary = 101;
  c.positions = 256;
  c.norm = NormKind::rms;
  c.rope = RopeOptions{};
  c.activation = nn::Activation::silu;
  c.gated = true;
  return c;
}

// With learned positions when the configuration has neither RoPE nor ALiBi.
inline TransformerWeights made_transformer_weights(const TransformerConfig& c) {
  TransformerWeights w;
  const auto made = [&](const std::string& name, std::int64_t count, double size, double middle) {
    std::vector<float>& x = w.made.emplace_back(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<float>(middle + size * uniform(hash(name), i));
    return x.data();
  };
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return TransformerWeights::Linear{made(name + ".weight", out * in, 0.22, 0),
                                      made(name + ".bias", out, 0.1, 0)};
  };
  const auto norm = [&](const std::string& name) {
    return TransformerWeights::Norm{made(name, c.width, 0.25, 1), made(name + ".b", c.width, 0, 0)};
  };
  w.embedding = made("embedding", c.vocabulary * c.width, 0.6, 0);
  if (!c.rope && !c.alibi) w.positions = made("positions", c.positions * c.width, 0.3, 0);
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string at = std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.attention_norm = norm(at + "attention_norm");
    layer.query = linear(at + "query", c.heads * c.head_width, c.width);
    layer.key = linear(at + "key", c.kv_heads * c.head_width, c.width);
    layer.value = linear(at + "value", c.kv_heads * c.head_width, c.width);
    layer.output = linear(at + "output", c.width, c.heads * c.head_width);
    layer.feed_forward_norm = norm(at + "feed_forward_norm");
    if (c.gated) layer.gate = linear(at + "gate", c.feed_forward_width, c.width);
    layer.up = linear(at + "up", c.feed_forward_width, c.width);
    layer.down = linear(at + "down", c.width, c.feed_forward_width);
    w.layers.push_back(layer);
  }
  w.final_norm = norm("final_norm");
  w.head = linear("head", c.vocabulary, c.width);
  return w;
}

// Ids by a formula that rarely repeats itself.
inline std::vector<std::int32_t> made_ids(std::int64_t count, std::int64_t seed = 0) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>((i * 37 + i * i * 3 + seed) % 101));
  return ids;
}

// Of all tokens at once.
inline std::vector<float> hidden_of(const Transformer& model, std::span<const std::int32_t> ids,
                                    const Context& context, const HeadOutputs& heads = {}) {
  KvCache cache(model.cache_options(static_cast<std::int64_t>(ids.size())), context);
  return model.hidden(ids, cache, cache.create(), context, {.outputs = heads});
}

}  // namespace attn
