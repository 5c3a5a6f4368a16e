#include "model/tokenizer.h"

#include <algorithm>
#include <stdexcept>

#include "attn/error.h"
#include "model/longest_first.h"
#include "model/part.h"
#include "model/tokenizer_parts.h"

namespace attn {
namespace {

bool is_letter_of_space(char32_t c) { return c == byte_to_letter(' ') || unicode::is_space(c); }

// How many spaces a piece begins and ends with.
void count_spaces(std::string_view piece, PlacedToken& token) {
  std::uint32_t run = 0;
  bool leading = true;
  for (std::size_t at = 0; at < piece.size();) {
    const auto [c, length] = next_character(piece.substr(at));
    at += length;
    if (is_letter_of_space(c)) {
      ++run;
      if (leading) token.leading = run;
    } else {
      run = 0;
      leading = false;
    }
  }
  token.trailing = run;
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& source) {
  const Json tree = Json::parse(json, source);
  const Fields settings(tree, source);
  if (const std::string version = settings.needed_text("version"); version != "1.0") {
    settings.fail("version", "\"" + version + "\" is not known, \"1.0\" is");
  }
  settings.find("truncation");
  settings.find("padding");
  auto subwords = make_subwords(settings.needed("model"), source + ": model");

  Normalizer normalizer;
  if (const Json* const part = settings.find("normalizer")) {
    normalizer = make_normalizer(*part, source + ": normalizer");
  }
  const std::string added_place = source + ": added_tokens";
  std::vector<AddedToken> added;
  if (const Json* const part = settings.find("added_tokens")) {
    added = read_added_tokens(*part, added_place);
  }
  Vocabulary vocabulary = subwords->vocabulary();
  for (const AddedToken& token : added) vocabulary.add(token.content, token.id, added_place);

  PreTokenizer pre_tokenizer;
  if (const Json* const part = settings.find("pre_tokenizer")) {
    pre_tokenizer = make_pre_tokenizer(*part, source + ": pre_tokenizer");
  }
  PostProcessor post_processor;
  if (const Json* const part = settings.find("post_processor")) {
    post_processor = make_post_processor(*part, vocabulary, source + ": post_processor");
  }
  Decoder decoder;
  if (const Json* const part = settings.find("decoder")) {
    decoder = make_decoder(*part, source + ": decoder");
  }
  finish_part(settings);
  return Tokenizer(std::make_unique<Parts>(
      Parts{std::move(subwords), std::move(vocabulary),
            AddedTokens(std::move(added), std::move(normalizer), added_place),
            std::move(pre_tokenizer), std::move(post_processor), std::move(decoder)}));
}

PlacedTokens Tokenizer::Parts::tokens(std::string_view bytes, std::int32_t which) const {
  SplitText text = added.extract(bytes);
  if (pre_tokenizer) pre_tokenizer(text);
  PlacedTokens out;
  WordCache cache;
  std::vector<Subword> pieces;
  std::int32_t words = 0;
  for (const SplitText::Split& split : text.splits()) {
    PlacedToken token;
    token.type = token.text = which;
    token.word = words++;
    if (split.id >= 0) {
      token.id = split.id;
      token.source = text.source(split.begin, split.end);
      count_spaces(text.text(split), token);
      out.push_back(token);
      continue;
    }
    pieces.clear();
    subwords->cut(text.text(split), cache, pieces);
    for (const Subword& piece : pieces) {
      token.id = piece.id;
      token.source = text.source(split.begin + piece.begin, split.begin + piece.end);
      token.leading = token.trailing = 0;
      count_spaces(vocabulary.piece(piece.id), token);
      out.push_back(token);
    }
  }
  return out;
}

bool Tokenizer::Parts::truncate(std::vector<PlacedTokens>& parts,
                                const std::vector<std::string_view>& texts,
                                std::size_t most) const {
  // What is put around texts without tokens.
  std::vector<PlacedTokens> frame(texts.size());
  if (post_processor) post_processor(frame, texts, true);
  std::size_t special = 0;
  for (const PlacedTokens& part : frame) special += part.size();
  if (most < special) {
    throw std::invalid_argument("[encode] max_length is " + std::to_string(most) +
                                ", the special tokens alone are " + std::to_string(special));
  }
  PlacedTokens none;
  PlacedTokens& second = parts.size() > 1 ? parts[1] : none;
  const auto kept = longest_first(parts[0].size(), second.size(), most - special);
  const bool truncated = kept.first < parts[0].size() || kept.second < second.size();
  parts[0].resize(kept.first);
  second.resize(kept.second);
  return truncated;
}

TokenizedText Tokenizer::Parts::encode(const std::vector<std::string_view>& texts,
                                       bool special_tokens, std::optional<std::size_t> most) const {
  std::vector<PlacedTokens> parts;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    parts.push_back(tokens(texts[i], static_cast<std::int32_t>(i)));
  }
  TokenizedText out;
  if (most) out.truncated = truncate(parts, texts, *most);
  if (post_processor) post_processor(parts, texts, special_tokens);
  for (const PlacedTokens& part : parts) {
    for (const PlacedToken& token : part) {
      const std::int32_t before = out.texts.empty() ? 0 : out.texts.back();
      out.ids.push_back(token.id);
      out.offsets.push_back(token.source);
      out.type_ids.push_back(token.type);
      out.special.push_back(token.special);
      out.words.push_back(token.word);
      out.texts.push_back(token.special ? std::max(before, token.type) : token.text);
    }
  }
  return out;
}

TokenizedText Tokenizer::encode(std::string_view text, bool special_tokens) const {
  return parts_->encode({text}, special_tokens);
}

TokenizedText Tokenizer::encode_pair(std::string_view first, std::string_view second,
                                     bool special_tokens) const {
  return parts_->encode({first, second}, special_tokens);
}

TokenizedText Tokenizer::encode_within(std::size_t most, std::string_view first,
                                       const std::optional<std::string_view>& second) const {
  std::vector<std::string_view> texts = {first};
  if (second) texts.push_back(*second);
  return parts_->encode(texts, true, most);
}

const std::string& Tokenizer::Parts::decoded(std::int32_t id) const {
  if (!vocabulary.has(id)) {
    throw std::invalid_argument("[tokenizer] id " + std::to_string(id) +
                                " has no piece, ids are in [0, " +
                                std::to_string(vocabulary.size()) + ")");
  }
  const std::string* const content = added.decoded(id);
  return content != nullptr ? *content : vocabulary.piece(id);
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::vector<std::string> pieces;
  pieces.reserve(ids.size());
  for (const std::int32_t id : ids) {
    const std::string& piece = parts_->decoded(id);
    if (!skip_special || !is_special(id)) pieces.push_back(piece);
  }
  if (parts_->decoder) parts_->decoder(pieces, false);
  std::string text;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (i > 0 && !parts_->decoder) text += ' ';
    text += pieces[i];
  }
  return text;
}

std::string Tokenizer::token_bytes(std::int32_t id) const {
  std::vector<std::string> pieces = {parts_->decoded(id)};
  if (!parts_->decoder) return " " + pieces.front();
  parts_->decoder(pieces, true);
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  return text;
}

std::int64_t Tokenizer::size() const { return parts_->vocabulary.size(); }

std::optional<std::int32_t> Tokenizer::id(std::string_view piece) const {
  return parts_->vocabulary.find(piece);
}

const std::string& Tokenizer::piece(std::int32_t id) const {
  parts_->decoded(id);
  return parts_->vocabulary.piece(id);
}

bool Tokenizer::is_special(std::int32_t id) const { return parts_->added.is_special(id); }

std::vector<std::int32_t> Tokenizer::special_ids() const {
  std::vector<std::int32_t> ids;
  for (const AddedToken& token : parts_->added.tokens()) {
    if (token.special) ids.push_back(token.id);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace attn
