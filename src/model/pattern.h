// Patterns of a tokenizer.json: written for Oniguruma (Ruby's syntax), run by PCRE2. What the two
// read alike is kept, \s, \w and their like are spelled out, and what would mean something else is
// refused.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attn {

// What Hugging Face's own patterns, which Rust's regex runs, take for \w; to be set within a class.
inline constexpr const char* kRustWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}";

// Parts of a text: [begin, end) in bytes, and whether the pattern matched there.
struct PatternPart {
  std::size_t begin = 0, end = 0;
  bool match = false;
};

class Pattern {
 public:
  // Throws attn::Error "<place>: pattern ..." for a pattern that PCRE2 or the translation refuses.
  Pattern(std::string_view expression, const std::string& place);
  // A pattern that matches this text only.
  static Pattern literal(std::string_view text, const std::string& place);

  // The whole text in parts, matches and what lies between them, in order. The text is tokenizer
  // text (model/token_text.h). Throws attn::Error when a match takes more steps than are allowed.
  // Safe to call from several threads.
  std::vector<PatternPart> parts(std::string_view text) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
  std::string name_;  // for messages
};

// Oniguruma's syntax to PCRE2's; for tests.
std::string translate_pattern(std::string_view expression, const std::string& place);

}  // namespace attn
