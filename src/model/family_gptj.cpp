// GPT-J, whose block PaLM uses too (arXiv 2204.02311): one norm, from which attention and
// feed-forward read side by side; interleaved rotation of a part of each head.
#include "model/families.h"

namespace attn {

DescribedModel load_gptj(const Fields& fields, Weights& weights) {
  DescribedModel model;
  TransformerConfig& c = model.config;
  c = read_sizes(fields, {.width = "n_embd",
                          .layers = "n_layer",
                          .heads = "n_head",
                          .feed_forward_width = nullptr,
                          .positions = "n_positions"});
  c.feed_forward_width = fields.size("n_inner", kLargestSize).value_or(4 * c.width);
  c.norm_epsilon = read_epsilon(fields, "layer_norm_epsilon", 1e-5);
  c.parallel = true;
  c.activation = activation_named(fields, "activation_function");
  const std::int64_t rotary = fields.size("rotary_dim", 1024).value_or(c.head_width);
  if (rotary > c.head_width || rotary % 2 != 0)
    fields.fail("rotary_dim", "is odd, or wider than a head");
  c.rope = RopeOptions{.layout = RopeLayout::interleaved,
                       .fraction = static_cast<double>(rotary) / static_cast<double>(c.head_width)};
  require(fields, "tie_word_embeddings", false);
  refuse_others(fields,
                {"attn_pdrop", "embd_pdrop", "gradient_checkpointing", "resid_pdrop", "rotary",
                 "scale_attn_weights", "summary_activation", "summary_first_dropout",
                 "summary_proj_to_labels", "summary_type", "summary_use_proj"});

  TransformerWeights& w = model.weights;
  const auto matrix = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return read_linear(weights, name, out, in, false);
  };
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return read_linear(weights, name, out, in, true);
  };
  const auto norm = [&](const std::string& name) {
    return read_norm(weights, name, c.width, true);
  };
  w.embedding = weights.floats("transformer.wte.weight", {c.vocabulary, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = "transformer.h." + std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.attention_norm = layer.feed_forward_norm = norm(name + "ln_1");
    layer.query = matrix(name + "attn.q_proj", c.width, c.width);
    layer.key = matrix(name + "attn.k_proj", c.width, c.width);
    layer.value = matrix(name + "attn.v_proj", c.width, c.width);
    layer.output = matrix(name + "attn.out_proj", c.width, c.width);
    layer.up = linear(name + "mlp.fc_in", c.feed_forward_width, c.width);
    layer.down = linear(name + "mlp.fc_out", c.width, c.feed_forward_width);
    w.layers.push_back(layer);
  }
  w.final_norm = norm("transformer.ln_f");
  w.head = linear("lm_head", c.vocabulary, c.width);
  return model;
}

}  // namespace attn
