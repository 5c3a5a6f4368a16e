// Normalisers of a tokenizer.json, with the offsets that Hugging Face's `tokenizers` gives (its
// NormalizedString): a character that was put in has the source of the one before it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "model/json.h"
#include "model/token_text.h"

namespace attn {

using Normalizer = std::function<void(std::vector<Character>&)>;

// Throws attn::Error "<place>: ..." for a type or a setting that is not known.
Normalizer make_normalizer(const Json& part, const std::string& place);

// A character of the result, and how it comes about: 1 is put in, 0 replaces one character of the
// source, -n replaces one and takes the n behind it.
struct Changed {
  char32_t value = 0;
  int change = 0;
};
void apply_changes(std::vector<Character>& text, const std::vector<Changed>& changes);

// Unicode's normal forms (UAX 15).
enum class NormalForm : std::uint8_t { nfc, nfd, nfkc, nfkd };
void normalize(std::vector<Character>& text, NormalForm form);

}  // namespace attn
