// Byte-level BPE tokenizers from other files than a tokenizer.json: from plain arrays, as a GGUF
// file holds them (tokenizer.ggml.*), and from vocab.json with merges.txt.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer.h"

namespace attn {

struct ByteLevelArrays {
  std::vector<std::string> tokens;  // by id
  std::vector<std::string> merges;  // "a b", in the order they were learnt
  // GGUF's token_type, one a token, or none at all: 1 is an ordinary piece, 3 a control token,
  // which is special, 4 one that a user added, 5 unused.
  std::vector<std::int32_t> types;
  std::string pre;  // GGUF's tokenizer.ggml.pre, as model/pre_patterns.h knows it
  std::optional<std::int32_t> begin = {}, end = {};  // put around every text
};

// Throws attn::Error "<source>: ..." for another name or type, a merge of what is no token, and
// arrays that do not fit together.
Tokenizer make_byte_level_tokenizer(const ByteLevelArrays& arrays, const std::string& source);

// vocab.json and merges.txt of a folder, as Transformers reads them for GPT-2 and, with special
// tokens around texts, for RoBERTa and Longformer. `family`: "gpt2", "roberta" or "longformer".
// Throws attn::Error with the file.
Tokenizer read_byte_level_tokenizer(const std::string& folder, const std::string& family);

}  // namespace attn
