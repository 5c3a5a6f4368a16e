// Longformer (arXiv 2004.05150): RoBERTa with windows, and global tokens that have projections of
// their own.
#include "model/families.h"

namespace attn {

namespace {

// Of one layer: attention_window counts the keys of both sides together.
std::int64_t one_sided(const Fields& fields, std::int64_t window) {
  if (window < 2 || window % 2 != 0 || window > kLargestSize)
    fields.fail("attention_window",
                "is " + std::to_string(window) + ", must be an even number above 0");
  return window / 2;
}

std::vector<std::int64_t> read_windows(const Fields& fields, std::int64_t layers) {
  const Json& value = fields.needed("attention_window");
  std::vector<std::int64_t> windows;
  const auto add = [&](const Json& item) {
    if (!item.is(Json::Kind::integer))
      fields.fail("attention_window", std::string("holds ") + item.kind_name());
    windows.push_back(one_sided(fields, item.integer) + 1);  // with the token itself
  };
  if (!value.is(Json::Kind::array)) {
    add(value);
    return std::vector<std::int64_t>(static_cast<std::size_t>(layers), windows[0]);
  }
  for (const Json& item : value.items) add(item);
  if (static_cast<std::int64_t>(windows.size()) != layers) {
    fields.fail("attention_window", "has " + std::to_string(windows.size()) + " entries for " +
                                        std::to_string(layers) + " layers");
  }
  return windows;
}

}  // namespace

DescribedModel load_longformer(const Fields& fields, Weights& weights) {
  require_encoder(fields, "Longformer");
  DescribedModel model;
  TransformerConfig& c = model.config = read_bert_config(fields);
  c.windows = read_windows(fields, c.layers);
  c.global_tokens = true;
  const std::int64_t padding = fields.integer("pad_token_id", 0, c.vocabulary - 1).value_or(1);
  const std::string mode = fields.text("attention_mode").value_or("longformer");
  if (mode != "longformer") fields.fail("attention_mode", "\"" + mode + "\" is not known");
  require(fields, "ignore_attention_mask", false);
  require(fields, "autoregressive", false);
  refuse_others(fields,
                {"attention_probs_dropout_prob", "gradient_checkpointing", "hidden_dropout_prob",
                 "onnx_export", "sep_token_id", "tie_word_embeddings"});
  const bool prefixed = weights.has("longformer.embeddings.word_embeddings.weight");
  model.weights = read_bert_weights(weights, c, prefixed ? "longformer." : "");
  skip_padding_position(fields, padding, model);
  return model;
}

}  // namespace attn
