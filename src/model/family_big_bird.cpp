// BigBird (arXiv 2007.14062, internal): BERT with blocks of tokens, as Transformers evaluates it.
#include <cmath>

#include "model/families.h"

namespace attn {

DescribedModel load_big_bird(const Fields& fields, Weights& weights) {
  require_encoder(fields, "BigBird");
  DescribedModel model;
  TransformerConfig& c = model.config = read_bert_config(fields);
  const std::string type = fields.text("attention_type").value_or("block_sparse");
  const std::int64_t block = fields.size("block_size", kLargestSize).value_or(64),
                     random = fields.integer("num_random_blocks", 0, 1024).value_or(3);
  if (type == "block_sparse") {
    c.block_sparse = {.block = block, .random = random};
  } else if (type != "original_full") {
    fields.fail("attention_type", "\"" + type + "\" is not known (block_sparse, original_full)");
  }
  if (fields.boolean("rescale_embeddings").value_or(false))
    c.embedding_scale = std::sqrt(static_cast<double>(c.width));
  const bool biases = fields.boolean("use_bias").value_or(true);
  refuse_others(fields, {"attention_probs_dropout_prob", "gradient_checkpointing",
                         "hidden_dropout_prob", "sep_token_id", "tie_word_embeddings"});
  const bool prefixed = weights.has("bert.embeddings.word_embeddings.weight");
  model.weights = read_bert_weights(weights, c, prefixed ? "bert." : "", biases);
  return model;
}

}  // namespace attn
