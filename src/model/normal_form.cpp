#include <utf8proc.h>

#include <algorithm>

#include "model/normalizer.h"

namespace attn {
namespace {

int combining_class(char32_t c) {
  return c < 0x300 ? 0
                   : int{utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class};
}

struct Part {
  Changed changed;
  int order = 0;  // canonical combining class
};

std::vector<Part> decomposed(const std::vector<Character>& text, bool compatibility) {
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE |
                                                      (compatibility ? UTF8PROC_COMPAT : 0));
  std::vector<Part> out;
  out.reserve(text.size());
  for (const Character& c : text) {
    if (c.value < 0x80) {
      out.push_back({{c.value, 0}, 0});
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
      out.push_back({{value, i == 0 ? 0 : 1}, combining_class(value)});
    }
  }
  // Canonical order: runs of combining characters, stably by class.
  for (auto begin = out.begin(); begin != out.end();) {
    const auto end = std::find_if(begin, out.end(), [](const Part& p) { return p.order == 0; });
    std::stable_sort(begin, end, [](const Part& a, const Part& b) { return a.order < b.order; });
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

std::vector<Part> recomposed(const std::vector<Part>& in) {
  std::vector<Part> out;
  out.reserve(in.size());
  std::size_t starter = 0;
  bool has_starter = false;
  int last = -1;  // class of the last character that stayed behind the starter
  for (const Part& part : in) {
    // What stayed blocks what is of its class or a lower one.
    if (has_starter && part.changed.value >= 0x80 && last < (part.order == 0 ? 0 : part.order)) {
      if (const char32_t both = composed(out[starter].changed.value, part.changed.value);
          both != 0) {
        out[starter].changed.value = both;
        out[starter].changed.change += part.changed.change - 1;
        continue;
      }
    }
    if (part.order == 0) {
      starter = out.size();
      has_starter = true;
      last = -1;
    } else {
      last = part.order;
    }
    out.push_back(part);
  }
  return out;
}

}  // namespace

void apply_changes(std::vector<Character>& text, const std::vector<Changed>& changes) {
  std::vector<Character> out;
  out.reserve(changes.size());
  std::size_t at = 0;
  for (const Changed& c : changes) {
    // Put in: the source of the character before it.
    const Character& source =
        text[c.change > 0 ? (at == 0 ? 0 : at - 1) : std::min(at, text.size() - 1)];
    out.push_back({c.value, source.begin, source.end});
    if (c.change <= 0) at += 1 + static_cast<std::size_t>(-c.change);
  }
  text = std::move(out);
}

void normalize(std::vector<Character>& text, NormalForm form) {
  // ASCII stays as it is.
  if (std::all_of(text.begin(), text.end(), [](const Character& c) { return c.value < 0x80; })) {
    return;
  }
  const bool compatibility = form == NormalForm::nfkc || form == NormalForm::nfkd;
  std::vector<Part> parts = decomposed(text, compatibility);
  if (form == NormalForm::nfc || form == NormalForm::nfkc) parts = recomposed(parts);
  std::vector<Changed> changes;
  changes.reserve(parts.size());
  for (const Part& part : parts) changes.push_back(part.changed);
  apply_changes(text, changes);
}

}  // namespace attn
