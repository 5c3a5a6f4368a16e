// BLOOM (arXiv 2211.05100): ALiBi, and a norm of the embeddings.
#include "model/families.h"

namespace attn {

DescribedModel load_bloom(const Fields& fields, Weights& weights) {
  DescribedModel model;
  TransformerConfig& c = model.config;
  // Early files spell some settings otherwise.
  const auto either = [&](const char* name, const char* early) {
    return fields.find(name) != nullptr ? name : early;
  };
  c = read_sizes(fields, {.width = either("hidden_size", "n_embed"),
                          .layers = either("n_layer", "num_hidden_layers"),
                          .heads = either("n_head", "num_attention_heads"),
                          .feed_forward_width = nullptr,
                          .positions = nullptr});
  c.feed_forward_width = fields.size("n_inner", kLargestSize).value_or(4 * c.width);
  // What all published models were trained with; nothing but this figure depends on it.
  c.positions = fields.size("seq_length", kLargestSize).value_or(2048);
  c.norm_epsilon = read_epsilon(fields, "layer_norm_epsilon", 1e-5);
  c.alibi = true;
  c.activation = nn::Activation::gelu_tanh;
  require(fields, "apply_residual_connection_post_layernorm", false);
  const bool tied = fields.boolean("tie_word_embeddings").value_or(true);
  refuse_others(fields, {"attention_softmax_in_fp32", "bias_dropout_fusion", "hidden_dropout",
                         "masked_softmax_fusion", "offset_alibi", "skip_bias_add",
                         "skip_bias_add_qkv", "slow_but_exact", "unk_token_id"});

  TransformerWeights& w = model.weights;
  const std::string prefix =
      weights.has("transformer.word_embeddings.weight") ? "transformer." : "";
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return read_linear(weights, name, out, in, true);
  };
  const auto norm = [&](const std::string& name) {
    return read_norm(weights, name, c.width, true);
  };
  w.embedding = weights.floats(prefix + "word_embeddings.weight", {c.vocabulary, c.width});
  w.embedding_norm = norm(prefix + "word_embeddings_layernorm");
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = prefix + "h." + std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.attention_norm = norm(name + "input_layernorm");
    const auto all = linear(name + "self_attention.query_key_value", 3 * c.width, c.width);
    layer.query = part_of_heads(w, all, 0, c);
    layer.key = part_of_heads(w, all, 1, c);
    layer.value = part_of_heads(w, all, 2, c);
    layer.output = linear(name + "self_attention.dense", c.width, c.width);
    layer.feed_forward_norm = norm(name + "post_attention_layernorm");
    layer.up = linear(name + "mlp.dense_h_to_4h", c.feed_forward_width, c.width);
    layer.down = linear(name + "mlp.dense_4h_to_h", c.width, c.feed_forward_width);
    w.layers.push_back(layer);
  }
  w.final_norm = norm(prefix + "ln_f");
  w.head.weight = tied ? w.embedding : weights.floats("lm_head.weight", {c.vocabulary, c.width});
  return model;
}

}  // namespace attn
