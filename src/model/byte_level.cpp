#include "model/byte_level.h"

#include <memory>
#include <utility>

#include "attn/error.h"
#include "model/bpe.h"
#include "model/tokenizer_parts.h"

namespace attn {
namespace {

constexpr const char* kLlama3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kQwen2 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

enum TokenType : std::int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

// The patterns that cut one after the other.
std::vector<const char*> patterns(const std::string& pre, const std::string& source) {
  if (pre == "gpt-2") return {kGpt2Pattern};
  if (pre == "llama-bpe") return {kLlama3};
  if (pre == "qwen2") return {kQwen2};
  if (pre == "smollm") return {"\\p{N}", kGpt2Pattern};
  throw Error(source + ": pre-tokenizer \"" + pre +
              "\" is not known (gpt-2, llama-bpe, qwen2, smollm)");
}

PreTokenizer cutter(const std::string& pre, const std::string& source) {
  std::vector<PreTokenizer> steps;
  for (const char* const pattern : patterns(pre, source)) {
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

}  // namespace

Tokenizer make_byte_level_tokenizer(const ByteLevelArrays& arrays, const std::string& source) {
  PreTokenizer pre_tokenizer = cutter(arrays.pre, source);
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
  if (arrays.pre == "qwen2") {
    normalizer = [](std::vector<Character>& text) { normalize(text, NormalForm::nfc); };
  }
  PostProcessor post_processor;
  if (arrays.begin) {
    if (!vocabulary.has(*arrays.begin)) {
      throw Error(source + ": the token that begins a text, " + std::to_string(*arrays.begin) +
                  ", is not in the vocabulary");
    }
    post_processor = put_in_front(*arrays.begin);
  }
  BpeOptions options;
  options.ignore_merges = arrays.pre == "llama-bpe";
  AddedTokens added(added_tokens(arrays, source), std::move(normalizer), source);
  auto subwords = std::make_unique<Bpe>(vocabulary, merges, std::move(options), source);
  return Tokenizer(std::make_unique<Tokenizer::Parts>(
      Tokenizer::Parts{std::move(subwords), std::move(vocabulary), std::move(added),
                       std::move(pre_tokenizer), std::move(post_processor), from_alphabet}));
}

}  // namespace attn
