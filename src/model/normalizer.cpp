#include "model/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "model/part.h"
#include "model/precompiled.h"

namespace attn {
namespace {

bool is_mark(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME: return true;
    default: return false;
  }
}

Normalizer strip(const Fields& settings) {
  const bool left = settings.needed_boolean("strip_left"),
             right = settings.needed_boolean("strip_right");
  return [=](std::vector<Character>& text) {
    const auto stays = [](const Character& c) { return !unicode::is_space(c.value); };
    if (right) {
      text.erase(std::find_if(text.rbegin(), text.rend(), stays).base(), text.end());
    }
    if (left) text.erase(text.begin(), std::find_if(text.begin(), text.end(), stays));
  };
}

Normalizer prepend(const Fields& settings) {
  const std::vector<Character> characters = escape_bytes(settings.needed_text("prepend"));
  return [=](std::vector<Character>& text) {
    if (text.empty()) return;
    const Character first = text.front();
    std::vector<Character> front = characters;
    for (Character& c : front) c = {c.value, first.begin, first.end};
    text.insert(text.begin(), front.begin(), front.end());
  };
}

Normalizer replace(const Fields& settings) {
  const std::vector<Character> content = escape_bytes(settings.needed_text("content"));
  const Fields pattern(settings.needed("pattern"), settings.source() + ": pattern");
  const Pattern matcher = make_pattern(pattern);
  const std::string place = settings.source();
  return [=](std::vector<Character>& text) {
    std::string bytes;
    std::vector<std::size_t> starts;  // byte of each character
    starts.reserve(text.size() + 1);
    for (const Character& c : text) {
      starts.push_back(bytes.size());
      unicode::append_utf8(c.value, bytes);
    }
    starts.push_back(bytes.size());
    std::vector<Character> out;
    out.reserve(text.size());
    std::size_t at = 0;  // character
    for (const PatternPart& part : matcher.parts(bytes)) {
      const std::size_t before = out.size();
      for (; starts[at] < part.end; ++at) {
        if (!part.match) out.push_back(text[at]);
      }
      if (!part.match) continue;
      out.resize(before);
      const Character source = at > 0 ? text[at - 1] : Character{};
      for (const Character& c : content) out.push_back({c.value, source.begin, source.end});
      check_growth(text.size(), out.size(), place);
    }
    text = std::move(out);
  };
}

Normalizer bert(const Fields& settings) {
  const bool clean = settings.needed_boolean("clean_text"),
             split = settings.needed_boolean("handle_chinese_chars");
  const bool lower = settings.needed_boolean("lowercase");
  const bool strip_accents = settings.boolean("strip_accents").value_or(lower);
  return [=](std::vector<Character>& text) {
    if (clean) {
      std::erase_if(text, [](const Character& c) {
        return c.value == 0 || c.value == unicode::kReplacement || unicode::is_control(c.value);
      });
      for (Character& c : text) c.value = unicode::is_space(c.value) ? U' ' : c.value;
    }
    if (split) {
      std::vector<Character> out;
      out.reserve(text.size());
      for (const Character& c : text) {
        const bool alone = unicode::is_cjk(c.value);
        if (alone) out.push_back({U' ', c.begin, c.end});
        out.push_back(c);
        if (alone) out.push_back({U' ', c.begin, c.end});
      }
      text = std::move(out);
    }
    if (strip_accents) {
      normalize(text, NormalForm::nfd);
      std::erase_if(text, [](const Character& c) { return unicode::is_nonspacing_mark(c.value); });
    }
    if (lower) text = unicode::lower(text);
  };
}

}  // namespace

Normalizer make_normalizer(const Json& part, const std::string& place) {
  const std::string type = part_type(part, place);
  const Fields settings(part, place + ": " + type);
  Normalizer made;
  const auto form = [](NormalForm f) {
    return [f](std::vector<Character>& text) { normalize(text, f); };
  };
  if (type == "Sequence") {
    std::vector<Normalizer> steps;
    for (const Json& step : settings.needed_array("normalizers")) {
      steps.push_back(make_normalizer(step, settings.source()));
    }
    made = [steps, where = settings.source()](std::vector<Character>& text) {
      for (const Normalizer& step : steps) {
        const std::size_t before = text.size();
        step(text);
        check_growth(before, text.size(), where);
      }
    };
  } else if (type == "NFC") {
    made = form(NormalForm::nfc);
  } else if (type == "NFD") {
    made = form(NormalForm::nfd);
  } else if (type == "NFKC") {
    made = form(NormalForm::nfkc);
  } else if (type == "NFKD") {
    made = form(NormalForm::nfkd);
  } else if (type == "Lowercase") {
    made = [](std::vector<Character>& text) { text = unicode::lower(text); };
  } else if (type == "StripAccents") {
    made = [](std::vector<Character>& text) {
      std::erase_if(text, [](const Character& c) { return is_mark(c.value); });
    };
  } else if (type == "Strip") {
    made = strip(settings);
  } else if (type == "Replace") {
    made = replace(settings);
  } else if (type == "Prepend") {
    made = prepend(settings);
  } else if (type == "Precompiled") {
    const PrecompiledRules rules(settings.text("precompiled_charsmap").value_or(""),
                                 settings.source() + ": precompiled_charsmap");
    made = [rules](std::vector<Character>& text) { rules.normalize(text); };
  } else if (type == "BertNormalizer") {
    made = bert(settings);
  } else {
    settings.fail("is not a known normalizer");
  }
  finish_part(settings);
  return made;
}

}  // namespace attn
