// The text on its way through a tokenizer. It is UTF-8, except that a byte that was none is kept as
// a surrogate, U+DC00 + byte, in three bytes: so it is one character, of no category that a pattern
// asks for, and comes out as the byte that went in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/pattern.h"
#include "model/unicode.h"

namespace attn {

using unicode::Character;

// Where something stands in the source text, in bytes.
using Range = std::pair<std::size_t, std::size_t>;

inline bool is_escaped_byte(char32_t c) { return c >= 0xDC80 && c <= 0xDCFF; }

// Any bytes to tokenizer text, each character with its source bytes.
std::vector<Character> escape_bytes(std::string_view bytes);
// A character of tokenizer text, and how many bytes it has there.
std::pair<char32_t, std::size_t> next_character(std::string_view text);
// What a character stands for, appended: UTF-8, or the byte that was escaped.
void append_bytes(char32_t c, std::string& out);

// Tokenizer text cut into splits; a split with an id is a token already and is left alone.
class SplitText {
 public:
  struct Split {
    std::size_t begin = 0, end = 0;  // bytes of the tokenizer text
    std::int32_t id = -1;
  };

  std::string_view text() const { return text_; }
  std::string_view text(const Split& split) const {
    return std::string_view(text_).substr(split.begin, split.end - split.begin);
  }
  const std::vector<Split>& splits() const { return splits_; }
  // The source of a part; of an empty one, where it would stand.
  Range source(std::size_t begin, std::size_t end) const {
    if (begin < end) return {sources_[begin].first, sources_[end - 1].second};
    const std::size_t at = begin < sources_.size() ? sources_[begin].first
                           : sources_.empty()      ? 0
                                                   : sources_.back().second;
    return {at, at};
  }

  void append(char32_t c, Range source);
  void append(std::string_view text, Range source);
  // Ends a split here, which began where the last one ended; an empty one is dropped.
  void end_split(std::int32_t id = -1);
  // Copies a split of another text.
  void append_split(const SplitText& other, const Split& split);

  // Replaces every split that is no token by parts of it, in order; empty parts are dropped.
  template <class Cut>
  void cut(const Cut& parts_of) {
    std::vector<Split> out;
    out.reserve(splits_.size());
    for (const Split& split : splits_) {
      if (split.id >= 0) {
        out.push_back(split);
        continue;
      }
      for (Split part : parts_of(text(split))) {
        part.begin += split.begin;
        part.end += split.begin;
        if (part.begin < part.end) out.push_back(part);
      }
    }
    splits_ = std::move(out);
  }
  // Writes every split that is no token anew: write(this, split, out) appends to out.
  template <class Write>
  void rewrite(const Write& write) {
    SplitText out;
    for (const Split& split : splits_) {
      if (split.id >= 0) {
        out.append_split(*this, split);
      } else {
        write(*this, split, out);
      }
    }
    *this = std::move(out);
  }

 private:
  std::string text_;
  std::vector<Range> sources_;  // of each byte
  std::vector<Split> splits_;
  std::size_t open_ = 0;  // where the next split begins
};

// What becomes of a delimiter (Hugging Face's SplitDelimiterBehavior).
enum class Delimiter : std::uint8_t { removed, isolated, merged_previous, merged_next, contiguous };

// The parts of a text as splits.
std::vector<SplitText::Split> split_at(const std::vector<PatternPart>& parts, Delimiter delimiter);

// The parts of a text, every character that `is` holds for a match by itself.
template <class Is>
std::vector<PatternPart> parts_where(std::string_view text, const Is& is) {
  std::vector<PatternPart> parts;
  std::size_t end = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto [c, length] = next_character(text.substr(at));
    if (is(c)) {
      if (end < at) parts.push_back({end, at, false});
      parts.push_back({at, at + length, true});
      end = at + length;
    }
    at += length;
  }
  if (end < text.size()) parts.push_back({end, text.size(), false});
  return parts;
}

}  // namespace attn
