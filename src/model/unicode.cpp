#include "model/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

namespace attn::unicode {

std::vector<Character> decode(std::string_view text, std::size_t offset) {
  std::vector<Character> characters;
  characters.reserve(text.size());
  const auto* const bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  std::size_t at = 0;
  while (at < text.size()) {
    utf8proc_int32_t value = 0;
    // A character has at most four bytes; the cap keeps the length inside the signed type.
    const auto left = static_cast<utf8proc_ssize_t>(std::min<std::size_t>(text.size() - at, 4));
    const utf8proc_ssize_t n = utf8proc_iterate(bytes + at, left, &value);
    const std::size_t length = n > 0 ? static_cast<std::size_t>(n) : 1;
    characters.push_back(
        {n > 0 ? static_cast<char32_t>(value) : kReplacement, offset + at, offset + at + length});
    at += length;
  }
  return characters;
}

bool is_utf8(std::string_view text) {
  const auto* const bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (std::size_t at = 0; at < text.size();) {
    utf8proc_int32_t value = 0;
    const auto left = static_cast<utf8proc_ssize_t>(std::min<std::size_t>(text.size() - at, 4));
    const utf8proc_ssize_t n = utf8proc_iterate(bytes + at, left, &value);
    if (n <= 0) return false;
    at += static_cast<std::size_t>(n);
  }
  return true;
}

void append_utf8(char32_t c, std::string& out) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(n));
}

bool is_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_control(char32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO: return true;
    default: return false;
  }
}

bool is_punctuation(char32_t c) {
  if ((c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
      (c >= 123 && c <= 126)) {
    return true;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return true;
    default: return false;
  }
}

bool is_cjk(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

bool is_nonspacing_mark(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_MN;
}

std::vector<Character> decompose(const std::vector<Character>& text) {
  std::vector<Character> parts;
  parts.reserve(text.size());
  for (const Character& c : text) {
    if (c.value < 0x80) {
      parts.push_back(c);
      continue;
    }
    // The longest canonical decomposition has four parts.
    utf8proc_int32_t values[8];
    int boundary_class = 0;
    const utf8proc_ssize_t n = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(c.value), values, 8,
        static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE), &boundary_class);
    if (n < 1 || n > 8) {
      parts.push_back(c);
      continue;
    }
    for (utf8proc_ssize_t i = 0; i < n; ++i) {
      parts.push_back({static_cast<char32_t>(values[i]), c.begin, c.end});
    }
  }
  // Canonical order: runs of combining characters, stably by class.
  const auto combining = [](const Character& c) {
    return c.value < 0x300 ? 0
                           : int{utf8proc_get_property(static_cast<utf8proc_int32_t>(c.value))
                                     ->combining_class};
  };
  for (std::size_t begin = 0; begin < parts.size();) {
    std::size_t end = begin;
    while (end < parts.size() && combining(parts[end]) != 0) ++end;
    std::stable_sort(
        parts.begin() + static_cast<std::ptrdiff_t>(begin),
        parts.begin() + static_cast<std::ptrdiff_t>(end),
        [&](const Character& a, const Character& b) { return combining(a) < combining(b); });
    begin = std::max(end, begin + 1);
  }
  return parts;
}

std::vector<Character> lower(const std::vector<Character>& text) {
  std::vector<Character> out;
  out.reserve(text.size());
  for (Character c : text) {
    if (c.value == 0x130) {
      out.push_back({U'i', c.begin, c.end});
      c.value = 0x307;
    } else {
      c.value = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.value)));
    }
    out.push_back(c);
  }
  return out;
}

}  // namespace attn::unicode
