// GPT-NeoX (arXiv 2204.06745) and Pythia: rotary positions on a part of each head, attention and
// feed-forward side by side, queries, keys and values of a head next to each other in one matrix.
#include "model/families.h"

namespace attn {

DescribedModel load_gpt_neox(const Fields& fields, Weights& weights) {
  DescribedModel model;
  TransformerConfig& c = model.config;
  c = read_sizes(fields);
  c.norm_epsilon = read_epsilon(fields, "layer_norm_eps", 1e-5);
  c.activation = activation_named(fields, "hidden_act");
  c.parallel = fields.boolean("use_parallel_residual").value_or(true);
  c.rope = read_rope(fields, c.positions);
  if (const auto base = fields.number("rotary_emb_base")) c.rope->base = *base;
  if (const auto fraction = fields.number("rotary_pct")) c.rope->fraction = *fraction;
  require(fields, "attention_bias", true);
  const bool tied = fields.boolean("tie_word_embeddings").value_or(false);
  refuse_others(fields, {"hidden_dropout"});

  TransformerWeights& w = model.weights;
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return read_linear(weights, name, out, in, true);
  };
  const auto norm = [&](const std::string& name) {
    return read_norm(weights, name, c.width, true);
  };
  w.embedding = weights.floats("gpt_neox.embed_in.weight", {c.vocabulary, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = "gpt_neox.layers." + std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.attention_norm = norm(name + "input_layernorm");
    const auto all = linear(name + "attention.query_key_value", 3 * c.width, c.width);
    layer.query = part_of_heads(w, all, 0, c);
    layer.key = part_of_heads(w, all, 1, c);
    layer.value = part_of_heads(w, all, 2, c);
    layer.output = linear(name + "attention.dense", c.width, c.width);
    layer.feed_forward_norm = norm(name + "post_attention_layernorm");
    layer.up = linear(name + "mlp.dense_h_to_4h", c.feed_forward_width, c.width);
    layer.down = linear(name + "mlp.dense_4h_to_h", c.width, c.feed_forward_width);
    w.layers.push_back(layer);
  }
  w.final_norm = norm("gpt_neox.final_layer_norm");
  const char* const head = weights.has("embed_out.weight") ? "embed_out.weight" : "lm_head.weight";
  w.head.weight = tied ? w.embedding : weights.floats(head, {c.vocabulary, c.width});
  return model;
}

}  // namespace attn
