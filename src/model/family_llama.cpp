// LLaMA (arXiv 2302.13971) and those that differ from it by a setting: Mistral (a window), Qwen2
// (biases of queries, keys and values), Qwen3 (norms of queries and keys), SmolLM2.
#include "model/families.h"

namespace attn {

namespace {

TransformerConfig read_config(const Fields& fields, const std::string& type) {
  TransformerConfig c =
      read_sizes(fields, {.kv_heads = "num_key_value_heads", .head_width = "head_dim"});
  c.norm = NormKind::rms;
  c.norm_epsilon = read_epsilon(fields, "rms_norm_eps", 1e-6);
  c.rope = read_rope(fields, c.positions);
  c.activation = activation_named(fields, "hidden_act");
  c.gated = true;
  // Qwen names a window and says elsewhere whether it is used.
  const auto window = fields.size("sliding_window", kLargestSize);
  const auto used = fields.boolean("use_sliding_window");
  if (type == "mistral" && window) c.windows.assign(static_cast<std::size_t>(c.layers), *window);
  if (type != "mistral" && used.value_or(false))
    fields.fail("use_sliding_window", "is true, which we do not run");
  if (const Json* const kinds = fields.find("layer_types")) {
    for (const Json& kind : kinds->items) {
      if (kind.text != "full_attention")
        fields.fail("layer_types", "names \"" + kind.text + "\", which we do not run");
    }
  }
  return c;
}

}  // namespace

DescribedModel load_llama(const Fields& fields, const std::string& type, Weights& weights) {
  DescribedModel model;
  const TransformerConfig& c = model.config = read_config(fields, type);
  const bool tied = fields.boolean("tie_word_embeddings").value_or(false);
  const bool attention_bias = fields.boolean("attention_bias").value_or(type == "qwen2");
  const bool mlp_bias = fields.boolean("mlp_bias").value_or(false);
  refuse_others(fields, {"max_window_layers"});

  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    return read_linear(weights, name, out, in, bias);
  };
  const auto norm = [&](const std::string& name, std::int64_t width) {
    return read_norm(weights, name, width, false);
  };
  const std::int64_t q_width = c.heads * c.head_width, kv_width = c.kv_heads * c.head_width;
  const std::string prefix = weights.has("model.embed_tokens.weight") ? "model." : "";
  TransformerWeights& w = model.weights;
  w.embedding = weights.floats(prefix + "embed_tokens.weight", {c.vocabulary, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = prefix + "layers." + std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.attention_norm = norm(name + "input_layernorm", c.width);
    layer.query = linear(name + "self_attn.q_proj", q_width, c.width, attention_bias);
    layer.key = linear(name + "self_attn.k_proj", kv_width, c.width, attention_bias);
    layer.value = linear(name + "self_attn.v_proj", kv_width, c.width, attention_bias);
    // Qwen2 has no bias here.
    layer.output =
        linear(name + "self_attn.o_proj", c.width, q_width, attention_bias && type != "qwen2");
    if (type == "qwen3") {
      layer.query_norm = norm(name + "self_attn.q_norm", c.head_width);
      layer.key_norm = norm(name + "self_attn.k_norm", c.head_width);
    }
    layer.feed_forward_norm = norm(name + "post_attention_layernorm", c.width);
    layer.gate = linear(name + "mlp.gate_proj", c.feed_forward_width, c.width, mlp_bias);
    layer.up = linear(name + "mlp.up_proj", c.feed_forward_width, c.width, mlp_bias);
    layer.down = linear(name + "mlp.down_proj", c.width, c.feed_forward_width, mlp_bias);
    w.layers.push_back(layer);
  }
  w.final_norm = norm(prefix + "norm", c.width);
  w.head.weight = tied ? w.embedding : weights.floats("lm_head.weight", {c.vocabulary, c.width});
  return model;
}

}  // namespace attn
