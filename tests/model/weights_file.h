// Makes safetensors files and their index for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/half.h"

namespace attn {

struct TestTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

// Numbers as the bytes of F32, F16 or BF16.
inline std::string stored_as(const std::string& dtype, const std::vector<float>& numbers) {
  std::string bytes;
  for (const float x : numbers) {
    if (dtype == "F32") {
      bytes.append(reinterpret_cast<const char*>(&x), sizeof(x));
    } else {
      const std::uint16_t bits = dtype == "F16" ? float16_bits(x) : bfloat16_bits(x);
      bytes.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
    }
  }
  return bytes;
}

// `padding` is what stands behind the header; it moves the numbers.
inline std::string safetensors_of(const std::vector<TestTensor>& tensors,
                                  const std::string& padding = "") {
  std::string header = "{", data;
  for (const TestTensor& tensor : tensors) {
    std::string shape;
    for (const std::int64_t size : tensor.shape) {
      shape += (shape.empty() ? "" : ",") + std::to_string(size);
    }
    header += (header.size() == 1 ? "\"" : ",\"") + tensor.name + R"(":{"dtype":")" + tensor.dtype +
              R"(","shape":[)" + shape + R"(],"data_offsets":[)" + std::to_string(data.size());
    data += tensor.bytes;
    header += "," + std::to_string(data.size()) + "]}";
  }
  header += "}" + padding;
  const std::uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file + header + data;
}

// model.safetensors.index.json of these pairs of tensor and shard.
inline std::string index_of(const std::map<std::string, std::string>& shards) {
  std::string map;
  for (const auto& [tensor, shard] : shards) {
    map += (map.empty() ? "\"" : ",\"") + tensor + "\":\"" + shard + "\"";
  }
  return R"({"metadata":{"total_size":1},"weight_map":{)" + map + "}}";
}

}  // namespace attn
