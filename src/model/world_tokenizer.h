// RWKV's "World" tokenizer: the longest piece that the bytes of a text begin with, again and again
// (BlinkDL/ChatRWKV, tokenizer/rwkv_tokenizer.py), which is what models were trained with. Hugging
// Face's Rwkv6Tokenizer does the same; their earlier Rwkv5Tokenizer drops the spaces around a text
// and cuts it before each space, so that pieces of several spaces are not found.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace attn {

struct WorldPiece {
  std::int64_t id = 0;
  std::string bytes;
};

// A vocabulary: lines "id literal length" (rwkv_vocab_v20230424.txt), or literals alone, whose ids
// are the numbers of their lines from 0 (vocab.txt). Literals are Python's, of texts or bytes.
// Throws attn::Error "<source>: line ...: ..." for anything else, for an empty piece, one of more
// than 1024 bytes and an id of 1,048,576 or more.
std::vector<WorldPiece> parse_world_vocabulary(std::string_view text, const std::string& source);

struct WorldOptions {
  // What stands for the end of a text, token 0, where it is written in one; ASCII. Nothing: as the
  // vocabulary has it, or else <|endoftext|>.
  std::optional<std::string> end;
  bool begins = false;  // token 0 is put in front of texts
};

// tokenizer_config.json. Throws attn::Error "<source>: ..." for the class of another tokenizer and
// for what is not known.
WorldOptions parse_world_options(std::string_view json, const std::string& source);

// Pieces read in GPT-2's letters, as those of byte-level vocabularies do. Throws attn::Error
// "<source>: ..." when a byte has no piece, and for an id or a piece that is there twice.
Tokenizer make_world_tokenizer(const std::vector<WorldPiece>& pieces, const WorldOptions& options,
                               const std::string& source);

// Of a folder's rwkv_vocab_v20230424.txt or else vocab.txt; nothing when it has neither. Throws
// attn::Error.
std::optional<Tokenizer> read_world_tokenizer(const std::string& folder);

}  // namespace attn
