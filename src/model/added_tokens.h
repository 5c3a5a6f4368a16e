// Added tokens of a tokenizer.json: found in a text before its words are, those that are not
// normalized before normalisation, the others behind it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/json.h"
#include "model/normalizer.h"
#include "model/token_text.h"
#include "model/trie.h"

namespace attn {

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = false;                 // left out by decoding
  bool single_word = false;             // not within a word
  bool lstrip = false, rstrip = false;  // takes the spaces on that side along
  bool normalized = false;              // compared after normalisation of both
};

// The array "added_tokens". Throws attn::Error "<place>: ...".
std::vector<AddedToken> read_added_tokens(const Json& array, const std::string& place);

class AddedTokens {
 public:
  // The normalizer may be empty. Throws attn::Error when it leaves nothing of a token.
  AddedTokens(std::vector<AddedToken> tokens, Normalizer normalizer, const std::string& place);

  // Splits of any bytes: added tokens with their ids, and normalised text between them.
  SplitText extract(std::string_view bytes) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  // What decoding takes for a token: its content as normalised; null for other ids.
  const std::string* decoded(std::int32_t id) const;
  bool is_special(std::int32_t id) const;

 private:
  std::vector<SplitText::Split> find(std::string_view text, const Trie& trie) const;

  std::vector<AddedToken> tokens_;
  std::vector<std::string> normal_;  // content as it is compared
  std::unordered_map<std::int32_t, std::size_t> by_id_;
  Normalizer normalizer_;
  std::optional<Trie> plain_, normalized_;  // numbers are indices of tokens_
};

}  // namespace attn
