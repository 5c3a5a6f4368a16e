// Files of weights and of settings (check.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attn/error.h"
#include "check.h"
#include "model/ctranslate2.h"
#include "model/families.h"
#include "model/file.h"
#include "model/gguf.h"
#include "model/gguf_tokenizer.h"
#include "model/llama2c.h"
#include "model/recurrent_model.h"
#include "model/safetensors.h"
#include "model/tokenizer_config.h"
#include "model/translators.h"
#include "model/weight_type.h"
#include "model/word_tokens.h"

namespace attn::fuzz {

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
  const std::string path = scratch_folder() + "/model" + extension;
  write_file(path, std::string(text_of(bytes)));
  return Weights(path);
}

// A GGUF file as a model: its tokenizer cuts a text, and what its tensors say is a transformer.
inline void gguf_model(const Gguf& file, Bytes bytes) {
  try {
    gguf_end_tokens(file);
    const Tokenizer tokenizer = read_gguf_tokenizer(file);
    const std::string_view text = "ab \xef\xbc\xa1 e\xcc\x81 12's </s>\xff<0x41> ba";
    tokenizer.decode(encoded(tokenizer, text).ids, false);
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

// A config.json whose weights are absent, so that no model of it can be loaded: of one transformer,
// of an encoder-decoder or of a model with a state. And a generation_config.json, and a
// tokenizer_config.json.
inline void config(Bytes bytes) {
  static Weights none = [] {
    const std::string path = scratch_folder() + "/none.safetensors";
    write_file(path, std::string("\2\0\0\0\0\0\0\0{}", 10));
    return Weights(path);
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

}  // namespace attn::fuzz
