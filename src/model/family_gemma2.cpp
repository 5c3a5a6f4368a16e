// Gemma 2 (arXiv 2408.00118): norms before and after each branch, which multiply by 1 + weight;
// every other layer sees a window; soft caps of scores and logits.
#include <cmath>

#include "model/families.h"

namespace attn {

DescribedModel load_gemma2(const Fields& fields, Weights& weights) {
  DescribedModel model;
  TransformerConfig& c = model.config;
  // Transformers' defaults are those of one size of the model, so both must be there.
  for (const char* const name : {"num_key_value_heads", "head_dim"}) {
    if (fields.find(name) == nullptr) fields.fail(name, "is missing");
  }
  c = read_sizes(fields, {.kv_heads = "num_key_value_heads", .head_width = "head_dim"});
  c.norm = NormKind::rms;
  c.norm_epsilon = read_epsilon(fields, "rms_norm_eps", 1e-6);
  c.rope = read_rope(fields, c.positions);
  // Early files have hidden_act too, which meant something else.
  c.activation = activation_named(
      fields, fields.find("hidden_activation") != nullptr ? "hidden_activation" : "hidden_act");
  c.gated = true;
  c.embedding_scale = std::sqrt(static_cast<double>(c.width));
  c.attention_scale = 1 / std::sqrt(fields.number("query_pre_attn_scalar").value_or(256));
  c.attention_cap = fields.number("attn_logit_softcapping").value_or(0);
  c.logit_cap = fields.number("final_logit_softcapping").value_or(0);
  const std::int64_t window = fields.needed_size("sliding_window", kLargestSize);
  const Json* const kinds = fields.find("layer_types");
  if (kinds != nullptr && kinds->items.size() != static_cast<std::size_t>(c.layers))
    fields.fail("layer_types", "has another length than num_hidden_layers");
  for (std::int64_t i = 0; i < c.layers; ++i) {
    bool slides = i % 2 == 0;
    if (kinds != nullptr) {
      const std::string& kind = kinds->items[static_cast<std::size_t>(i)].text;
      slides = kind == "sliding_attention";
      if (!slides && kind != "full_attention")
        fields.fail("layer_types", "names \"" + kind + "\", which is not known");
    }
    c.windows.push_back(slides ? window : 0);
  }
  require(fields, "attention_bias", false);
  require(fields, "use_bidirectional_attention", false);
  require(fields, "tie_word_embeddings", true);
  fields.find("hidden_act");
  refuse_others(fields, {"cache_implementation"});

  TransformerWeights& w = model.weights;
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return read_linear(weights, name, out, in, false);
  };
  const auto norm = [&](const std::string& name) {
    const float* from = weights.floats(name + ".weight", {c.width});
    std::vector<float>& to = w.made.emplace_back(from, from + c.width);
    for (float& x : to) x += 1;
    return TransformerWeights::Norm{to.data(), nullptr};
  };
  const std::int64_t q_width = c.heads * c.head_width, kv_width = c.kv_heads * c.head_width;
  w.embedding = weights.floats("model.embed_tokens.weight", {c.vocabulary, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = "model.layers." + std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.attention_norm = norm(name + "input_layernorm");
    layer.query = linear(name + "self_attn.q_proj", q_width, c.width);
    layer.key = linear(name + "self_attn.k_proj", kv_width, c.width);
    layer.value = linear(name + "self_attn.v_proj", kv_width, c.width);
    layer.output = linear(name + "self_attn.o_proj", c.width, q_width);
    layer.after_attention = norm(name + "post_attention_layernorm");
    layer.feed_forward_norm = norm(name + "pre_feedforward_layernorm");
    layer.gate = linear(name + "mlp.gate_proj", c.feed_forward_width, c.width);
    layer.up = linear(name + "mlp.up_proj", c.feed_forward_width, c.width);
    layer.down = linear(name + "mlp.down_proj", c.width, c.feed_forward_width);
    layer.after_feed_forward = norm(name + "post_feedforward_layernorm");
    w.layers.push_back(layer);
  }
  w.final_norm = norm("model.norm");
  w.head.weight = w.embedding;
  return model;
}

}  // namespace attn
