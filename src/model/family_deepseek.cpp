// DeepSeek-V2 (arXiv 2405.04434): keys and values of all heads come from one latent vector of a
// token, beside a part of the key that rotates and that all heads share. Only its dense
// feed-forward, no experts. Keys and values are kept as they are expanded, not as latent vectors.
#include <cmath>

#include "model/families.h"

namespace attn {

namespace {

TransformerConfig read_config(const Fields& fields) {
  TransformerConfig c = read_sizes(fields, {.kv_heads = "num_key_value_heads"});
  if (c.kv_heads != c.heads)
    fields.fail("num_key_value_heads", "is not num_attention_heads, which we do not run");
  LatentConfig& latent = c.latent.emplace();
  latent.query_rank = fields.size("q_lora_rank", kLargestSize).value_or(0);
  latent.rank = fields.needed_size("kv_lora_rank", kLargestSize);
  latent.rotated = fields.needed_size("qk_rope_head_dim", kLargestHeadWidth);
  c.head_width = fields.needed_size("qk_nope_head_dim", kLargestHeadWidth) + latent.rotated;
  c.value_width = fields.needed_size("v_head_dim", kLargestHeadWidth);
  if (latent.rotated % 2 != 0) fields.fail("qk_rope_head_dim", "is odd");
  if (c.head_width > kLargestHeadWidth)
    fields.fail("qk_nope_head_dim", "makes heads wider than " + std::to_string(kLargestHeadWidth));
  c.norm = NormKind::rms;
  c.norm_epsilon = read_epsilon(fields, "rms_norm_eps", 1e-6);
  c.activation = activation_named(fields, "hidden_act");
  c.gated = true;
  c.rope = read_rope(fields, c.positions);
  c.rope->layout = RopeLayout::interleaved;
  const RopeScaling& scaling = c.rope->scaling;
  if (scaling.kind == RopeScaling::Kind::dynamic_ntk)
    fields.fail("rope_parameters", "have rope_type \"dynamic\", which we do not run");
  // YaRN's magnitude of all dimensions, those that do not rotate too: twice, in the scale.
  if (scaling.mscale_all_dim > 0 && scaling.factor > 1) {
    const double magnitude = 0.1 * scaling.mscale_all_dim * std::log(scaling.factor) + 1;
    c.attention_scale = magnitude * magnitude / std::sqrt(static_cast<double>(c.head_width));
  }
  // Layers from first_k_dense_replace on have routed experts.
  const auto dense = fields.integer("first_k_dense_replace", 0, kLargestLayers).value_or(0);
  const auto experts = fields.integer("n_routed_experts", 0, kLargestSize);
  if (dense < c.layers && experts.value_or(1) > 0)
    fields.fail("first_k_dense_replace", "leaves layers with routed experts, which we do not run");
  return c;
}

}  // namespace

DescribedModel load_deepseek_v2(const Fields& fields, Weights& weights) {
  DescribedModel model;
  const TransformerConfig& c = model.config = read_config(fields);
  const bool tied = fields.boolean("tie_word_embeddings").value_or(false);
  const bool attention_bias = fields.boolean("attention_bias").value_or(false);
  const bool mlp_bias = fields.boolean("mlp_bias").value_or(false);
  refuse_others(fields,
                {"aux_loss_alpha", "ep_size", "head_dim", "moe_intermediate_size", "moe_layer_freq",
                 "n_group", "n_shared_experts", "norm_topk_prob", "num_experts_per_tok",
                 "output_router_logits", "qk_head_dim", "routed_scaling_factor", "scoring_func",
                 "seq_aux", "topk_group", "topk_method"});

  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    return read_linear(weights, name, out, in, bias);
  };
  const auto norm = [&](const std::string& name, std::int64_t width) {
    return read_norm(weights, name, width, false);
  };
  const LatentConfig& latent = *c.latent;
  const std::int64_t q_width = c.heads * c.head_width, v_width = c.heads * c.value_width,
                     plain_width = q_width - c.heads * latent.rotated;
  const std::string prefix = weights.has("model.embed_tokens.weight") ? "model." : "";
  TransformerWeights& w = model.weights;
  w.embedding = weights.floats(prefix + "embed_tokens.weight", {c.vocabulary, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = prefix + "layers." + std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.attention_norm = norm(name + "input_layernorm", c.width);
    if (latent.query_rank > 0) {
      layer.query_latent =
          linear(name + "self_attn.q_a_proj", latent.query_rank, c.width, attention_bias);
      layer.query_latent_norm = norm(name + "self_attn.q_a_layernorm", latent.query_rank);
      layer.query = linear(name + "self_attn.q_b_proj", q_width, latent.query_rank, false);
    } else {
      layer.query = linear(name + "self_attn.q_proj", q_width, c.width, false);
    }
    layer.latent = linear(name + "self_attn.kv_a_proj_with_mqa", latent.rank + latent.rotated,
                          c.width, attention_bias);
    layer.latent_norm = norm(name + "self_attn.kv_a_layernorm", latent.rank);
    layer.expand = linear(name + "self_attn.kv_b_proj", plain_width + v_width, latent.rank, false);
    layer.output = linear(name + "self_attn.o_proj", c.width, v_width, attention_bias);
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
