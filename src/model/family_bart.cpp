// BART (arXiv 1910.13461) and Marian, which differ by where positions come from and by a norm of
// the embeddings: norms after the sums, biases everywhere, one of the logits too.
#include <cmath>
#include <numeric>

#include "model/translators.h"

namespace attn {

namespace {

struct Sides {
  bool marian = false;
  std::string prefix;  // of all names but the head's
};

TransformerConfig read_side(const Fields& fields, const std::string& side) {
  TransformerConfig c;
  const auto size = [&](const std::string& name, std::int64_t largest) {
    return fields.needed_size((side + name).c_str(), largest);
  };
  c.causal = side == "decoder_";
  c.post_norm = true;
  c.width = fields.needed_size("d_model", kLargestSize);
  c.layers = size("layers", kLargestLayers);
  c.heads = c.kv_heads = size("attention_heads", kLargestSize);
  if (c.width % c.heads != 0) fields.fail(side + "attention_heads", "does not divide d_model");
  c.head_width = c.width / c.heads;
  if (c.head_width > 1024) fields.fail(side + "attention_heads", "makes heads wider than 1024");
  c.feed_forward_width = size("ffn_dim", kLargestSize);
  c.vocabulary = fields.needed_size("vocab_size", kLargestSize);
  c.positions = fields.needed_size("max_position_embeddings", kLargestSize);
  c.activation = activation_named(fields, "activation_function");
  if (fields.boolean("scale_embedding").value_or(false))
    c.embedding_scale = std::sqrt(static_cast<double>(c.width));
  return c;
}

// Sines in the front half, cosines behind.
const float* sines_then_cosines(const TransformerConfig& c, TransformerWeights& w) {
  const auto width = static_cast<std::size_t>(c.width), sines = (width + 1) / 2;
  std::vector<std::int64_t> positions(static_cast<std::size_t>(c.positions));
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<float> mixed(positions.size() * width);
  sinusoidal(positions, c.width, mixed.data());
  std::vector<float>& table = w.made.emplace_back(mixed.size());
  for (std::size_t i = 0; i < table.size(); ++i) {
    const std::size_t row = i / width, j = i % width;
    table[row * width + (j % 2 == 0 ? j / 2 : sines + j / 2)] = mixed[i];
  }
  return table.data();
}

DescribedModel read_model(const TransformerConfig& config, const Sides& sides,
                          const std::string& side, Weights& weights) {
  DescribedModel model;
  const TransformerConfig& c = model.config = config;
  TransformerWeights& w = model.weights;
  const std::string stack = sides.prefix + side;
  const std::string shared = sides.prefix + "shared.weight";
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return read_linear(weights, name, out, in, true);
  };
  const auto norm = [&](const std::string& name) {
    return read_norm(weights, name, c.width, true);
  };
  w.embedding = weights.floats(weights.has(shared) ? shared : stack + "embed_tokens.weight",
                               {c.vocabulary, c.width});
  if (sides.marian) {
    w.positions = sines_then_cosines(c, w);
  } else {
    constexpr std::int64_t kOffset = 2;  // rows before that of position 0
    w.positions =
        weights.floats(stack + "embed_positions.weight", {c.positions + kOffset, c.width}) +
        kOffset * c.width;
    w.embedding_norm = norm(stack + "layernorm_embedding");
  }
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = stack + "layers." + std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.query = linear(name + "self_attn.q_proj", c.width, c.width);
    layer.key = linear(name + "self_attn.k_proj", c.width, c.width);
    layer.value = linear(name + "self_attn.v_proj", c.width, c.width);
    layer.output = linear(name + "self_attn.out_proj", c.width, c.width);
    layer.attention_norm = norm(name + "self_attn_layer_norm");
    if (c.causal) {
      layer.source_query = linear(name + "encoder_attn.q_proj", c.width, c.width);
      layer.source_key = linear(name + "encoder_attn.k_proj", c.width, c.width);
      layer.source_value = linear(name + "encoder_attn.v_proj", c.width, c.width);
      layer.source_output = linear(name + "encoder_attn.out_proj", c.width, c.width);
      layer.source_norm = norm(name + "encoder_attn_layer_norm");
    }
    layer.up = linear(name + "fc1", c.feed_forward_width, c.width);
    layer.down = linear(name + "fc2", c.width, c.feed_forward_width);
    layer.feed_forward_norm = norm(name + "final_layer_norm");
    w.layers.push_back(layer);
  }
  return model;
}

}  // namespace

DescribedTranslator load_bart(const Fields& fields, const std::string& type, Weights& weights) {
  Sides sides;
  sides.marian = type == "marian";
  sides.prefix = weights.has("model.encoder.layers.0.fc1.weight") ? "model." : "";
  const TransformerConfig encoder = read_side(fields, "encoder_");
  TransformerConfig decoder = read_side(fields, "decoder_");
  decoder.vocabulary = fields.size("decoder_vocab_size", kLargestSize).value_or(encoder.vocabulary);
  DescribedTranslator model;
  model.start = fields.needed_token("decoder_start_token_id", decoder.vocabulary);
  // What early files say of variants that these two are not.
  require(fields, "normalize_before", false);
  require(fields, "add_final_layer_norm", false);
  require(fields, "normalize_embedding", !sides.marian);
  require(fields, "static_position_embeddings", sides.marian);
  know_search(fields);
  refuse_others(
      fields,
      {"activation_dropout", "add_bias_logits", "classif_dropout", "decoder_layerdrop", "dropout",
       "encoder_layerdrop", "extra_pos_embeddings", "force_bos_token_to_be_generated",
       "gradient_checkpointing", "init_std", "is_encoder_decoder", "num_hidden_layers",
       "num_labels", "output_past", "prefix", "share_encoder_decoder_embeddings",
       "tie_word_embeddings", "tokenizer_class", "unk_token_id"});
  model.encoder = read_model(encoder, sides, "encoder.", weights);
  model.decoder = read_model(decoder, sides, "decoder.", weights);
  TransformerWeights::Linear& head = model.decoder.weights.head;
  head.weight = weights.has("lm_head.weight")
                    ? weights.floats("lm_head.weight", {decoder.vocabulary, decoder.width})
                    : model.decoder.weights.embedding;
  if (weights.has("final_logits_bias"))
    head.bias = weights.floats("final_logits_bias", {1, decoder.vocabulary});
  return model;
}

}  // namespace attn
