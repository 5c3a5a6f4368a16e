#include "model/post_processor.h"

#include <algorithm>
#include <map>
#include <utility>

#include "model/part.h"

namespace attn {
namespace {

using Sources = std::vector<std::string_view>;

PlacedToken special_token(std::int32_t id, std::int32_t type) {
  PlacedToken token;
  token.id = id;
  token.type = type;
  token.special = true;
  return token;
}

// One character further, or one back, but not past `limit`.
std::size_t forward(std::string_view text, std::size_t at, std::size_t limit) {
  if (at < limit) ++at;
  while (at < limit && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
  return at;
}
std::size_t backward(std::string_view text, std::size_t at, std::size_t limit) {
  if (at > limit) --at;
  while (at > limit && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

// Offsets without the spaces that a piece begins or ends with.
void trim(std::vector<PlacedTokens>& parts, const Sources& sources, bool prefix_space) {
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const std::string_view text = sources[std::min(p, sources.size() - 1)];
    for (std::size_t i = 0; i < parts[p].size(); ++i) {
      PlacedToken& token = parts[p][i];
      auto& [begin, end] = token.source;
      std::uint32_t leading = token.leading;
      // The space that was put in front has no source that could be trimmed.
      if ((i == 0 || begin == 0) && prefix_space && leading == 1) leading = 0;
      for (std::uint32_t n = 0; n < leading; ++n) begin = forward(text, begin, end);
      for (std::uint32_t n = 0; n < token.trailing; ++n) end = backward(text, end, begin);
    }
  }
}

std::int32_t known_token(const Json& pair, const char* name, const Vocabulary& vocabulary,
                         const Fields& settings) {
  if (pair.items.size() != 2 || !pair.items[0].is(Json::Kind::text) ||
      !pair.items[1].is(Json::Kind::integer)) {
    settings.fail(name, "must be a token and its id");
  }
  if (!vocabulary.has(pair.items[1].integer)) {
    settings.fail(name, "has id " + std::to_string(pair.items[1].integer) +
                            ", which is not in the vocabulary");
  }
  return static_cast<std::int32_t>(pair.items[1].integer);
}

// [CLS] a [SEP], and b [SEP] behind it.
PostProcessor frame(std::int32_t begin, std::int32_t end, bool roberta, bool trims,
                    bool prefix_space) {
  return [=](std::vector<PlacedTokens>& parts, const Sources& sources, bool special_tokens) {
    if (trims) trim(parts, sources, prefix_space);
    for (std::size_t p = 0; p < parts.size(); ++p) {
      if (roberta) {
        for (PlacedToken& token : parts[p]) token.type = 0;
      }
      if (!special_tokens) continue;
      const std::int32_t type = p == 0 || roberta ? 0 : 1;
      // RoBERTa has a second end between two texts.
      if (p == 0 || roberta) {
        parts[p].insert(parts[p].begin(), special_token(p == 0 ? begin : end, type));
      }
      parts[p].push_back(special_token(end, type));
    }
  };
}

PostProcessor read_frame(const Fields& settings, const Vocabulary& vocabulary, bool roberta) {
  const std::int32_t begin = known_token(settings.needed("cls"), "cls", vocabulary, settings);
  const std::int32_t end = known_token(settings.needed("sep"), "sep", vocabulary, settings);
  const bool trims = roberta && settings.needed_boolean("trim_offsets");
  const bool prefix_space = roberta && settings.needed_boolean("add_prefix_space");
  return frame(begin, end, roberta, trims, prefix_space);
}

// A piece of a template: one of the two texts, or special tokens.
struct Slot {
  int text = -1;
  std::int32_t type = 0;
  std::vector<std::int32_t> ids;
};

std::map<std::string, std::vector<std::int32_t>> read_special_tokens(const Json& object,
                                                                     const Vocabulary& vocabulary,
                                                                     const std::string& place) {
  const Fields whole(object, place);  // refuses what is no object
  std::map<std::string, std::vector<std::int32_t>> tokens;
  for (std::size_t i = 0; i < object.names.size(); ++i) {
    const Fields settings(object.items[i], place + ": " + object.names[i]);
    settings.needed_text("id");
    std::vector<std::int32_t>& ids = tokens[object.names[i]];
    for (const Json& id : settings.needed_array("ids")) {
      if (!id.is(Json::Kind::integer) || !vocabulary.has(id.integer)) {
        settings.fail("ids", "has one that is not in the vocabulary");
      }
      ids.push_back(static_cast<std::int32_t>(id.integer));
    }
    if (settings.needed_array("tokens").size() != ids.size())
      settings.fail("tokens", "are not one an id");
    finish_part(settings);
  }
  return tokens;
}

std::vector<Slot> read_template(
    const Fields& settings, const char* name,
    const std::map<std::string, std::vector<std::int32_t>>& special_tokens) {
  std::vector<Slot> slots;
  for (const Json& item : settings.needed_array(name)) {
    const Fields piece(item, settings.source() + ": " + name);
    Slot slot;
    const Json* const text = piece.find("Sequence");
    const Json* const token = piece.find("SpecialToken");
    finish_part(piece);
    if ((text == nullptr) == (token == nullptr)) {
      piece.fail("must hold either Sequence or SpecialToken");
    }
    const Fields inner(text != nullptr ? *text : *token, piece.source());
    slot.type = static_cast<std::int32_t>(inner.needed_integer("type_id", 0, 255));
    const std::string id = inner.needed_text("id");
    finish_part(inner);
    if (text != nullptr) {
      if (id != "A" && id != "B") inner.fail("id", "\"" + id + "\" is not known (A, B)");
      slot.text = id == "A" ? 0 : 1;
    } else {
      const auto found = special_tokens.find(id);
      if (found == special_tokens.end()) {
        inner.fail("id", "\"" + id + "\" is not one of special_tokens");
      }
      slot.ids = found->second;
    }
    slots.push_back(std::move(slot));
  }
  return slots;
}

PostProcessor by_template(const Fields& settings, const Vocabulary& vocabulary) {
  const auto special_tokens = read_special_tokens(settings.needed("special_tokens"), vocabulary,
                                                  settings.source() + ": special_tokens");
  const std::vector<Slot> single = read_template(settings, "single", special_tokens);
  const std::vector<Slot> pair = read_template(settings, "pair", special_tokens);
  for (const Slot& slot : single) {
    if (slot.text == 1) settings.fail("single", "has a second text");
  }
  return [=](std::vector<PlacedTokens>& parts, const Sources&, bool with_special) {
    std::vector<PlacedTokens> out;
    for (const Slot& slot : parts.size() == 1 ? single : pair) {
      if (slot.text >= 0) {
        out.push_back(parts[static_cast<std::size_t>(slot.text)]);
        for (PlacedToken& token : out.back()) token.type = slot.type;
      } else if (with_special) {
        out.emplace_back();
        for (const std::int32_t id : slot.ids) out.back().push_back(special_token(id, slot.type));
      }
    }
    parts = std::move(out);
  };
}

}  // namespace

PostProcessor roberta_frame(std::int32_t begin, std::int32_t end) {
  return frame(begin, end, true, true, false);
}

PostProcessor put_around(std::optional<std::int32_t> begin, std::optional<std::int32_t> end) {
  return [=](std::vector<PlacedTokens>& parts, const Sources&, bool with_special) {
    for (std::size_t p = 0; with_special && p < parts.size(); ++p) {
      const auto text = static_cast<std::int32_t>(p);
      if (begin) parts[p].insert(parts[p].begin(), special_token(*begin, text));
      if (end) parts[p].push_back(special_token(*end, text));
    }
  };
}

PostProcessor make_post_processor(const Json& part, const Vocabulary& vocabulary,
                                  const std::string& place) {
  const std::string type = part_type(part, place);
  const Fields settings(part, place + ": " + type);
  PostProcessor made;
  if (type == "Sequence") {
    std::vector<PostProcessor> steps;
    bool framed = false;
    for (const Json& step : settings.needed_array("processors")) {
      // Behind one that made its own parts, no other can tell the two texts apart.
      const std::string kind = part_type(step, settings.source());
      if (framed) settings.fail(kind + " behind special tokens is not known");
      framed = kind != "ByteLevel";
      steps.push_back(make_post_processor(step, vocabulary, settings.source()));
    }
    made = [steps](std::vector<PlacedTokens>& parts, const Sources& sources, bool special_tokens) {
      for (const PostProcessor& step : steps) step(parts, sources, special_tokens);
    };
  } else if (type == "ByteLevel") {
    const bool trims = settings.needed_boolean("trim_offsets");
    const bool prefix_space = settings.needed_boolean("add_prefix_space");
    settings.boolean("use_regex")
        .value_or(true);  // means something to the pre-tokenizer of this name only
    made = [=](std::vector<PlacedTokens>& parts, const Sources& sources, bool) {
      if (trims) trim(parts, sources, prefix_space);
    };
  } else if (type == "TemplateProcessing") {
    made = by_template(settings, vocabulary);
  } else if (type == "BertProcessing") {
    made = read_frame(settings, vocabulary, false);
  } else if (type == "RobertaProcessing") {
    made = read_frame(settings, vocabulary, true);
  } else {
    settings.fail("is not a known post-processor");
  }
  finish_part(settings);
  return made;
}

}  // namespace attn
