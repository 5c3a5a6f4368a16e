// Weights in safetensors files: eight bytes of header length (little-endian), a JSON header, then
// the tensors' bytes. Format: huggingface/safetensors, README.md. Large models are several such
// files (shards) and an index.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tensor_entry.h"

namespace attn {

// The header of a whole file's bytes, entries sorted by name. Everything is checked: the header's
// length and JSON, names, types, shapes whose product overflows, sizes, and that the tensors fill
// the rest of the file without overlap or gap. Throws attn::Error "<source>: tensor ...: reason".
std::vector<TensorEntry> parse_safetensors(std::span<const std::byte> file,
                                           const std::string& source);

// A tensor and the shard that holds it.
struct ShardedTensor {
  std::string name;
  std::string shard;  // a plain file name ending in ".safetensors"
};

// model.safetensors.index.json, the shards of a model by tensor, sorted by tensor. A shard that is
// not a file name of the same folder, or more than 4,096 shards, are errors. Throws attn::Error
// "<source>: tensor ...: reason".
std::vector<ShardedTensor> parse_safetensors_index(std::string_view json,
                                                   const std::string& source);

}  // namespace attn
