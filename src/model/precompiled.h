// The normalizer Precompiled: SentencePiece's rules as one table, which maps short strings to
// others (google/sentencepiece, normalizer.cc; a double-array trie and the texts it points at).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/token_text.h"

namespace attn {

class PrecompiledRules {
 public:
  // The table in base64, as a tokenizer.json has it, or null for none. Throws attn::Error
  // "<place>: ..." when it is no such table.
  PrecompiledRules(std::string_view base64, const std::string& place);

  // Whole grapheme clusters of less than six bytes first, else character by character.
  void normalize(std::vector<Character>& text) const;

 private:
  std::optional<std::string_view> find(std::string_view text) const;

  std::vector<std::uint32_t> units_;
  std::string texts_;  // each ends with a byte 0
};

}  // namespace attn
