#include "model/token_text.h"

#include <algorithm>

namespace attn {

std::vector<Character> escape_bytes(std::string_view bytes) {
  std::vector<Character> characters = unicode::decode(bytes);
  for (Character& c : characters) {
    // U+FFFD itself has three bytes.
    if (c.value == unicode::kReplacement && c.end - c.begin == 1) {
      c.value = 0xDC00 + static_cast<unsigned char>(bytes[c.begin]);
    }
  }
  return characters;
}

std::pair<char32_t, std::size_t> next_character(std::string_view text) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<char32_t>(static_cast<unsigned char>(text[i])) : 0x80;
  };
  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xE0) return {(first & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (first < 0xF0) return {(first & 0xF) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(first & 7) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

void append_bytes(char32_t c, std::string& out) {
  if (is_escaped_byte(c)) {
    out += static_cast<char>(c - 0xDC00);
  } else {
    unicode::append_utf8(c, out);
  }
}

void SplitText::append(char32_t c, Range source) {
  unicode::append_utf8(c, text_);
  sources_.resize(text_.size(), source);
}

void SplitText::append(std::string_view text, Range source) {
  text_ += text;
  sources_.resize(text_.size(), source);
}

void SplitText::end_split(std::int32_t id) {
  if (open_ < text_.size()) splits_.push_back({open_, text_.size(), id});
  open_ = text_.size();
}

void SplitText::append_split(const SplitText& other, const Split& split) {
  text_ += other.text(split);
  sources_.insert(sources_.end(), other.sources_.begin() + static_cast<std::ptrdiff_t>(split.begin),
                  other.sources_.begin() + static_cast<std::ptrdiff_t>(split.end));
  end_split(split.id);
}

std::vector<SplitText::Split> split_at(const std::vector<PatternPart>& parts, Delimiter delimiter) {
  std::vector<SplitText::Split> out;
  out.reserve(parts.size());
  bool previous = false;
  for (const PatternPart& part : parts) {
    if (delimiter == Delimiter::removed) {
      if (!part.match) out.push_back({part.begin, part.end});
      continue;
    }
    const bool joins =
        !out.empty() && ((delimiter == Delimiter::contiguous && part.match == previous) ||
                         (delimiter == Delimiter::merged_previous && part.match && !previous));
    if (joins) {
      out.back().end = part.end;
    } else {
      out.push_back({part.begin, part.end});
    }
    previous = part.match;
  }
  if (delimiter != Delimiter::merged_next) return out;
  // From the end: a delimiter opens what follows it.
  out.clear();
  previous = false;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (part->match && !previous && !out.empty()) {
      out.back().begin = part->begin;
    } else {
      out.push_back({part->begin, part->end});
    }
    previous = part->match;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace attn
