#include "model/byte_level.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "attn/error.h"
#include "model/bpe.h"
#include "model/fields.h"
#include "model/file.h"
#include "model/pre_patterns.h"
#include "model/tokenizer_parts.h"

namespace attn {
namespace {

enum TokenType : std::int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

PreTokenizer cutter(const PrePatterns& pre, const std::string& source) {
  std::vector<PreTokenizer> steps;
  for (const char* const pattern : pre.patterns) {
    steps.push_back(cut_by_pattern(Pattern(pattern, source), Delimiter::isolated, false));
  }
  steps.emplace_back(to_alphabet);
  return [steps](SplitText& text) {
    for (const PreTokenizer& step : steps) step(text);
  };
}

std::vector<AddedToken> added_tokens(const ByteLevelArrays& arrays, const std::string& source) {
  if (!arrays.types.empty() && arrays.types.size() != arrays.tokens.size()) {
    throw Error(source + ": has " + std::to_string(arrays.types.size()) + " token types for " +
                std::to_string(arrays.tokens.size()) + " tokens");
  }
  std::vector<AddedToken> added;
  for (std::size_t i = 0; i < arrays.types.size(); ++i) {
    const std::int32_t type = arrays.types[i];
    if (type == kNormal || type == kUnused) continue;
    if (type != kControl && type != kUserDefined) {
      throw Error(source + ": token " + std::to_string(i) + " has type " + std::to_string(type) +
                  ", which a byte-level tokenizer does not know");
    }
    AddedToken token;
    token.id = static_cast<std::int32_t>(i);
    token.content = arrays.tokens[i];
    token.special = type == kControl;
    added.push_back(std::move(token));
  }
  return added;
}

Tokenizer assembled(Vocabulary vocabulary, const Bpe::Merges& merges, BpeOptions options,
                    PreTokenizer pre_tokenizer, AddedTokens added, PostProcessor post_processor,
                    const std::string& source) {
  auto subwords = std::make_unique<Bpe>(vocabulary, merges, std::move(options), source);
  return Tokenizer(std::make_unique<Tokenizer::Parts>(
      Tokenizer::Parts{std::move(subwords), std::move(vocabulary), std::move(added),
                       std::move(pre_tokenizer), std::move(post_processor), from_alphabet}));
}

// Lines "a b" behind a first one that may be "#version: 0.2".
Bpe::Merges read_merges(const std::string& source) {
  const std::string text = read_file(source);
  Bpe::Merges merges;
  for (std::size_t at = 0, end = 0; at < text.size(); at = end + 1) {
    end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || (at == 0 && line.starts_with("#version"))) continue;
    auto pair = split_merge(line);
    if (!pair) throw Error(source + ": merge \"" + line + "\" is not two pieces and a space");
    merges.push_back(std::move(*pair));
  }
  return merges;
}

// Special tokens of a family without tokenizer.json: [CLS] and [SEP] by their names there, and
// those that are only found in a text. tokenizer_config.json may name others.
std::vector<std::string> special_tokens(const std::string& folder, bool roberta) {
  std::vector<std::string> tokens = {"<|endoftext|>"};
  if (roberta) tokens = {"<s>", "</s>", "<unk>", "<pad>", "<mask>"};
  const std::string source = folder + "/tokenizer_config.json";
  const auto text = read_file_if_present(source);
  if (!text) return tokens;
  const Json tree = Json::parse(*text, source);
  const Fields fields(tree, source);
  if (fields.boolean("add_prefix_space").value_or(false))
    fields.fail("add_prefix_space", "is true, which is not known without a tokenizer.json");
  for (const char* const name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                                 "cls_token", "mask_token"}) {
    const Json* value = fields.find(name);
    if (value != nullptr && value->is(Json::Kind::object)) value = value->find("content");
    if (value == nullptr) continue;
    if (std::find(tokens.begin(), tokens.end(), value->text) == tokens.end())
      fields.fail(name, "\"" + value->text + "\" is not known without a tokenizer.json");
  }
  return tokens;
}

}  // namespace

Tokenizer read_byte_level_tokenizer(const std::string& folder, const std::string& family) {
  const bool roberta = family != "gpt2";
  const std::string source = folder + "/vocab.json";
  Vocabulary vocabulary = read_vocabulary(Json::parse(read_file(source), source), source);
  std::vector<AddedToken> added;
  for (const std::string& content : special_tokens(folder, roberta)) {
    AddedToken token;
    const auto id = vocabulary.find(content);
    if (!id) throw Error(source + ": has no " + content);
    token.id = *id;
    token.content = content;
    token.special = true;
    token.lstrip = content == "<mask>";
    added.push_back(std::move(token));
  }
  PostProcessor post_processor;
  if (roberta) post_processor = roberta_frame(added[0].id, added[1].id);
  return assembled(std::move(vocabulary), read_merges(folder + "/merges.txt"), {},
                   cutter(pre_patterns("gpt-2", source), source),
                   AddedTokens(std::move(added), {}, source), std::move(post_processor), source);
}

Tokenizer make_byte_level_tokenizer(const ByteLevelArrays& arrays, const std::string& source) {
  const PrePatterns& pre = pre_patterns(arrays.pre, source);
  PreTokenizer pre_tokenizer = cutter(pre, source);
  Vocabulary vocabulary;
  for (std::size_t i = 0; i < arrays.tokens.size(); ++i) {
    vocabulary.add(arrays.tokens[i], static_cast<std::int64_t>(i), source);
  }
  Bpe::Merges merges;
  for (const std::string& merge : arrays.merges) {
    auto pair = split_merge(merge);
    if (!pair) throw Error(source + ": merge \"" + merge + "\" is not two pieces and a space");
    merges.push_back(std::move(*pair));
  }
  Normalizer normalizer;
  if (pre.nfc) {
    normalizer = [](std::vector<Character>& text) { normalize(text, NormalForm::nfc); };
  }
  for (const auto& id : {arrays.begin, arrays.end}) {
    if (id && !vocabulary.has(*id)) {
      throw Error(source + ": the token that begins or ends a text, " + std::to_string(*id) +
                  ", is not in the vocabulary");
    }
  }
  BpeOptions options;
  options.ignore_merges = pre.whole_words;
  return assembled(std::move(vocabulary), merges, std::move(options), std::move(pre_tokenizer),
                   AddedTokens(added_tokens(arrays, source), std::move(normalizer), source),
                   put_around(arrays.begin, arrays.end), source);
}

}  // namespace attn
