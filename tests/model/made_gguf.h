// GGUF files of the cases in tests/data/gguf_models.json, with weights by formula.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "gguf_file.h"
#include "golden_models.h"

namespace attn {

// A key with a value of JSON: uint32, float32, boolean or string.
inline std::string gguf_pair(const std::string& key, const Json& value) {
  switch (value.kind) {
    case Json::Kind::boolean: return gguf_pair(key, 7, std::string(1, value.boolean ? '\1' : '\0'));
    case Json::Kind::real: return gguf_pair(key, 6, raw(static_cast<float>(value.real)));
    case Json::Kind::text: return gguf_pair(key, 8, gguf_text(value.text));
    default: return gguf_pair(key, 4, u32(static_cast<std::uint32_t>(value.integer)));
  }
}

// What a test changes: keys with other values (an empty one leaves the key out) or that are new,
// and tensors that are left out or new, of one number.
struct GgufChange {
  std::vector<std::pair<std::string, std::string>> keys = {};  // the value as gguf_pair() writes it
  std::vector<std::string> without = {}, with = {};
};

inline std::string made_gguf(const Json& given, const GgufChange& change = {}) {
  std::string texts;
  for (int i = 0; i < 101; ++i) texts += gguf_text("t" + std::to_string(i));
  std::vector<std::pair<std::string, std::string>> pairs = {
      {"general.architecture",
       gguf_pair("general.architecture", 8, gguf_text(given.find("architecture")->text))},
      {"tokenizer.ggml.tokens", gguf_pair("tokenizer.ggml.tokens", 9, gguf_array(8, 101, texts))}};
  const Json& metadata = *given.find("metadata");
  for (std::size_t i = 0; i < metadata.names.size(); ++i)
    pairs.emplace_back(metadata.names[i], gguf_pair(metadata.names[i], metadata.items[i]));
  for (const auto& [key, value] : change.keys) {
    std::size_t at = 0;
    while (at < pairs.size() && pairs[at].first != key) ++at;
    if (at == pairs.size()) pairs.emplace_back(key, "");
    pairs[at].second = value;
  }
  GgufFile file;
  for (const auto& [key, value] : pairs) {
    if (!value.empty()) file.pairs.push_back(value);
  }

  std::string data;
  const auto add = [&](const std::string& name, const std::vector<std::int64_t>& shape,
                       const std::string& numbers) {
    const std::vector<std::uint64_t> sizes(shape.rbegin(), shape.rend());
    file.tensors.push_back(gguf_tensor(name, sizes, 0, data.size()));
    data += numbers;
    data.resize((data.size() + 31) / 32 * 32);
  };
  for (const auto& [name, shape] : shapes_of(*given.find("tensors"))) {
    if (std::find(change.without.begin(), change.without.end(), name) != change.without.end())
      continue;
    std::string numbers;
    if (const Json* const list = given.find("given")->find(name)) {
      for (const Json& x : list->items) numbers += raw(static_cast<float>(x.real));
    } else {
      numbers = made_numbers(name, shape);
    }
    add(name, shape, numbers);
  }
  for (const std::string& name : change.with) add(name, {1}, raw(1.0F));
  file.data = data.size();
  std::string bytes = file.bytes();
  bytes.replace(bytes.size() - data.size(), data.size(), data);
  return bytes;
}

}  // namespace attn
