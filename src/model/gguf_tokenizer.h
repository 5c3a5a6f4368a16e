// The tokenizer that a GGUF file holds (tokenizer.ggml.*).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/gguf.h"
#include "model/tokenizer.h"

namespace attn {

// Byte-level BPE (model "gpt2") and SentencePiece's BPE ("llama"), with what they put around texts.
// Throws attn::Error "<source>: ..." for another model, for arrays that do not fit together, and
// for tokens that are not in the vocabulary.
Tokenizer read_gguf_tokenizer(const Gguf& gguf);

// The tokens that end a text, a turn or a message.
std::vector<std::int32_t> gguf_end_tokens(const Gguf& gguf);

}  // namespace attn
