// BERT (arXiv 1810.04805) and RoBERTa (arXiv 1907.11692): encoders with learned positions and a
// norm after each sum. RoBERTa's first position is the row behind the padding token's.
#include "model/families.h"

namespace attn {

TransformerConfig read_bert_config(const Fields& fields) {
  TransformerConfig c = read_sizes(fields);
  c.types = fields.size("type_vocab_size", 1024).value_or(2);
  c.causal = false;
  c.post_norm = true;
  c.norm_epsilon = read_epsilon(fields, "layer_norm_eps", 1e-12);
  c.activation = activation_named(fields, "hidden_act");
  require(fields, "is_decoder", false);
  require(fields, "add_cross_attention", false);
  require(fields, "is_encoder_decoder", false);
  const std::string positions = fields.text("position_embedding_type").value_or("absolute");
  if (positions != "absolute") {
    fields.fail("position_embedding_type",
                "\"" + positions + "\" is not known, only \"absolute\" is");
  }
  return c;
}

DescribedModel load_bert(const Fields& fields, const std::string& type, Weights& weights) {
  const bool roberta = type == "roberta";
  require_encoder(fields, roberta ? "Roberta" : "Bert");
  DescribedModel model;
  TransformerConfig& c = model.config = read_bert_config(fields);
  const std::int64_t padding =
      fields.integer("pad_token_id", 0, c.vocabulary - 1).value_or(roberta ? 1 : 0);
  refuse_others(fields, {"attention_probs_dropout_prob", "directionality", "gradient_checkpointing",
                         "hidden_dropout_prob", "pooler_fc_size", "pooler_num_attention_heads",
                         "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
                         "tie_word_embeddings"});

  const bool prefixed = weights.has(type + ".embeddings.word_embeddings.weight");
  model.weights = read_bert_weights(weights, c, prefixed ? type + "." : "");
  if (roberta) skip_padding_position(fields, padding, model);
  return model;
}

TransformerWeights read_bert_weights(Weights& weights, const TransformerConfig& c,
                                     const std::string& prefix, bool projection_biases) {
  TransformerWeights w;
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return read_linear(weights, name, out, in, true);
  };
  const auto projection = [&](const std::string& name) {
    return read_linear(weights, name, c.width, c.width, projection_biases);
  };
  // Early files have other names.
  const auto norm = [&](const std::string& name) {
    if (weights.has(name + ".weight") || !weights.has(name + ".gamma"))
      return read_norm(weights, name, c.width, true);
    return TransformerWeights::Norm{weights.floats(name + ".gamma", {c.width}),
                                    weights.floats(name + ".beta", {c.width})};
  };
  const std::string embeddings = prefix + "embeddings.";
  w.embedding = weights.floats(embeddings + "word_embeddings.weight", {c.vocabulary, c.width});
  w.positions = weights.floats(embeddings + "position_embeddings.weight", {c.positions, c.width});
  w.types = weights.floats(embeddings + "token_type_embeddings.weight", {c.types, c.width});
  w.embedding_norm = norm(embeddings + "LayerNorm");
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = prefix + "encoder.layer." + std::to_string(i) + ".";
    const std::string self = name + "attention.self.";
    TransformerWeights::Layer layer;
    layer.query = projection(self + "query");
    layer.key = projection(self + "key");
    layer.value = projection(self + "value");
    if (c.global_tokens) {
      layer.global_query = projection(self + "query_global");
      layer.global_key = projection(self + "key_global");
      layer.global_value = projection(self + "value_global");
    }
    layer.output = linear(name + "attention.output.dense", c.width, c.width);
    layer.attention_norm = norm(name + "attention.output.LayerNorm");
    layer.up = linear(name + "intermediate.dense", c.feed_forward_width, c.width);
    layer.down = linear(name + "output.dense", c.width, c.feed_forward_width);
    layer.feed_forward_norm = norm(name + "output.LayerNorm");
    w.layers.push_back(layer);
  }
  return w;
}

void skip_padding_position(const Fields& fields, std::int64_t padding, DescribedModel& model) {
  TransformerConfig& c = model.config;
  if (c.positions <= padding + 1) fields.fail("pad_token_id", "leaves no positions");
  model.weights.positions += (padding + 1) * c.width;
  c.positions -= padding + 1;
}

}  // namespace attn
