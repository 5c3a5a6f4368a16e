// What a folder says about a WordPiece tokenizer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attn {

// tokenizer_config.json of a WordPiece tokenizer.
struct TokenizerConfig {
  std::optional<bool> lower_case;     // absent: as the vocabulary looks
  std::optional<bool> strip_accents;  // absent: as lower_case
  bool split_cjk = true;
  std::string unknown = "[UNK]", separator = "[SEP]", padding = "[PAD]", classifier = "[CLS]",
              mask = "[MASK]";
  std::vector<std::pair<std::string, std::int64_t>> added;  // text and id
};

// Throws attn::Error "<source>: ..." and takes the file's text.
TokenizerConfig parse_tokenizer_config(std::string_view json, const std::string& source);

}  // namespace attn
