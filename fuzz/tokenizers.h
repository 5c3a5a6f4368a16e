// Files of tokenizers (check.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "attn/error.h"
#include "check.h"
#include "model/byte_level.h"
#include "model/file.h"
#include "model/sentencepiece.h"
#include "model/tokenizer.h"
#include "model/tokenizer_config.h"
#include "model/wordpiece.h"
#include "model/world_tokenizer.h"

namespace attn::fuzz {

// A model, and what it makes of a text that it may know.
inline void sentencepiece(Bytes bytes) {
  try {
    require(!parse_sentencepiece(text_of(bytes), "fuzz").empty());
    const Tokenizer tokenizer = make_sentencepiece_tokenizer(text_of(bytes), {}, "fuzz");
    const std::string_view text = "ab \xef\xbc\xa1 e\xcc\x81 </s>\xff<0x41> ba";
    tokenizer.decode(encoded(tokenizer, text).ids, false);
  } catch (const Error&) {
  }
}

// Byte 0: options. Byte 1: max_length. Then the text, and behind a byte 0xFE a pair, and behind
// another one a vocabulary instead of the built-in one.
inline void wordpiece(Bytes bytes) {
  if (bytes.size() < 2) return;
  TokenizerConfig config;
  if ((bytes[0] & 1) != 0) config.lower_case = (bytes[0] & 2) != 0;
  if ((bytes[0] & 4) != 0) config.strip_accents = (bytes[0] & 8) != 0;
  config.split_cjk = (bytes[0] & 16) == 0;
  const std::int64_t max_length = bytes[1];
  std::string_view text = text_of(bytes.subspan(2));
  std::optional<std::string> pair;
  std::string vocabulary =
      "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##a\nab\n##b\n,\nthe\n##s\n\xe6\xbc\xa2\n\xc3\xa9\n";
  if (const auto cut = text.find('\xfe'); cut != std::string_view::npos) {
    std::string_view rest = text.substr(cut + 1);
    text = text.substr(0, cut);
    if (const auto second = rest.find('\xfe'); second != std::string_view::npos) {
      vocabulary = rest.substr(second + 1);
      rest = rest.substr(0, second);
    }
    pair = std::string(rest);
  }
  try {
    const WordPiece tokenizer(vocabulary, config, 1000, "fuzz");
    const Encoding encoding = tokenizer.encode(text, pair, max_length);
    const std::size_t count = encoding.ids.size();
    require(count >= 2 && count <= static_cast<std::size_t>(max_length));
    require(encoding.type_ids.size() == count && encoding.tokens.size() == count &&
            encoding.offsets.size() == count);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t source = encoding.type_ids[i] == 0 ? text.size() : pair->size();
      const auto [begin, end] = encoding.offsets[i];
      require(begin <= end && end <= source);
      require(encoding.ids[i] >= 0 && static_cast<std::size_t>(encoding.ids[i]) < tokenizer.size());
    }
  } catch (const Error&) {
  } catch (const std::invalid_argument&) {  // no room for [CLS] and [SEP]
    require(max_length < 3);
  }
}

// A vocabulary of RWKV's, behind pieces for single bytes, and the file as a text. Then as options.
inline void world(Bytes bytes) {
  const std::string_view text = text_of(bytes);
  try {
    std::vector<WorldPiece> pieces;
    for (int b = 0; b < 256; ++b) pieces.push_back({b + 1, std::string(1, static_cast<char>(b))});
    for (WorldPiece& piece : parse_world_vocabulary(text, "fuzz")) {
      require(piece.id >= 0 && !piece.bytes.empty());
      if (piece.id != 0) piece.id += 256;
      if (piece.id == 0 || piece.bytes.size() > 1) pieces.push_back(std::move(piece));
    }
    const Tokenizer tokenizer = make_world_tokenizer(pieces, {}, "fuzz");
    const TokenizedText encoded = tokenizer.encode(text);
    std::size_t end = 0;
    for (std::size_t i = 0; i < encoded.ids.size(); ++i) {
      require(encoded.ids[i] >= 0 && encoded.ids[i] < tokenizer.size());
      require(encoded.offsets[i].first <= end && encoded.offsets[i].second <= text.size());
      end = encoded.offsets[i].second;
    }
    require(end == text.size() && tokenizer.decode(encoded.ids, false) == text);
  } catch (const Error&) {
  }
  try {
    parse_world_options(text, "fuzz");
  } catch (const Error&) {
  }
}

// A byte-level tokenizer.json with some of every part.
inline std::string tokenizer_json() {
  std::string vocabulary;
  int other = 256;
  for (int b = 0; b < 256; ++b) {
    // GPT-2's letters: bytes that print are themselves, the others follow from U+0100 on.
    const bool prints = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
    const int letter = prints ? b : other++;
    std::string text;
    if (letter < 128) {
      if (letter == '"' || letter == '\\') text += '\\';
      text += static_cast<char>(letter);
    } else {
      text += static_cast<char>(0xC0 | letter >> 6);
      text += static_cast<char>(0x80 | (letter & 63));
    }
    vocabulary += '"' + text + "\":" + std::to_string(b) + ',';
  }
  return "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{" + vocabulary +
         R"("ab":256,"abab":257,"Ġa":258},"merges":["a b","ab ab","Ġ a"]},)"
         R"("added_tokens":[{"id":259,"content":"<s>","special":true,"single_word":false,)"
         R"("lstrip":false,"rstrip":false,"normalized":false}],)"
         R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true},)"
         R"("post_processor":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true},)"
         R"("decoder":{"type":"ByteLevel"}})";
}

// A text, and behind a byte 0xFE a tokenizer.json instead of the built-in one, which keeps all
// bytes.
inline void tokenizer(Bytes bytes) {
  // Long texts take the time that many short ones would have.
  constexpr std::size_t kLongest = 256, kLongestOfPair = 32;
  const std::string_view all = text_of(bytes);
  const std::size_t cut = std::min(all.find('\xfe'), all.size());
  const bool built_in = cut == all.size();
  const std::string_view text = all.substr(0, std::min(cut, kLongest));
  const std::string json(all.substr(built_in ? cut : cut + 1));
  try {
    static const Tokenizer kBuiltIn = Tokenizer::from_json(tokenizer_json(), "fuzz");
    const std::optional<Tokenizer> given =
        built_in ? std::nullopt : std::optional(Tokenizer::from_json(json, "fuzz"));
    const Tokenizer& used = given ? *given : kBuiltIn;
    const std::vector<std::int32_t> ids = encoded(used, text).ids;
    for (const std::int32_t id : ids) used.token_bytes(id);
    const std::string decoded = used.decode(ids, false);
    require(!built_in || decoded == text);
    const std::string_view part = text.substr(0, kLongestOfPair);
    used.encode_pair(part, part, false);
  } catch (const Error&) {
    require(!built_in);
  }
}

// vocab.json, behind a byte 0xFE merges.txt and behind another one tokenizer_config.json, as GPT-2
// and RoBERTa read them.
inline void vocab_files(Bytes bytes) {
  const std::string& folder = scratch_folder();
  std::string_view rest = text_of(bytes);
  for (const char* const name : {"/vocab.json", "/merges.txt", "/tokenizer_config.json"}) {
    const std::size_t end = std::min(rest.find('\xfe'), rest.size());
    if (rest.empty())
      std::filesystem::remove(folder + name);
    else
      write_file(folder + name, std::string(rest.substr(0, end)));
    rest = rest.substr(std::min(end + 1, rest.size()));
  }
  for (const char* const family : {"gpt2", "roberta"}) {
    try {
      const Tokenizer tokenizer = read_byte_level_tokenizer(folder, family);
      const std::string_view text = "ab a\n <mask> e\xcc\x81 12's</s>\xff<|endoftext|>  ba";
      tokenizer.decode(encoded(tokenizer, text).ids, false);
    } catch (const Error&) {
    }
  }
}

}  // namespace attn::fuzz
