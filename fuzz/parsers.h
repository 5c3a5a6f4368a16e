// What the fuzzers feed: each function takes any bytes, lets the parser accept or refuse them with
// attn::Error, and aborts when what it accepted cannot be. The tests run the corpora through them.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "attn/error.h"
#include "model/ctranslate2.h"
#include "model/families.h"
#include "model/file.h"
#include "model/gguf.h"
#include "model/gguf_tokenizer.h"
#include "model/llama2c.h"
#include "model/recurrent_model.h"
#include "model/safetensors.h"
#include "model/sentencepiece.h"
#include "model/tokenizer.h"
#include "model/tokenizer_config.h"
#include "model/translators.h"
#include "model/weight_type.h"
#include "model/word_tokens.h"
#include "model/wordpiece.h"
#include "model/world_tokenizer.h"

namespace attn::fuzz {

using Bytes = std::span<const std::uint8_t>;

inline void require(bool holds) {
  if (!holds) std::abort();
}

inline std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline void safetensors(Bytes bytes) {
  try {
    std::size_t covered = 0;
    for (const TensorEntry& entry : parse_safetensors(std::as_bytes(bytes), "fuzz")) {
      require(entry.begin >= 8 && entry.begin <= entry.end && entry.end <= bytes.size());
      for (const std::int64_t size : entry.shape) require(size >= 0);
      covered += entry.end - entry.begin;
    }
    require(covered <= bytes.size() - 8);
  } catch (const Error&) {
  }
}

inline void safetensors_index(Bytes bytes) {
  try {
    const std::string* before = nullptr;
    const auto tensors = parse_safetensors_index(text_of(bytes), "fuzz");
    for (const ShardedTensor& tensor : tensors) {
      require(before == nullptr || *before < tensor.name);
      require(tensor.shard.find('/') == std::string::npos && tensor.shard.ends_with("safetensors"));
      before = &tensor.name;
    }
  } catch (const Error&) {
  }
}

// As a model, whose weights all lie in the file, and as a vocabulary.
inline void llama2c(Bytes bytes) {
  try {
    const Llama2c model = parse_llama2c(std::as_bytes(bytes), "fuzz");
    const auto* const begin = reinterpret_cast<const float*>(bytes.data());
    const auto* const end = reinterpret_cast<const float*>(bytes.data() + bytes.size());
    require(static_cast<std::int64_t>(model.weights.layers.size()) == model.config.layers);
    for (const TransformerWeights::Layer& layer : model.weights.layers) {
      const float* const down =
          layer.down.weight + model.config.width * model.config.feed_forward_width;
      require(begin < layer.attention_norm.weight && down <= end);
    }
  } catch (const Error&) {
  }
  try {
    const std::int64_t count = bytes.empty() ? 0 : bytes[0];
    const auto pieces = parse_llama2c_vocabulary(std::as_bytes(bytes), count, "fuzz");
    require(static_cast<std::int64_t>(pieces.size()) == count);
  } catch (const Error&) {
  }
}

// The weights of a file with these bytes, for what reads them from a file alone.
inline Weights weights_of(Bytes bytes, const std::string& extension) {
  static const std::string stem =
      (std::filesystem::temp_directory_path() / ("attn-fuzz-" + std::to_string(getpid()))).string();
  const std::string path = stem + extension;
  write_file(path, std::string(text_of(bytes)));
  return Weights(path);
}

// A GGUF file as a model: its tokenizer cuts a text, and what its tensors say is a transformer.
inline void gguf_model(const Gguf& file, Bytes bytes) {
  try {
    gguf_end_tokens(file);
    const Tokenizer tokenizer = read_gguf_tokenizer(file);
    const std::string_view text = "ab \xef\xbc\xa1 e\xcc\x81 12's </s>\xff<0x41> ba";
    const TokenizedText encoded = tokenizer.encode(text);
    for (std::size_t i = 0; i < encoded.ids.size(); ++i) {
      require(encoded.ids[i] >= 0 && encoded.ids[i] < tokenizer.size());
      require(encoded.offsets[i].first <= encoded.offsets[i].second &&
              encoded.offsets[i].second <= text.size());
    }
    tokenizer.decode(encoded.ids, false);
  } catch (const Error&) {
  }
  try {
    Weights weights = weights_of(bytes, ".gguf");
    DescribedModel model = load_gguf(weights);
    require(static_cast<std::int64_t>(model.weights.layers.size()) == model.config.layers);
    const Transformer made(model.config, std::move(model.weights));
    require(made.config().vocabulary > 0);
  } catch (const Error&) {
  }
}

// Every value is asked for in every type, every tensor's numbers are read; then as a model.
inline void gguf(Bytes bytes) {
  try {
    const Gguf file(std::as_bytes(bytes), "fuzz");
    gguf_model(file, bytes);
    for (const GgufValue& value : file.metadata()) {
      int answers = 0;
      const auto ask = [&](auto&& question) {
        try {
          question();
          ++answers;
        } catch (const Error&) {
        }
      };
      ask([&] { (void)file.boolean(value.key); });
      ask([&] { (void)file.integer(value.key); });
      ask([&] { (void)file.real(value.key); });
      ask([&] { (void)file.text(value.key); });
      ask([&] { require(file.booleans(value.key).size() == value.count); });
      ask([&] { require(file.integers(value.key).size() == value.count); });
      ask([&] { require(file.reals(value.key).size() == value.count); });
      ask([&] { require(file.texts(value.key).size() == value.count); });
      require(file.has(value.key) && answers <= 2);
    }
    std::size_t covered = 0;
    for (const TensorEntry& entry : file.tensors()) {
      require(entry.begin <= entry.end && entry.end <= bytes.size());
      covered += entry.end - entry.begin;
      if (entry.begin == entry.end) continue;
      const WeightType type = weight_type(entry.dtype).value();
      const std::int64_t width = entry.shape.empty() ? 1 : entry.shape.back();
      std::int64_t elements = 1;
      for (const std::int64_t size : entry.shape) elements *= size;
      require(weight_bytes(type, static_cast<std::uint64_t>(elements)) == entry.end - entry.begin);
      std::vector<float> numbers(static_cast<std::size_t>(elements));
      rows_to_floats(type, std::as_bytes(bytes).subspan(entry.begin, entry.end - entry.begin),
                     width, 0, elements / width, numbers);
    }
    require(covered <= bytes.size());
  } catch (const Error&) {
  }
}

// What a CTranslate2 file's variables say is two transformers.
inline void ctranslate2_model(Bytes bytes) {
  try {
    Weights weights = weights_of(bytes, ".bin");
    DescribedTranslator model = load_ctranslate2(weights, "", "fuzz").model;
    for (DescribedModel* const side : {&model.encoder, &model.decoder}) {
      require(static_cast<std::int64_t>(side->weights.layers.size()) == side->config.layers);
      const Transformer made(side->config, std::move(side->weights));
      require(made.config().vocabulary > 0);
    }
  } catch (const Error&) {
  }
}

// Every variable lies in the file, has the size of its shape, and is asked for as a setting; then
// as a model, and as a list of tokens.
inline void ctranslate2(Bytes bytes) {
  for (const char* const source : {"fuzz.txt", "fuzz.json"}) {
    try {
      for (const std::string& token : parse_token_list(text_of(bytes), source))
        require(token.size() <= bytes.size() * 3);
    } catch (const Error&) {
    }
  }
  try {
    const CTranslate2 file(std::as_bytes(bytes), "fuzz");
    ctranslate2_model(bytes);
    const std::string* before = nullptr;
    for (const TensorEntry& entry : file.tensors()) {
      require(before == nullptr || *before < entry.name);
      require(entry.begin <= entry.end && entry.end <= bytes.size() && file.has(entry.name));
      std::uint64_t elements = 1;
      for (const std::int64_t size : entry.shape) elements *= static_cast<std::uint64_t>(size);
      const std::uint64_t each = entry.dtype == "I8"                            ? 1
                                 : entry.dtype == "F32" || entry.dtype == "I32" ? 4
                                                                                : 2;
      require(elements * each == entry.end - entry.begin);
      for (const bool text : {false, true}) {
        try {
          text ? (void)file.text(entry.name) : (void)file.number(entry.name);
        } catch (const Error&) {
        }
      }
      before = &entry.name;
    }
  } catch (const Error&) {
  }
}

// A model, and what it makes of a text that it may know.
inline void sentencepiece(Bytes bytes) {
  try {
    require(!parse_sentencepiece(text_of(bytes), "fuzz").empty());
    const Tokenizer tokenizer = make_sentencepiece_tokenizer(text_of(bytes), {}, "fuzz");
    const std::string_view text = "ab \xef\xbc\xa1 e\xcc\x81 </s>\xff<0x41> ba";
    const TokenizedText encoded = tokenizer.encode(text);
    require(encoded.offsets.size() == encoded.ids.size());
    for (std::size_t i = 0; i < encoded.ids.size(); ++i) {
      require(encoded.ids[i] >= 0 && encoded.ids[i] < tokenizer.size());
      require(encoded.offsets[i].first <= encoded.offsets[i].second &&
              encoded.offsets[i].second <= text.size());
    }
    tokenizer.decode(encoded.ids, false);
  } catch (const Error&) {
  }
}

// A config.json whose weights are absent, so that no model of it can be loaded: of one transformer,
// of an encoder-decoder or of a model with a state. And a generation_config.json, and a
// tokenizer_config.json.
inline void config(Bytes bytes) {
  static Weights none = [] {
    const auto path = std::filesystem::temp_directory_path() / "attn-no-weights.safetensors";
    write_file(path.string(), std::string("\2\0\0\0\0\0\0\0{}", 10));
    return Weights(path.string());
  }();
  const std::string text(text_of(bytes));
  const auto refused = [](const auto& load) {
    try {
      load();
      return false;
    } catch (const Error&) {
      return true;
    }
  };
  require(refused([&] { load_described(text, "fuzz", none); }));
  require(refused([&] { load_translator(text, "fuzz", {}, none); }));
  require(refused([&] { load_recurrent(text, "fuzz", none); }));
  constexpr std::int64_t kPositions = 100, kVocabulary = 50;
  try {
    const Json tree = Json::parse(text, "fuzz");
    const SearchSettings search = read_search(Fields(tree, "fuzz"), kPositions, kVocabulary);
    require(search.beams >= 1 && search.max_tokens >= 1 && search.max_tokens <= kPositions);
    for (const std::int32_t id : search.ends) require(id >= 0 && id < kVocabulary);
  } catch (const Error&) {
  }
  try {
    const TokenizerConfig tokenizer = parse_tokenizer_config(text_of(bytes), "fuzz");
    for (const auto& added : tokenizer.added) require(!added.first.empty() && added.second >= 0);
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
  std::string_view text = text_of(bytes);
  std::string json;
  const auto cut = text.find('\xfe');
  if (cut != std::string_view::npos) {
    json = text.substr(cut + 1);
    text = text.substr(0, std::min<std::size_t>(cut, 512));
  }
  const bool built_in = cut == std::string_view::npos;
  try {
    static const Tokenizer kBuiltIn = Tokenizer::from_json(tokenizer_json(), "fuzz");
    const std::optional<Tokenizer> given =
        built_in ? std::nullopt : std::optional(Tokenizer::from_json(json, "fuzz"));
    const Tokenizer& used = given ? *given : kBuiltIn;
    const TokenizedText encoded = used.encode(text);
    const std::size_t count = encoded.ids.size();
    require(encoded.offsets.size() == count && encoded.type_ids.size() == count &&
            encoded.special.size() == count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto [begin, end] = encoded.offsets[i];
      require(begin <= end && end <= text.size());
      require(encoded.ids[i] >= 0 && encoded.ids[i] < used.size());
      used.token_bytes(encoded.ids[i]);
    }
    const std::string decoded = used.decode(encoded.ids, false);
    require(!built_in || decoded == text);
    used.encode_pair(text, text, false);
  } catch (const Error&) {
    require(!built_in);
  }
}

}  // namespace attn::fuzz
