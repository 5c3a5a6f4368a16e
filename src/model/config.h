// What a model's folder says about it: config.json, modules.json with the pooling it names,
// sentence_bert_config.json, tokenizer_config.json. Nothing is guessed: an architecture, activation
// or position type that we do not run is an error that names it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nn/layers.h"

namespace attn {

// config.json of a BERT encoder.
struct BertConfig {
  std::int64_t layers = 0, heads = 0, width = 0, feed_forward_width = 0;
  std::int64_t vocabulary = 0, positions = 0, types = 0;
  nn::Activation activation = nn::Activation::gelu;
  double layer_norm_epsilon = 1e-12;

  std::int64_t head_width() const { return width / heads; }
};

enum class Pooling : std::uint8_t { mean, cls, max };

// How hidden states become one vector (sentence-transformers' modules).
struct PoolingConfig {
  Pooling pooling = Pooling::mean;
  bool normalize = false;  // to length 1
};

// tokenizer_config.json of a WordPiece tokenizer.
struct TokenizerConfig {
  std::optional<bool> lower_case;     // absent: as the vocabulary looks
  std::optional<bool> strip_accents;  // absent: as lower_case
  bool split_cjk = true;
  std::string unknown = "[UNK]", separator = "[SEP]", padding = "[PAD]", classifier = "[CLS]",
              mask = "[MASK]";
  std::vector<std::pair<std::string, std::int64_t>> added;  // text and id
};

// Each throws attn::Error "<source>: ..." and takes the file's text.
BertConfig parse_bert_config(std::string_view json, const std::string& source);
TokenizerConfig parse_tokenizer_config(std::string_view json, const std::string& source);

// Everything that a folder says; defaults where a file is absent (config.json must be there).
struct FolderConfig {
  BertConfig bert;
  PoolingConfig pooling;
  TokenizerConfig tokenizer;
  std::int64_t max_length = 0;  // max_seq_length, else all positions
};
FolderConfig read_folder_config(const std::string& folder);

}  // namespace attn
