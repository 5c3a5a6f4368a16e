// Makes GGUF files for tests, right ones and wrong ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace attn {

template <class T>
std::string raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}
inline std::string u32(std::uint32_t value) { return raw(value); }
inline std::string u64(std::uint64_t value) { return raw(value); }

// A text, its length in front.
inline std::string gguf_text(const std::string& text) { return u64(text.size()) + text; }
// A key and its value; `type` as in GgufType.
inline std::string gguf_pair(const std::string& key, std::uint32_t type, const std::string& value) {
  return gguf_text(key) + u32(type) + value;
}
inline std::string gguf_array(std::uint32_t element, std::uint64_t count,
                              const std::string& elements) {
  return u32(element) + u64(count) + elements;
}
// Dimensions in the file's order, the row's first; `type` as ggml numbers it.
inline std::string gguf_tensor(const std::string& name, const std::vector<std::uint64_t>& sizes,
                               std::uint32_t type, std::uint64_t offset) {
  std::string out = gguf_text(name) + u32(static_cast<std::uint32_t>(sizes.size()));
  for (const std::uint64_t size : sizes) out += u64(size);
  return out + u32(type) + u64(offset);
}

struct GgufFile {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::vector<std::string> pairs = {}, tensors = {};
  std::size_t data = 0;  // bytes behind the padding
  std::size_t alignment = 32;

  std::string bytes() const {
    std::string out = magic + u32(version) + u64(tensors.size()) + u64(pairs.size());
    for (const std::string& pair : pairs) out += pair;
    for (const std::string& tensor : tensors) out += tensor;
    if (data > 0) out.resize((out.size() + alignment - 1) / alignment * alignment + data);
    return out;
  }
};

}  // namespace attn
