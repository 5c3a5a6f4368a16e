#include "model/bert.h"

#include <utility>

#include "attn/attention.h"
#include "nn/dense.h"
#include "nn/layers.h"

namespace attn {

Bert::Bert(const BertConfig& config, Weights& weights) : config_(config) {
  const std::int64_t width = config.width;
  const std::string prefix = weights.has("bert.embeddings.word_embeddings.weight") ? "bert." : "";
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return Linear{weights.floats(name + ".weight", {out, in}),
                  weights.floats(name + ".bias", {out})};
  };
  const auto norm = [&](const std::string& name) {
    const bool early = !weights.has(name + ".weight") && weights.has(name + ".gamma");
    return Norm{weights.floats(name + (early ? ".gamma" : ".weight"), {width}),
                weights.floats(name + (early ? ".beta" : ".bias"), {width})};
  };
  const std::string embeddings = prefix + "embeddings.";
  words_ = weights.floats(embeddings + "word_embeddings.weight", {config.vocabulary, width});
  positions_ = weights.floats(embeddings + "position_embeddings.weight", {config.positions, width});
  types_ = weights.floats(embeddings + "token_type_embeddings.weight", {config.types, width});
  embedding_norm_ = norm(embeddings + "LayerNorm");
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string name = prefix + "encoder.layer." + std::to_string(i) + ".";
    Layer layer;
    layer.query = linear(name + "attention.self.query", width, width);
    layer.key = linear(name + "attention.self.key", width, width);
    layer.value = linear(name + "attention.self.value", width, width);
    layer.output = linear(name + "attention.output.dense", width, width);
    layer.attention_norm = norm(name + "attention.output.LayerNorm");
    layer.up = linear(name + "intermediate.dense", config.feed_forward_width, width);
    layer.down = linear(name + "output.dense", width, config.feed_forward_width);
    layer.output_norm = norm(name + "output.LayerNorm");
    layers_.push_back(layer);
  }
}

// What a layer works in; x is its input and its output.
struct Bert::Buffers {
  Buffers(std::int64_t count, const BertConfig& config)
      : tokens(count),
        x(size(config.width)),
        q(size(config.width)),
        k(size(config.width)),
        v(size(config.width)),
        attended(size(config.width)),
        projected(size(config.width)),
        wide(size(config.feed_forward_width)) {}
  std::size_t size(std::int64_t width) const { return static_cast<std::size_t>(tokens * width); }

  std::int64_t tokens;
  std::vector<float> x, q, k, v, attended, projected, wide;
};

void Bert::run_layer(const Layer& layer, std::int64_t index, const Plan& plan, Buffers& buffers,
                     const Context& context, const Observer& observer, const Asker& ask) const {
  const std::int64_t width = config_.width;
  const auto product = [&](const Linear& linear, std::int64_t in, const std::vector<float>& x,
                           std::int64_t out, std::vector<float>& y,
                           nn::Activation activation = nn::Activation::none) {
    nn::dense({.rows = buffers.tokens,
               .in = in,
               .out = out,
               .x = x.data(),
               .w = linear.weight,
               .bias = linear.bias,
               .y = y.data(),
               .activation = activation},
              context);
  };
  // x = norm(x + projected).
  const auto add_and_norm = [&](const Norm& norm) {
    nn::layer_norm({.rows = buffers.tokens,
                    .width = width,
                    .x = buffers.projected.data(),
                    .residual = buffers.x.data(),
                    .weight = norm.weight,
                    .bias = norm.bias,
                    .epsilon = static_cast<float>(config_.layer_norm_epsilon),
                    .y = buffers.x.data()},
                   context);
  };

  product(layer.query, width, buffers.x, width, buffers.q);
  product(layer.key, width, buffers.x, width, buffers.k);
  product(layer.value, width, buffers.x, width, buffers.v);
  const Shape shape{1, config_.heads, buffers.tokens, config_.head_width()};
  plan.run(ConstTensor::blhd(buffers.q.data(), shape), ConstTensor::blhd(buffers.k.data(), shape),
           ConstTensor::blhd(buffers.v.data(), shape), Tensor::blhd(buffers.attended.data(), shape),
           ask ? ask(index) : Observed{});
  if (observer) {
    observer({index, buffers.q.data(), buffers.k.data(), buffers.v.data(), layer.output.weight});
  }
  product(layer.output, width, buffers.attended, width, buffers.projected);
  add_and_norm(layer.attention_norm);
  product(layer.up, width, buffers.x, config_.feed_forward_width, buffers.wide, config_.activation);
  product(layer.down, config_.feed_forward_width, buffers.wide, width, buffers.projected);
  add_and_norm(layer.output_norm);
}

std::vector<float> Bert::run(const PackedTexts& texts, const Context& context,
                             const Observer& observer, const Asker& ask) const {
  const std::int64_t width = config_.width;
  Buffers buffers(texts.tokens(), config_);
  std::vector<std::int32_t> positions;
  for (const std::int64_t length : texts.lengths) {
    for (std::int64_t i = 0; i < length; ++i) positions.push_back(static_cast<std::int32_t>(i));
  }
  nn::embedding_sum(width, {words_, config_.vocabulary}, texts.ids, {positions_, config_.positions},
                    positions, {types_, config_.types}, texts.type_ids, buffers.x.data());
  nn::layer_norm({.rows = buffers.tokens,
                  .width = width,
                  .x = buffers.x.data(),
                  .weight = embedding_norm_.weight,
                  .bias = embedding_norm_.bias,
                  .epsilon = static_cast<float>(config_.layer_norm_epsilon),
                  .y = buffers.x.data()},
                 context);
  AttentionShape shape;
  shape.q_heads = shape.kv_heads = config_.heads;
  shape.q_len = shape.k_len = buffers.tokens;
  shape.width = config_.head_width();
  const Plan attention = plan(
      shape, {.mask = texts.lengths.size() == 1 ? Mask::full() : Mask::documents(texts.lengths)},
      context);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    run_layer(layers_[i], static_cast<std::int64_t>(i), attention, buffers, context, observer, ask);
  }
  return std::move(buffers.x);
}

}  // namespace attn
