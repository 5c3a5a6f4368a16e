// The names that GGUF files have for byte-level pre-tokenizers (tokenizer.ggml.pre, llama.cpp's
// src/llama-vocab.cpp), and what each stands for.
#pragma once

#include <string>
#include <vector>

namespace attn {

struct PrePatterns {
  std::vector<const char*> patterns;  // that cut one after the other
  bool nfc = false;          // normal form NFC first; the models' tokenizer.json says so, not GGUF
  bool whole_words = false;  // a word that is a token is taken as it is
  bool begins = false;       // texts begin with the token for that, unless the file says otherwise
};

// Throws attn::Error "<source>: ..." for a name that is not known.
const PrePatterns& pre_patterns(const std::string& name, const std::string& source);

}  // namespace attn
