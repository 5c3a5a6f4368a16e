// MPT (MosaicML): ALiBi, no biases.
#include "model/families.h"

namespace attn {

DescribedModel load_mpt(const Fields& fields, Weights& weights) {
  DescribedModel model;
  TransformerConfig& c = model.config;
  c = read_sizes(fields, {.width = "d_model",
                          .layers = "n_layers",
                          .heads = "n_heads",
                          .feed_forward_width = nullptr,
                          .positions = "max_seq_len"});
  c.feed_forward_width = fields.size("expansion_ratio", 1024).value_or(4) * c.width;
  c.norm_epsilon = read_epsilon(fields, "layer_norm_epsilon", 1e-5);
  c.activation = nn::Activation::gelu;
  c.alibi = true;
  require(fields, "no_bias", true);
  require(fields, "tie_word_embeddings", true);
  if (fields.find("logit_scale") != nullptr) fields.fail("logit_scale", "is not known");
  if (const Json* const attention = fields.find("attn_config")) {
    const Fields inner(*attention, fields.source() + ": attn_config");
    c.alibi_max = inner.number("alibi_bias_max").value_or(8);
    require(inner, "alibi", true);
    require(inner, "prefix_lm", false);
    require(inner, "qk_ln", false);
    for (const char* const name : {"clip_qkv", "softmax_scale"}) {
      if (inner.find(name) != nullptr) inner.fail(name, "is set, which we do not run");
    }
    if (const auto kind = inner.text("attn_type"); kind && *kind != "multihead_attention")
      inner.fail("attn_type", "\"" + *kind + "\" is not known (multihead_attention)");
    refuse_others(inner, {"attn_impl", "attn_pdrop", "attn_uses_sequence_id", "model_type",
                          "is_encoder_decoder", "problem_type"});
  }
  refuse_others(fields,
                {"emb_pdrop", "embedding_fraction", "init_config", "init_device", "learned_pos_emb",
                 "norm_type", "resid_pdrop", "tokenizer_name", "verbose"});

  TransformerWeights& w = model.weights;
  const float* zeros = w.made.emplace_back(static_cast<std::size_t>(c.width)).data();
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return read_linear(weights, name, out, in, false);
  };
  const auto norm = [&](const std::string& name) {
    return TransformerWeights::Norm{weights.floats(name + ".weight", {c.width}), zeros};
  };
  w.embedding = weights.floats("transformer.wte.weight", {c.vocabulary, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = "transformer.blocks." + std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.attention_norm = norm(name + "norm_1");
    const float* all = weights.floats(name + "attn.Wqkv.weight", {3 * c.width, c.width});
    layer.query.weight = all;
    layer.key.weight = all + c.width * c.width;
    layer.value.weight = all + 2 * c.width * c.width;
    layer.output = linear(name + "attn.out_proj", c.width, c.width);
    layer.feed_forward_norm = norm(name + "norm_2");
    layer.up = linear(name + "ffn.up_proj", c.feed_forward_width, c.width);
    layer.down = linear(name + "ffn.down_proj", c.width, c.feed_forward_width);
    w.layers.push_back(layer);
  }
  w.final_norm = norm("transformer.norm_f");
  w.head.weight = w.embedding;
  return model;
}

}  // namespace attn
