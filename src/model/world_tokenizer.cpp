#include "model/world_tokenizer.h"

#include <algorithm>
#include <bitset>
#include <charconv>
#include <memory>
#include <utility>

#include "attn/error.h"
#include "model/fields.h"
#include "model/file.h"
#include "model/python_literal.h"
#include "model/tokenizer_parts.h"
#include "model/trie.h"

namespace attn {
namespace {

constexpr std::size_t kLargestFile = std::size_t{16} << 20;
constexpr std::size_t kLongestPiece = 1024;
constexpr std::int64_t kLargestId = 1 << 20;  // 16 times as many as are published

// Decimal digits alone.
std::optional<std::int64_t> number(std::string_view text) {
  std::int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end || text.front() == '-') return std::nullopt;
  return value;
}

// "id literal length", or a literal alone.
WorldPiece parse_line(std::string_view line, std::int64_t index, bool numbered) {
  WorldPiece piece{index, {}};
  std::size_t length = 0;
  if (numbered) {
    const std::size_t first = line.find(' '), last = line.rfind(' ');
    if (first == last) throw Error("is no id, literal and length");
    const auto id = number(line.substr(0, first)), bytes = number(line.substr(last + 1));
    if (!id) throw Error("has no id in front");
    if (!bytes) throw Error("has no length at its end");
    piece.id = *id;
    length = static_cast<std::size_t>(*bytes);
    line = line.substr(first + 1, last - first - 1);
  }
  if (piece.id >= kLargestId)
    throw Error("has id " + std::to_string(piece.id) + ", must be below " +
                std::to_string(kLargestId));
  piece.bytes = parse_python_literal(line);
  if (piece.bytes.empty()) throw Error("has an empty piece");
  if (piece.bytes.size() > kLongestPiece)
    throw Error("has a piece of more than " + std::to_string(kLongestPiece) + " bytes");
  if (numbered && piece.bytes.size() != length)
    throw Error("has " + std::to_string(piece.bytes.size()) + " bytes, not " +
                std::to_string(length));
  return piece;
}

std::string to_letters(std::string_view bytes) {
  std::string letters;
  for (const char b : bytes)
    unicode::append_utf8(byte_to_letter(static_cast<unsigned char>(b)), letters);
  return letters;
}

using Strings = std::vector<std::pair<std::string, std::int32_t>>;

class LongestPieces final : public Subwords {
 public:
  // One of them is a prefix of any text.
  LongestPieces(Vocabulary vocabulary, Strings pieces)
      : Subwords(std::move(vocabulary)), trie_(std::move(pieces)) {}

 private:
  void cut_word(std::string_view word, std::vector<Subword>& out) const override {
    for (std::size_t at = 0; at < word.size();) {
      Subword piece{0, at, at};
      trie_.prefixes(word.substr(at), [&](std::size_t length, std::int32_t id) {
        piece.id = id;
        piece.end = at + length;
      });
      out.push_back(piece);
      at = piece.end;
    }
  }

  Trie trie_;
};

}  // namespace

std::vector<WorldPiece> parse_world_vocabulary(std::string_view text, const std::string& source) {
  std::vector<WorldPiece> pieces;
  const bool numbered = !text.empty() && text.front() >= '0' && text.front() <= '9';
  for (std::size_t at = 0, end = 0; at < text.size(); at = end + 1) {
    end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const auto index = static_cast<std::int64_t>(pieces.size());
    try {
      pieces.push_back(parse_line(line, index, numbered));
    } catch (const Error& error) {
      throw Error(source + ": line " + std::to_string(index + 1) + ": " + error.what());
    }
  }
  return pieces;
}

WorldOptions parse_world_options(std::string_view json, const std::string& source) {
  const Json tree = Json::parse(json, source);
  const Fields fields(tree, source);
  WorldOptions options;
  const std::string tokenizer = fields.text("tokenizer_class").value_or("RwkvTokenizer");
  if (tokenizer != "RwkvTokenizer" && tokenizer != "Rwkv5Tokenizer" &&
      tokenizer != "Rwkv6Tokenizer" && tokenizer != "RWKVWorldTokenizer") {
    fields.fail("tokenizer_class", "\"" + tokenizer + "\" is not known beside this vocabulary");
  }
  // That class always does.
  options.begins = fields.boolean("add_bos_token").value_or(tokenizer == "Rwkv5Tokenizer");
  for (const char* const name : {"add_prefix_space", "add_eos_token"}) {
    if (fields.boolean(name).value_or(false)) fields.fail(name, "is true, which is not known");
  }
  const Json* name = fields.find("bos_token");
  if (name != nullptr && name->is(Json::Kind::object)) name = name->find("content");
  if (const Json* const added = fields.find("added_tokens_decoder")) {
    for (std::size_t i = 0; i < added->names.size(); ++i) {
      if (added->names[i] != "0")
        fields.fail("added_tokens_decoder", "has token " + added->names[i] + ", only 0 is known");
      name = added->items[i].find("content");
    }
  }
  if (name != nullptr) {
    if (name->text.empty()) fields.fail("bos_token", "is no text");
    options.end = name->text;
  }
  return options;
}

Tokenizer make_world_tokenizer(const std::vector<WorldPiece>& pieces, const WorldOptions& options,
                               const std::string& source) {
  AddedToken end;
  end.content = options.end.value_or("<|endoftext|>");
  end.special = true;
  Vocabulary vocabulary;
  Strings strings;
  std::bitset<256> bytes;
  for (const WorldPiece& piece : pieces) {
    if (piece.id == 0) {
      if (!options.end) end.content = piece.bytes;
      continue;
    }
    const std::string letters = to_letters(piece.bytes);
    vocabulary.add(letters, piece.id, source);
    strings.emplace_back(letters, static_cast<std::int32_t>(piece.id));
    if (piece.bytes.size() == 1) bytes.set(static_cast<unsigned char>(piece.bytes.front()));
  }
  // Other characters could be letters of bytes.
  if (std::any_of(end.content.begin(), end.content.end(), [](char c) { return (c & 0x80) != 0; }))
    throw Error(source + ": token 0, the end of a text, is not ASCII");
  for (std::size_t b = 0; b < bytes.size(); ++b) {
    if (!bytes[b]) throw Error(source + ": has no piece for byte " + std::to_string(b));
  }
  vocabulary.add(end.content, 0, source);
  auto subwords = std::make_unique<LongestPieces>(vocabulary, std::move(strings));
  const auto begin = options.begins ? std::optional<std::int32_t>(0) : std::nullopt;
  return Tokenizer(std::make_unique<Tokenizer::Parts>(
      Tokenizer::Parts{std::move(subwords), std::move(vocabulary), AddedTokens({end}, {}, source),
                       to_alphabet, put_around(begin, std::nullopt), from_alphabet}));
}

std::optional<Tokenizer> read_world_tokenizer(const std::string& folder) {
  for (const char* const name : {"/rwkv_vocab_v20230424.txt", "/vocab.txt"}) {
    const std::string source = folder + name;
    const auto text = read_file_if_present(source, kLargestFile);
    if (!text) continue;
    const std::string config = folder + "/tokenizer_config.json";
    const auto json = read_file_if_present(config);
    return make_world_tokenizer(parse_world_vocabulary(*text, source),
                                json ? parse_world_options(*json, config) : WorldOptions{}, source);
  }
  return std::nullopt;
}

}  // namespace attn
