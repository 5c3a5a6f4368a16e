// Pre-tokenizers of a tokenizer.json: they cut a text into the words that a model then sees.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "model/json.h"
#include "model/token_text.h"

namespace attn {

using PreTokenizer = std::function<void(SplitText&)>;

// Throws attn::Error "<place>: ..." for a type or a setting that is not known.
PreTokenizer make_pre_tokenizer(const Json& part, const std::string& place);

// Cuts at a pattern; `invert`: at what lies between its matches.
PreTokenizer cut_by_pattern(Pattern pattern, Delimiter delimiter, bool invert);
// Every byte to its letter.
void to_alphabet(SplitText& text);

// What GPT-2 cuts words by (openai/gpt-2, encoder.py).
inline constexpr const char* kGpt2Pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

// GPT-2's alphabet, which has a printable character for each byte (openai/gpt-2, encoder.py).
char32_t byte_to_letter(unsigned char byte);
// The byte of a letter; -1 for a character outside the alphabet.
int letter_to_byte(char32_t letter);

// How ▁ is put in front (Metaspace): always, only where the source begins, never.
enum class PrependScheme : std::uint8_t { always, first, never };
class Fields;
PrependScheme read_prepend_scheme(const Fields& settings);

}  // namespace attn
