// GPT-2: learned positions, layer norms, one matrix for queries, keys and values, matrices stored
// [in][out].
#include "model/families.h"

namespace attn {

DescribedModel load_gpt2(const Fields& fields, Weights& weights) {
  DescribedModel model;
  TransformerConfig& c = model.config;
  c = read_sizes(fields, {.width = "n_embd",
                          .layers = "n_layer",
                          .heads = "n_head",
                          .feed_forward_width = nullptr,
                          .positions = "n_positions"});
  c.feed_forward_width = fields.size("n_inner", kLargestSize).value_or(4 * c.width);
  c.norm_epsilon = read_epsilon(fields, "layer_norm_epsilon", 1e-5);
  c.activation = activation_named(fields, "activation_function");
  require(fields, "scale_attn_weights", true);
  require(fields, "scale_attn_by_inverse_layer_idx", false);
  require(fields, "add_cross_attention", false);
  const bool tied = fields.boolean("tie_word_embeddings").value_or(true);
  refuse_others(fields, {"attn_pdrop", "embd_pdrop", "n_ctx", "reorder_and_upcast_attn",
                         "resid_pdrop", "summary_activation", "summary_first_dropout",
                         "summary_proj_to_labels", "summary_type", "summary_use_proj"});

  TransformerWeights& w = model.weights;
  const std::string prefix = weights.has("transformer.wte.weight") ? "transformer." : "";
  // Rows [first, first + out) of the transpose of a matrix [in][all].
  const auto transposed = [&](const std::string& name, std::int64_t in, std::int64_t all,
                              std::int64_t first, std::int64_t out) {
    const float* from = weights.floats(name + ".weight", {in, all});
    std::vector<float>& to = w.made.emplace_back(static_cast<std::size_t>(out * in));
    for (std::int64_t o = 0; o < out; ++o) {
      for (std::int64_t i = 0; i < in; ++i)
        to[static_cast<std::size_t>(o * in + i)] = from[i * all + first + o];
    }
    return TransformerWeights::Linear{to.data(), weights.floats(name + ".bias", {all}) + first};
  };
  const auto norm = [&](const std::string& name) {
    return read_norm(weights, name, c.width, true);
  };
  w.embedding = weights.floats(prefix + "wte.weight", {c.vocabulary, c.width});
  w.positions = weights.floats(prefix + "wpe.weight", {c.positions, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = prefix + "h." + std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.attention_norm = norm(name + "ln_1");
    layer.query = transposed(name + "attn.c_attn", c.width, 3 * c.width, 0, c.width);
    layer.key = transposed(name + "attn.c_attn", c.width, 3 * c.width, c.width, c.width);
    layer.value = transposed(name + "attn.c_attn", c.width, 3 * c.width, 2 * c.width, c.width);
    layer.output = transposed(name + "attn.c_proj", c.width, c.width, 0, c.width);
    layer.feed_forward_norm = norm(name + "ln_2");
    layer.up =
        transposed(name + "mlp.c_fc", c.width, c.feed_forward_width, 0, c.feed_forward_width);
    layer.down = transposed(name + "mlp.c_proj", c.feed_forward_width, c.width, 0, c.width);
    w.layers.push_back(layer);
  }
  w.final_norm = norm(prefix + "ln_f");
  w.head.weight = tied ? w.embedding : weights.floats("lm_head.weight", {c.vocabulary, c.width});
  return model;
}

}  // namespace attn
