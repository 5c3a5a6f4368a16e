// Tokens of byte pieces as a page shows them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "attn/record.h"

namespace attn {

struct TokenPiece {
  std::string bytes;     // that it stands for; of a special token its name
  bool special = false;  // begins or ends something, and is no text
};

// Texts that, joined, are the pieces' (AttentionRecord::verbatim). A character that several tokens
// share is the first one's text, the others' is empty; bytes that are no UTF-8 become U+FFFD. A
// token goes on with the word before it where letters follow letters or digits follow digits.
std::vector<RecordToken> record_tokens(std::span<const TokenPiece> pieces);

}  // namespace attn
