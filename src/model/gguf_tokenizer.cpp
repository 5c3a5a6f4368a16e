#include "model/gguf_tokenizer.h"

#include <optional>

#include "attn/error.h"
#include "model/byte_level.h"
#include "model/pre_patterns.h"
#include "model/sentencepiece.h"

namespace attn {
namespace {

std::string key(const char* name) { return std::string("tokenizer.ggml.") + name; }

[[noreturn]] void fail(const Gguf& gguf, const char* name, const std::string& what) {
  throw Error(gguf.source() + ": key " + key(name) + ": " + what);
}

// An id, of a token that is there.
std::int32_t token(const Gguf& gguf, const char* name) {
  const std::int64_t id = gguf.integer(key(name));
  const auto size = static_cast<std::int64_t>(gguf.texts(key("tokens")).size());
  if (id < 0 || id >= size) {
    fail(gguf, name,
         "is " + std::to_string(id) + ", the tokens are [0, " + std::to_string(size) + ")");
  }
  return static_cast<std::int32_t>(id);
}

// The token that `id` names, where `wanted` says so or, silent, `otherwise`.
std::optional<std::int32_t> around(const Gguf& gguf, const char* wanted, const char* id,
                                   bool otherwise) {
  const bool put = gguf.has(key(wanted)) ? gguf.boolean(key(wanted)) : otherwise;
  return put ? std::optional(token(gguf, id)) : std::nullopt;
}

std::vector<std::int32_t> types(const Gguf& gguf, std::size_t tokens) {
  const std::vector<std::int64_t> list = gguf.integers(key("token_type"));
  if (list.size() != tokens) {
    fail(gguf, "token_type",
         "has " + std::to_string(list.size()) + " types for " + std::to_string(tokens) + " tokens");
  }
  std::vector<std::int32_t> out;
  for (const std::int64_t type : list) {
    if (type < 1 || type > 6) fail(gguf, "token_type", "holds " + std::to_string(type));
    out.push_back(static_cast<std::int32_t>(type));
  }
  return out;
}

Tokenizer byte_level(const Gguf& gguf) {
  ByteLevelArrays arrays;
  for (const std::string_view text : gguf.texts(key("tokens"))) arrays.tokens.emplace_back(text);
  for (const std::string_view text : gguf.texts(key("merges"))) arrays.merges.emplace_back(text);
  arrays.types = types(gguf, arrays.tokens.size());
  arrays.pre = gguf.text(key("pre"));
  const bool begins = pre_patterns(arrays.pre, gguf.source()).begins;
  arrays.begin = around(gguf, "add_bos_token", "bos_token_id", begins);
  arrays.end = around(gguf, "add_eos_token", "eos_token_id", false);
  return make_byte_level_tokenizer(arrays, gguf.source());
}

Tokenizer sentence_piece(const Gguf& gguf) {
  const auto tokens = gguf.texts(key("tokens"));
  const std::vector<double> scores = gguf.reals(key("scores"));
  const std::vector<std::int32_t> kinds = types(gguf, tokens.size());
  if (scores.size() != tokens.size()) {
    fail(gguf, "scores",
         "has " + std::to_string(scores.size()) + " scores for " + std::to_string(tokens.size()) +
             " tokens");
  }
  SentencePieceArrays arrays;
  bool unknown = false;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    arrays.pieces.push_back({std::string(tokens[i]), static_cast<float>(scores[i]),
                             static_cast<SentencePiece::Kind>(kinds[i])});
    unknown = unknown || arrays.pieces.back().kind == SentencePiece::Kind::unknown;
  }
  // Files that were made of a tokenizer.json have it as a control token.
  if (!unknown) {
    const auto id = static_cast<std::size_t>(token(gguf, "unknown_token_id"));
    arrays.pieces[id].kind = SentencePiece::Kind::unknown;
  }
  if (gguf.has(key("add_space_prefix")))
    arrays.space_in_front = gguf.boolean(key("add_space_prefix"));
  arrays.begin = around(gguf, "add_bos_token", "bos_token_id", true);
  arrays.end = around(gguf, "add_eos_token", "eos_token_id", false);
  return make_sentencepiece_tokenizer(arrays, gguf.source());
}

}  // namespace

Tokenizer read_gguf_tokenizer(const Gguf& gguf) {
  const std::string model = gguf.text(key("model"));
  if (model == "gpt2") return byte_level(gguf);
  if (model == "llama") return sentence_piece(gguf);
  fail(
      gguf, "model",
      "\"" + model + "\" is not known (gpt2, which is byte-level BPE; llama, SentencePiece's BPE)");
}

std::vector<std::int32_t> gguf_end_tokens(const Gguf& gguf) {
  std::vector<std::int32_t> ids;
  for (const char* const name : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    if (gguf.has(key(name))) ids.push_back(token(gguf, name));
  }
  return ids;
}

}  // namespace attn
