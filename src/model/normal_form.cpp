#include <utf8proc.h>

#include <algorithm>

#include "model/normalizer.h"

namespace attn {
namespace {

// A character of the result, and how it comes about: 1 is put in, 0 replaces one character of the
// source, -n replaces one and takes the n behind it.
struct Changed {
  char32_t value = 0;
  int change = 0;
  int order = 0;  // canonical combining class
};

int combining_class(char32_t c) {
  return c < 0x300 ? 0
                   : int{utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class};
}

std::vector<Changed> decomposed(const std::vector<Character>& text, bool compatibility) {
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE |
                                                      (compatibility ? UTF8PROC_COMPAT : 0));
  std::vector<Changed> out;
  out.reserve(text.size());
  for (const Character& c : text) {
    if (c.value < 0x80) {
      out.push_back({c.value, 0, 0});
      continue;
    }
    // The longest decomposition, of U+FDFA, has 18 parts.
    utf8proc_int32_t values[32];
    int boundary_class = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.value), values, 32,
                                                 options, &boundary_class);
    if (n < 1 || n > 32) {
      values[0] = static_cast<utf8proc_int32_t>(c.value);
      n = 1;
    }
    for (utf8proc_ssize_t i = 0; i < n; ++i) {
      const auto value = static_cast<char32_t>(values[i]);
      out.push_back({value, i == 0 ? 0 : 1, combining_class(value)});
    }
  }
  // Canonical order: runs of combining characters, stably by class.
  for (auto begin = out.begin(); begin != out.end();) {
    const auto end = std::find_if(begin, out.end(), [](const Changed& c) { return c.order == 0; });
    std::stable_sort(begin, end,
                     [](const Changed& a, const Changed& b) { return a.order < b.order; });
    begin = end == out.end() ? end : end + 1;
  }
  return out;
}

// The one character that two make, or 0.
char32_t composed(char32_t first, char32_t second) {
  utf8proc_int32_t pair[2] = {static_cast<utf8proc_int32_t>(first),
                              static_cast<utf8proc_int32_t>(second)};
  const utf8proc_ssize_t n = utf8proc_normalize_utf32(
      pair, 2, static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  return n == 1 ? static_cast<char32_t>(pair[0]) : 0;
}

std::vector<Changed> recomposed(const std::vector<Changed>& in) {
  std::vector<Changed> out;
  out.reserve(in.size());
  std::size_t starter = 0;
  bool has_starter = false;
  int last = -1;  // class of the last character that stayed behind the starter
  for (const Changed& c : in) {
    // What stayed blocks what is of its class or a lower one.
    if (has_starter && c.value >= 0x80 && last < (c.order == 0 ? 0 : c.order)) {
      if (const char32_t both = composed(out[starter].value, c.value); both != 0) {
        out[starter].value = both;
        out[starter].change += c.change - 1;
        continue;
      }
    }
    if (c.order == 0) {
      starter = out.size();
      has_starter = true;
      last = -1;
    } else {
      last = c.order;
    }
    out.push_back(c);
  }
  return out;
}

}  // namespace

void normalize(std::vector<Character>& text, NormalForm form) {
  // ASCII stays as it is.
  if (std::all_of(text.begin(), text.end(), [](const Character& c) { return c.value < 0x80; })) {
    return;
  }
  const bool compatibility = form == NormalForm::nfkc || form == NormalForm::nfkd;
  std::vector<Changed> changed = decomposed(text, compatibility);
  if (form == NormalForm::nfc || form == NormalForm::nfkc) changed = recomposed(changed);
  std::vector<Character> out;
  out.reserve(changed.size());
  std::size_t at = 0;
  for (const Changed& c : changed) {
    // Put in: the source of the character before it.
    const Character& source =
        text[c.change > 0 ? (at == 0 ? 0 : at - 1) : std::min(at, text.size() - 1)];
    out.push_back({c.value, source.begin, source.end});
    if (c.change <= 0) at += 1 + static_cast<std::size_t>(-c.change);
  }
  text = std::move(out);
}

}  // namespace attn
