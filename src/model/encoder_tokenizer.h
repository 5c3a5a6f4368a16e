// The tokenizer of an encoder's folder: tokenizer.json, or else vocab.txt (WordPiece), or else
// vocab.json with merges.txt (byte-level BPE).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "attn/model.h"
#include "model/tokenizer.h"
#include "model/wordpiece.h"

namespace attn {

class EncoderTokenizer {
 public:
  // `family`: model_type of config.json. Throws attn::Error, also when an id is not below
  // `vocabulary`.
  EncoderTokenizer(const std::string& folder, const std::string& family, std::int64_t vocabulary);

  // At most max_length tokens; the longer of two texts loses its end first. Throws
  // std::invalid_argument when max_length has no room for the special tokens.
  Encoding encode(const std::string& text, const std::optional<std::string>& pair,
                  std::int64_t max_length) const;

 private:
  std::variant<WordPiece, Tokenizer> tokenizer_;
};

// tokenizer.json of a folder, or else vocab.json and merges.txt, or RWKV's vocabulary, of a family
// that has those; nothing when it has neither. Throws attn::Error.
std::optional<Tokenizer> read_folder_tokenizer(const std::string& folder,
                                               const std::string& family);

}  // namespace attn
