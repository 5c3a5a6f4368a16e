#include "model/encoder_tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "attn/error.h"
#include "model/byte_level.h"
#include "model/fields.h"
#include "model/file.h"
#include "model/world_tokenizer.h"

namespace attn {
namespace {

// sentence-transformers then lower-cases every text before the tokenizer sees it.
bool lower_cases_texts(const std::string& folder) {
  const std::string source = folder + "/sentence_bert_config.json";
  const auto json = read_file_if_present(source);
  if (!json) return false;
  const Json tree = Json::parse(*json, source);
  return Fields(tree, source).boolean("do_lower_case").value_or(false);
}

WordPiece read_wordpiece(const std::string& folder, std::int64_t vocabulary) {
  const std::string path = folder + "/vocab.txt";
  const auto text = read_file_if_present(path);
  if (!text) throw Error(path + ": is missing, and so are tokenizer.json and vocab.json");
  TokenizerConfig config;
  const std::string source = folder + "/tokenizer_config.json";
  if (const auto json = read_file_if_present(source))
    config = parse_tokenizer_config(*json, source);
  if (lower_cases_texts(folder)) {
    // That leaves the accents to a cased tokenizer.
    if (!config.lower_case.value_or(true) && !config.strip_accents) config.strip_accents = false;
    config.lower_case = true;
  }
  return WordPiece(*text, config, vocabulary, path);
}

std::variant<WordPiece, Tokenizer> read(const std::string& folder, const std::string& family,
                                        std::int64_t vocabulary) {
  auto tokenizer = read_folder_tokenizer(folder, family);
  if (!tokenizer) return read_wordpiece(folder, vocabulary);
  if (tokenizer->size() > vocabulary) {
    throw Error(folder + ": the tokenizer has " + std::to_string(tokenizer->size()) +
                " tokens, the model " + std::to_string(vocabulary));
  }
  if (lower_cases_texts(folder)) {
    throw Error(folder + "/sentence_bert_config.json: do_lower_case is true, which we do not run " +
                "beside a tokenizer.json");
  }
  return *std::move(tokenizer);
}

// [CLS], [SEP] and the like, also where the text itself has them; not what stands for a word.
bool is_frame(const Tokenizer& tokenizer, std::int32_t id) {
  const std::string& piece = tokenizer.piece(id);
  return tokenizer.is_special(id) && piece != "[MASK]" && piece != "[UNK]" && piece != "<mask>" &&
         piece != "<unk>";
}

// A token as a person would read it: as the text has it, but for special tokens and parts of words.
std::string readable(const Tokenizer& tokenizer, std::int32_t id, std::string_view source) {
  const std::string& piece = tokenizer.piece(id);
  return source.empty() || tokenizer.is_special(id) || piece.starts_with("##")
             ? piece
             : std::string(source);
}

Encoding encode_with(const Tokenizer& tokenizer, const std::string& text,
                     const std::optional<std::string>& pair, std::int64_t max_length) {
  const std::optional<std::string_view> second =
      pair ? std::optional<std::string_view>(*pair) : std::nullopt;
  TokenizedText got = tokenizer.encode_within(static_cast<std::size_t>(max_length), text, second);
  Encoding out;
  std::int32_t words = 0;  // of the first text, also where its end was cut off
  for (std::size_t i = 0; i < got.ids.size(); ++i) {
    if (got.texts[i] == 0) words = std::max(words, got.words[i] + 1);
  }
  for (std::size_t i = 0; i < got.ids.size(); ++i) {
    const std::int32_t segment = got.texts[i];
    const auto [begin, end] = got.offsets[i];
    const std::string_view source =
        std::string_view(segment == 0 ? text : *second).substr(begin, end - begin);
    RecordToken& token = out.tokens.emplace_back();
    token.text = readable(tokenizer, got.ids[i], source);
    token.special = got.special[i] || is_frame(tokenizer, got.ids[i]);
    token.word = token.special ? -1 : got.words[i] + (segment == 0 ? 0 : words);
    token.segment = segment;
  }
  out.ids = std::move(got.ids);
  out.type_ids = std::move(got.type_ids);
  out.offsets = std::move(got.offsets);
  out.truncated = got.truncated;
  return out;
}

}  // namespace

std::optional<Tokenizer> read_folder_tokenizer(const std::string& folder,
                                               const std::string& family) {
  const std::string path = folder + "/tokenizer.json";
  if (const auto json = read_file_if_present(path)) return Tokenizer::from_json(*json, path);
  std::error_code ignored;
  const bool byte_level = family == "gpt2" || family == "roberta" || family == "longformer";
  if (byte_level && std::filesystem::exists(folder + "/vocab.json", ignored))
    return read_byte_level_tokenizer(folder, family);
  if (family == "rwkv" || family == "rwkv5") return read_world_tokenizer(folder);
  return std::nullopt;
}

EncoderTokenizer::EncoderTokenizer(const std::string& folder, const std::string& family,
                                   std::int64_t vocabulary)
    : tokenizer_(read(folder, family, vocabulary)) {}

Encoding EncoderTokenizer::encode(const std::string& text, const std::optional<std::string>& pair,
                                  std::int64_t max_length) const {
  if (const auto* const word_piece = std::get_if<WordPiece>(&tokenizer_))
    return word_piece->encode(text, pair, max_length);
  return encode_with(std::get<Tokenizer>(tokenizer_), text, pair, max_length);
}

}  // namespace attn
