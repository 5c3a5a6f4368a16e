#include "model/word_tokens.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "attn/error.h"
#include "model/tokenizer_parts.h"

namespace attn {
namespace {

class WholeWords final : public Subwords {
 public:
  WholeWords(Vocabulary vocabulary, std::int32_t unknown)
      : Subwords(std::move(vocabulary)), unknown_(unknown) {}

 private:
  void cut_word(std::string_view word, std::vector<Subword>& out) const override {
    out.push_back({vocabulary().find(word).value_or(unknown_), 0, word.size()});
  }

  std::int32_t unknown_;
};

PostProcessor put_around(const std::vector<std::int32_t>& front,
                         const std::vector<std::int32_t>& behind) {
  return [front, behind](std::vector<PlacedTokens>& parts,
                         const std::vector<std::string_view>& /*sources*/, bool special_tokens) {
    if (!special_tokens) return;
    const auto special = [](std::int32_t id) {
      PlacedToken token;
      token.id = id;
      token.special = true;
      return token;
    };
    for (PlacedTokens& part : parts) {
      for (std::size_t i = front.size(); i-- > 0;) part.insert(part.begin(), special(front[i]));
      for (const std::int32_t id : behind) part.push_back(special(id));
    }
  };
}

}  // namespace

std::vector<std::string> parse_token_list(std::string_view file, const std::string& source) {
  std::vector<std::string> tokens;
  if (source.ends_with(".json")) {
    const Json list = Json::parse(std::string(file), source);
    if (!list.is(Json::Kind::array)) throw Error(source + ": must hold an array of strings");
    for (const Json& token : list.items) {
      if (!token.is(Json::Kind::text)) throw Error(source + ": must hold an array of strings");
      tokens.push_back(token.text);
    }
    return tokens;
  }
  bool returns = !file.empty();  // every line ends with a carriage return too
  while (!file.empty()) {
    const std::size_t end = std::min(file.find('\n'), file.size());
    tokens.emplace_back(file.substr(0, end));
    returns = returns && tokens.back().ends_with('\r');
    file.remove_prefix(std::min(end + 1, file.size()));
  }
  for (std::string& token : tokens) {
    if (returns) token.pop_back();
  }
  return tokens;
}

Tokenizer make_word_tokenizer(const std::vector<std::string>& tokens,
                              const WordTokenOptions& options, const std::string& source) {
  Vocabulary vocabulary;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    vocabulary.add(tokens[i], static_cast<std::int64_t>(i), source);
  if (!vocabulary.find(options.unknown)) vocabulary.add(options.unknown, vocabulary.size(), source);
  std::vector<AddedToken> added;
  for (const std::string& content : options.special) {
    const auto id = vocabulary.find(content);
    if (!id || content.empty()) continue;
    AddedToken token;
    token.id = *id;
    token.content = content;
    token.special = true;
    added.push_back(std::move(token));
  }
  const std::int32_t unknown = *vocabulary.find(options.unknown);
  const PreTokenizer cut = [](SplitText& text) {
    text.cut([](std::string_view part) {
      const auto is_space = [](char32_t c) { return c == U' ' || (c >= U'\t' && c <= U'\r'); };
      return split_at(parts_where(part, is_space), Delimiter::removed);
    });
  };
  return Tokenizer(std::make_unique<Tokenizer::Parts>(
      Tokenizer::Parts{std::make_unique<WholeWords>(vocabulary, unknown),
                       std::move(vocabulary),
                       AddedTokens(std::move(added), {}, source),
                       cut,
                       put_around(options.front, options.behind),
                       {}}));
}

}  // namespace attn
