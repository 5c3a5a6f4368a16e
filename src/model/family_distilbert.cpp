// DistilBERT (arXiv 1910.01108): BERT of half the layers, without types of tokens.
#include "model/families.h"

namespace attn {

DescribedModel load_distilbert(const Fields& fields, Weights& weights) {
  require_encoder(fields, "DistilBert");
  DescribedModel model;
  TransformerConfig& c = model.config = read_sizes(fields, {.width = "dim",
                                                            .layers = "n_layers",
                                                            .heads = "n_heads",
                                                            .feed_forward_width = "hidden_dim"});
  c.causal = false;
  c.post_norm = true;
  c.norm_epsilon = 1e-12;
  c.activation = activation_named(fields, "activation");
  // Sinusoidal positions lie in the file as learned ones do.
  refuse_others(fields, {"dropout", "qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds",
                         "tie_weights_", "tie_word_embeddings"});

  TransformerWeights& w = model.weights;
  const std::string prefix =
      weights.has("distilbert.embeddings.word_embeddings.weight") ? "distilbert." : "";
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return read_linear(weights, name, out, in, true);
  };
  const auto norm = [&](const std::string& name) {
    return read_norm(weights, name, c.width, true);
  };
  const std::string embeddings = prefix + "embeddings.";
  w.embedding = weights.floats(embeddings + "word_embeddings.weight", {c.vocabulary, c.width});
  w.positions = weights.floats(embeddings + "position_embeddings.weight", {c.positions, c.width});
  w.embedding_norm = norm(embeddings + "LayerNorm");
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = prefix + "transformer.layer." + std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.query = linear(name + "attention.q_lin", c.width, c.width);
    layer.key = linear(name + "attention.k_lin", c.width, c.width);
    layer.value = linear(name + "attention.v_lin", c.width, c.width);
    layer.output = linear(name + "attention.out_lin", c.width, c.width);
    layer.attention_norm = norm(name + "sa_layer_norm");
    layer.up = linear(name + "ffn.lin1", c.feed_forward_width, c.width);
    layer.down = linear(name + "ffn.lin2", c.width, c.feed_forward_width);
    layer.feed_forward_norm = norm(name + "output_layer_norm");
    w.layers.push_back(layer);
  }
  return model;
}

}  // namespace attn
