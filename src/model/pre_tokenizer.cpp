#include "model/pre_tokenizer.h"

#include <utf8proc.h>

#include <array>
#include <utility>
#include <vector>

#include "model/part.h"

namespace attn {
namespace {

using Split = SplitText::Split;

bool is_numeric(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return true;
    default: return false;
  }
}

struct Alphabet {
  std::array<char32_t, 256> letters = {};
  std::array<std::int16_t, 512> bytes = {};

  Alphabet() {
    bytes.fill(-1);
    char32_t other = 256;
    for (unsigned b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xFF && b != 0xAD);
      letters[b] = printable ? b : other++;
      bytes[letters[b]] = static_cast<std::int16_t>(b);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet kAlphabet;
  return kAlphabet;
}

Delimiter read_delimiter(const Fields& settings, const std::string& otherwise) {
  const std::string name = settings.text("behavior").value_or(otherwise);
  if (name == "Removed") return Delimiter::removed;
  if (name == "Isolated") return Delimiter::isolated;
  if (name == "MergedWithPrevious") return Delimiter::merged_previous;
  if (name == "MergedWithNext") return Delimiter::merged_next;
  if (name == "Contiguous") return Delimiter::contiguous;
  if (name.empty()) settings.fail("behavior", "is missing");
  settings.fail("behavior", "\"" + name + "\" is not known");
}

template <class Is>
PreTokenizer by_character(Is is, Delimiter delimiter) {
  return [=](SplitText& text) {
    text.cut([&](std::string_view word) { return split_at(parts_where(word, is), delimiter); });
  };
}

void write_letters(const SplitText& from, const Split& split, SplitText& out) {
  for (std::size_t at = split.begin; at < split.end;) {
    const auto [c, length] = next_character(from.text().substr(at));
    const Range source = from.source(at, at + length);
    if (is_escaped_byte(c)) {
      out.append(byte_to_letter(static_cast<unsigned char>(c - 0xDC00)), source);
    } else {
      for (std::size_t i = at; i < at + length; ++i) {
        out.append(byte_to_letter(static_cast<unsigned char>(from.text()[i])), source);
      }
    }
    at += length;
  }
  out.end_split();
}

PreTokenizer byte_level(const Fields& settings) {
  const bool prefix = settings.needed_boolean("add_prefix_space");
  settings.needed_boolean(
      "trim_offsets");  // means something to the post-processor of this name only
  PreTokenizer words;
  if (settings.boolean("use_regex").value_or(true)) {
    words = cut_by_pattern(Pattern(kGpt2Pattern, settings.source()), Delimiter::isolated, false);
  }
  return [=](SplitText& text) {
    if (prefix) {
      text.rewrite([](const SplitText& from, const Split& split, SplitText& out) {
        const std::string_view word = from.text(split);
        if (word.front() != ' ') {
          out.append(" ", from.source(split.begin, split.begin + next_character(word).second));
        }
        out.append_split(from, split);
      });
    }
    if (words) words(text);
    to_alphabet(text);
  };
}

PreTokenizer metaspace(const Fields& settings) {
  std::string mark;
  unicode::append_utf8(needed_character(settings, "replacement"), mark);
  const PrependScheme scheme = read_prepend_scheme(settings);
  const bool cut = settings.boolean("split").value_or(true);
  return [=](SplitText& text) {
    text.rewrite([&](const SplitText& from, const Split& split, SplitText& out) {
      const std::string_view word = from.text(split);
      const Range first = from.source(split.begin, split.begin + next_character(word).second);
      const bool marked = word.front() == ' ' || word.substr(0, mark.size()) == mark;
      if (!marked && (scheme == PrependScheme::always ||
                      (scheme == PrependScheme::first && first.first == 0))) {
        out.append(mark, first);
      }
      for (std::size_t at = split.begin; at < split.end; ++at) {
        const bool space = from.text()[at] == ' ';
        out.append(space ? std::string_view(mark) : from.text().substr(at, 1),
                   from.source(at, at + 1));
      }
      out.end_split();
    });
    if (!cut) return;
    text.cut([&](std::string_view word) {
      return split_at(
          parts_where(word, [&](char32_t c) { return c == next_character(mark).first; }),
          Delimiter::merged_next);
    });
  };
}

}  // namespace

PreTokenizer cut_by_pattern(Pattern pattern, Delimiter delimiter, bool invert) {
  return [pattern = std::move(pattern), delimiter, invert](SplitText& text) {
    text.cut([&](std::string_view word) {
      std::vector<PatternPart> parts = pattern.parts(word);
      if (invert) {
        for (PatternPart& part : parts) part.match = !part.match;
      }
      return split_at(parts, delimiter);
    });
  };
}

void to_alphabet(SplitText& text) { text.rewrite(write_letters); }

char32_t byte_to_letter(unsigned char byte) { return alphabet().letters[byte]; }

int letter_to_byte(char32_t letter) {
  return letter < alphabet().bytes.size() ? alphabet().bytes[letter] : -1;
}

PrependScheme read_prepend_scheme(const Fields& settings) {
  const std::string name = settings.text("prepend_scheme").value_or("always");
  const bool prefix = settings.boolean("add_prefix_space").value_or(true);
  settings.text("str_rep");  // an older way to say `replacement`
  PrependScheme scheme = PrependScheme::always;
  if (name == "never") {
    scheme = PrependScheme::never;
  } else if (name == "first") {
    scheme = PrependScheme::first;
  } else if (name != "always") {
    settings.fail("prepend_scheme", "\"" + name + "\" is not known (always, first, never)");
  }
  if (!prefix && scheme != PrependScheme::never) {
    if (settings.find("prepend_scheme") != nullptr) {
      settings.fail("add_prefix_space", "is false, prepend_scheme is \"" + name + "\"");
    }
    scheme = PrependScheme::never;
  }
  return scheme;
}

PreTokenizer make_pre_tokenizer(const Json& part, const std::string& place) {
  const std::string type = part_type(part, place);
  const Fields settings(part, place + ": " + type);
  PreTokenizer made;
  if (type == "Sequence") {
    std::vector<PreTokenizer> steps;
    for (const Json& step : settings.needed_array("pretokenizers")) {
      steps.push_back(make_pre_tokenizer(step, settings.source()));
    }
    made = [steps](SplitText& text) {
      for (const PreTokenizer& step : steps) step(text);
    };
  } else if (type == "ByteLevel") {
    made = byte_level(settings);
  } else if (type == "Split") {
    const Fields pattern(settings.needed("pattern"), settings.source() + ": pattern");
    made = cut_by_pattern(make_pattern(pattern), read_delimiter(settings, ""),
                          settings.needed_boolean("invert"));
  } else if (type == "Digits") {
    made = by_character(is_numeric, settings.needed_boolean("individual_digits")
                                        ? Delimiter::isolated
                                        : Delimiter::contiguous);
  } else if (type == "Whitespace") {
    const std::string word = kRustWord;
    made = cut_by_pattern(Pattern("[" + word + "]+|[^" + word + "\\s]+", settings.source()),
                          Delimiter::removed, true);
  } else if (type == "WhitespaceSplit") {
    made = by_character(unicode::is_space, Delimiter::removed);
  } else if (type == "Punctuation") {
    made = by_character(unicode::is_punctuation, read_delimiter(settings, "Isolated"));
  } else if (type == "BertPreTokenizer") {
    const PreTokenizer words = by_character(unicode::is_space, Delimiter::removed);
    const PreTokenizer marks = by_character(unicode::is_punctuation, Delimiter::isolated);
    made = [=](SplitText& text) {
      words(text);
      marks(text);
    };
  } else if (type == "Metaspace") {
    made = metaspace(settings);
  } else {
    settings.fail("is not a known pre-tokenizer");
  }
  finish_part(settings);
  return made;
}

}  // namespace attn
