// Weights by the formula of tools/golden_families.py, as a safetensors file.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace attn {

using TensorShapes = std::map<std::string, std::vector<std::int64_t>>;

// Numbers in [-1, 1) from splitmix64 of a seed plus the index.
inline double uniform(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ z >> 27) * 0x94D049BB133111EBULL;
  z ^= z >> 31;
  return static_cast<double>(z >> 40) / (1 << 23) - 1;
}

// FNV-1a.
inline std::uint64_t hash(const std::string& name) {
  std::uint64_t h = 0xCBF29CE484222325ULL;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  return h;
}

// The numbers of a tensor, float32: norms around 1, biases small, matrices that keep the size of
// what they multiply, RWKV-5's decays slow.
inline std::string made_numbers(const std::string& name, const std::vector<std::int64_t>& shape) {
  std::size_t count = 1;
  for (const std::int64_t n : shape) count *= static_cast<std::size_t>(n);
  const bool vector = shape.size() == 1, bias = name.ends_with("bias"),
             decay = shape.size() == 2 && name.ends_with("time_decay");
  const std::uint64_t seed = hash(name);
  std::string data(count * sizeof(float), '\0');
  for (std::size_t i = 0; i < count; ++i) {
    const double u = uniform(seed, i);
    const auto x = static_cast<float>(decay    ? u * 1.7 - 3
                                      : vector ? u * 0.25 + (bias ? 0 : 1)
                                               : u * 1.7 / std::sqrt(60.0));
    std::memcpy(data.data() + i * sizeof x, &x, sizeof x);
  }
  return data;
}

inline std::string made_weights(const TensorShapes& tensors) {
  std::string header = "{", data;
  for (const auto& tensor : tensors) {
    const std::string& name = tensor.first;
    std::string shape;
    for (const std::int64_t n : tensor.second)
      shape += (shape.empty() ? "" : ",") + std::to_string(n);
    const std::size_t begin = data.size();
    data += made_numbers(name, tensor.second);
    header += (header.size() == 1 ? "\"" : ",\"") + name + "\":{\"dtype\":\"F32\",\"shape\":[" +
              shape + "],\"data_offsets\":[" + std::to_string(begin) + "," +
              std::to_string(data.size()) + "]}";
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

}  // namespace attn
