// T5 (arXiv 1910.10683) and its version 1.1, Flan-T5: relative positions in buckets, one table for
// all layers of a side; no scale of scores; RMS norms; no biases.
#include <cmath>

#include "model/translators.h"

namespace attn {

namespace {

struct Side {
  TransformerConfig config;
  std::int64_t buckets = 0, distance = 0;
};

// "relu", or "gated-gelu", where gelu means its approximation by tanh.
void read_feed_forward(const Fields& fields, TransformerConfig& c) {
  const std::string kind = fields.text("feed_forward_proj").value_or("relu");
  if (kind == "relu") {
    c.activation = nn::Activation::relu;
  } else if (kind == "gated-gelu") {
    c.activation = nn::Activation::gelu_tanh;
    c.gated = true;
  } else if (kind == "gated-silu") {
    c.activation = nn::Activation::silu;
    c.gated = true;
  } else {
    fields.fail("feed_forward_proj",
                "\"" + kind + "\" is not known (relu, gated-gelu, gated-silu)");
  }
}

Side read_side(const Fields& fields) {
  Side side;
  TransformerConfig& c = side.config;
  c.width = fields.needed_size("d_model", kLargestSize);
  c.layers = fields.needed_size("num_layers", kLargestLayers);
  c.heads = c.kv_heads = fields.needed_size("num_heads", kLargestSize);
  c.head_width = fields.needed_size("d_kv", 1024);
  c.feed_forward_width = fields.needed_size("d_ff", kLargestSize);
  c.vocabulary = fields.needed_size("vocab_size", kLargestSize);
  c.positions = kAnyPositions;
  c.norm = NormKind::rms;
  c.norm_epsilon = fields.number("layer_norm_epsilon").value_or(1e-6);
  c.attention_scale = 1;
  read_feed_forward(fields, c);
  side.buckets = fields.needed_size("relative_attention_num_buckets", 1 << 16);
  side.distance = fields.size("relative_attention_max_distance", kLargestSize).value_or(128);
  return side;
}

DescribedModel read_model(const Side& side, bool decoder, Weights& weights) {
  DescribedModel model;
  TransformerConfig& c = model.config = side.config;
  c.causal = decoder;
  const std::string stack = decoder ? "decoder." : "encoder.";
  const std::int64_t inner = c.heads * c.head_width;
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return read_linear(weights, name, out, in, false);
  };
  const auto norm = [&](const std::string& name) {
    return read_norm(weights, name + ".layer_norm", c.width, false);
  };
  const float* table =
      weights.floats(stack + "block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                     {side.buckets, c.heads});
  c.t5 = T5Bias{.table = {table, table + side.buckets * c.heads},
                .buckets = static_cast<int>(side.buckets),
                .max_distance = static_cast<int>(side.distance),
                .bidirectional = !decoder};
  TransformerWeights& w = model.weights;
  w.embedding = weights.floats("shared.weight", {c.vocabulary, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = stack + "block." + std::to_string(i) + ".layer.";
    TransformerWeights::Layer layer;
    layer.attention_norm = norm(name + "0");
    layer.query = linear(name + "0.SelfAttention.q", inner, c.width);
    layer.key = linear(name + "0.SelfAttention.k", inner, c.width);
    layer.value = linear(name + "0.SelfAttention.v", inner, c.width);
    layer.output = linear(name + "0.SelfAttention.o", c.width, inner);
    if (decoder) {
      layer.source_norm = norm(name + "1");
      layer.source_query = linear(name + "1.EncDecAttention.q", inner, c.width);
      layer.source_key = linear(name + "1.EncDecAttention.k", inner, c.width);
      layer.source_value = linear(name + "1.EncDecAttention.v", inner, c.width);
      layer.source_output = linear(name + "1.EncDecAttention.o", c.width, inner);
    }
    const std::string last = name + (decoder ? "2" : "1");
    layer.feed_forward_norm = norm(last);
    const std::string product = last + ".DenseReluDense.";
    if (c.gated) layer.gate = linear(product + "wi_0", c.feed_forward_width, c.width);
    layer.up = linear(product + (c.gated ? "wi_1" : "wi"), c.feed_forward_width, c.width);
    layer.down = linear(product + "wo", c.width, c.feed_forward_width);
    w.layers.push_back(layer);
  }
  w.final_norm = read_norm(weights, stack + "final_layer_norm", c.width, false);
  return model;
}

}  // namespace

DescribedTranslator load_t5(const Fields& fields, Weights& weights) {
  const Side encoder = read_side(fields);
  Side decoder = encoder;
  decoder.config.layers =
      fields.size("num_decoder_layers", kLargestLayers).value_or(encoder.config.layers);
  const std::int64_t vocabulary = encoder.config.vocabulary;
  // Version 1.1 has a head of its own and no scale; its files say so by `tie_word_embeddings`,
  // those of Transformers 5 by another name, because they tie.
  const bool tied = fields.boolean("tie_word_embeddings").value_or(true);
  const bool scaled = fields.boolean("scale_decoder_outputs").value_or(tied);
  DescribedTranslator model;
  model.start = fields.needed_token("decoder_start_token_id", vocabulary);
  // These repeat what feed_forward_proj says.
  know_search(fields);
  refuse_others(fields, {"classifier_dropout", "dense_act_fn", "dropout_rate", "initializer_factor",
                         "is_encoder_decoder", "is_gated_act", "n_positions", "output_past"});
  model.encoder = read_model(encoder, false, weights);
  model.decoder = read_model(decoder, true, weights);
  TransformerWeights& w = model.decoder.weights;
  const std::int64_t width = encoder.config.width;
  w.head.weight = weights.has("lm_head.weight")
                      ? weights.floats("lm_head.weight", {vocabulary, width})
                      : w.embedding;
  if (scaled) {
    // Tied logits are scaled by 1 / sqrt(width): as part of the last norm.
    const float scale = 1 / std::sqrt(static_cast<float>(width));
    std::vector<float>& scaled_norm =
        w.made.emplace_back(w.final_norm.weight, w.final_norm.weight + width);
    for (float& x : scaled_norm) x *= scale;
    w.final_norm.weight = scaled_norm.data();
  }
  return model;
}

}  // namespace attn
