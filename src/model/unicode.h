// The questions that BERT's tokenizer asks of Unicode, answered as the published one does.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace attn::unicode {

// A character and the bytes of the source text that it comes from.
struct Character {
  char32_t value = 0;
  std::size_t begin = 0, end = 0;
};

constexpr char32_t kReplacement = 0xFFFD;

// UTF-8 to characters; a byte that is not valid UTF-8 becomes U+FFFD.
std::vector<Character> decode(std::string_view text, std::size_t offset = 0);
bool is_utf8(std::string_view text);
void append_utf8(char32_t c, std::string& out);

bool is_space(char32_t c);
// Control, format, private-use characters and surrogates; not unassigned ones.
bool is_control(char32_t c);
// ASCII punctuation and symbols, and Unicode's categories P*.
bool is_punctuation(char32_t c);
// The ideographs that BERT sets between spaces.
bool is_cjk(char32_t c);
bool is_nonspacing_mark(char32_t c);

// Canonical decomposition (NFD), each part keeping its source bytes.
std::vector<Character> decompose(const std::vector<Character>& text);
// Lower case; one character becomes two in one case (U+0130).
std::vector<Character> lower(const std::vector<Character>& text);

}  // namespace attn::unicode
