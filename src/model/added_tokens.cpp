#include "model/added_tokens.h"

#include <utility>

#include "attn/error.h"
#include "model/part.h"
#include "model/vocabulary.h"

namespace attn {
namespace {

using Split = SplitText::Split;

const Pattern& word_pattern() {
  static const Pattern kWord("[" + std::string(kRustWord) + "]", "added tokens");
  return kWord;
}

bool is_word(std::string_view character) {
  const auto parts = word_pattern().parts(character);
  return !parts.empty() && parts.front().match;
}

// The last character of a text that is not empty.
std::string_view last_character(std::string_view text) {
  std::size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return text.substr(begin);
}

std::string to_text(const std::vector<Character>& characters) {
  std::string text;
  for (const Character& c : characters) unicode::append_utf8(c.value, text);
  return text;
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const Json& array, const std::string& place) {
  if (!array.is(Json::Kind::array)) {
    throw Error(place + " is " + array.kind_name() + ", must be an array");
  }
  std::vector<AddedToken> tokens;
  for (const Json& item : array.items) {
    const Fields settings(item, place);
    AddedToken token;
    token.id =
        static_cast<std::int32_t>(settings.needed_integer("id", 0, Vocabulary::kLargest - 1));
    token.content = settings.needed_text("content");
    if (token.content.empty()) settings.fail("content", "is empty");
    token.special = settings.needed_boolean("special");
    token.single_word = settings.needed_boolean("single_word");
    token.lstrip = settings.needed_boolean("lstrip");
    token.rstrip = settings.needed_boolean("rstrip");
    token.normalized = settings.needed_boolean("normalized");
    finish_part(settings);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, Normalizer normalizer,
                         const std::string& place)
    : tokens_(std::move(tokens)), normalizer_(std::move(normalizer)) {
  std::vector<std::pair<std::string, std::int32_t>> plain, normalized;
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    by_id_[token.id] = i;
    std::vector<Character> text = escape_bytes(token.content);
    if (token.normalized && normalizer_) normalizer_(text);
    if (text.empty()) {
      throw Error(place + ": normalisation leaves nothing of \"" + token.content + "\"");
    }
    normal_.push_back(to_text(text));
    (token.normalized ? normalized : plain).emplace_back(normal_.back(), i);
  }
  if (!plain.empty()) plain_.emplace(std::move(plain));
  if (!normalized.empty()) normalized_.emplace(std::move(normalized));
}

const std::string* AddedTokens::decoded(std::int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &normal_[found->second];
}

bool AddedTokens::is_special(std::int32_t id) const {
  const auto found = by_id_.find(id);
  return found != by_id_.end() && tokens_[found->second].special;
}

// The longest token that begins leftmost, again and again.
std::vector<Split> AddedTokens::find(std::string_view text, const Trie& trie) const {
  std::vector<Split> out;
  std::size_t done = 0;  // where the text after the last token begins
  for (std::size_t at = 0; at < text.size();) {
    std::size_t length = 0;
    std::int32_t index = -1;
    trie.prefixes(text.substr(at), [&](std::size_t n, std::int32_t number) {
      length = n;
      index = number;
    });
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<std::size_t>(index)];
    std::size_t begin = at, end = at + length;
    at = end;
    if (token.single_word &&
        ((begin > 0 && is_word(last_character(text.substr(0, begin)))) ||
         (end < text.size() &&
          is_word(text.substr(end, next_character(text.substr(end)).second))))) {
      continue;
    }
    while (token.lstrip && begin > done) {
      const std::string_view last = last_character(text.substr(0, begin));
      if (!unicode::is_space(next_character(last).first)) break;
      begin -= last.size();
    }
    while (token.rstrip && end < text.size()) {
      const auto [c, size] = next_character(text.substr(end));
      if (!unicode::is_space(c)) break;
      end += size;
    }
    if (done < begin) out.push_back({done, begin, -1});
    out.push_back({begin, end, token.id});
    done = end;
  }
  if (done < text.size()) out.push_back({done, text.size(), -1});
  return out;
}

SplitText AddedTokens::extract(std::string_view bytes) const {
  const std::vector<Character> characters = escape_bytes(bytes);
  SplitText text;
  for (const Character& c : characters) text.append(c.value, {c.begin, c.end});
  text.end_split();
  if (plain_) text.cut([&](std::string_view part) { return find(part, *plain_); });
  if (normalizer_) {
    text.rewrite([&](const SplitText& from, const Split& split, SplitText& out) {
      std::vector<Character> part;
      for (std::size_t at = split.begin; at < split.end;) {
        const auto [c, length] = next_character(from.text().substr(at));
        const auto [begin, end] = from.source(at, at + length);
        part.push_back({c, begin, end});
        at += length;
      }
      normalizer_(part);
      for (const Character& c : part) out.append(c.value, {c.begin, c.end});
      out.end_split();
    });
  }
  if (normalized_) text.cut([&](std::string_view part) { return find(part, *normalized_); });
  return text;
}

}  // namespace attn
