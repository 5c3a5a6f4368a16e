// Vocabularies of tokens that a text has between spaces, as CTranslate2's models take them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace attn {

// Tokens by id: a line each, or the strings of a JSON array where the file's name ends with
// ".json". Throws attn::Error "<source>: ..." for a token that is there twice.
std::vector<std::string> parse_token_list(std::string_view file, const std::string& source);

struct WordTokenOptions {
  std::string unknown = "<unk>";            // added behind the others where it is missing
  std::vector<std::string> special;         // left out by decoding, where the vocabulary has them
  std::vector<std::int32_t> front, behind;  // put around every text
};

// Cuts a text at spaces and puts tokens together with them.
Tokenizer make_word_tokenizer(const std::vector<std::string>& tokens,
                              const WordTokenOptions& options, const std::string& source);

}  // namespace attn
