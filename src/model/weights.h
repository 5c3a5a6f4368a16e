// A model's weights by name, whatever files they lie in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/ctranslate2.h"
#include "model/file.h"
#include "model/gguf.h"
#include "model/tensor_entry.h"
#include "model/weight_type.h"

namespace attn {

// A tensor as it lies in its file: whole rows for rows_to_floats.
struct StoredTensor {
  WeightType type = WeightType::f32;
  std::span<const std::byte> bytes;
};

class Weights {
 public:
  // A file in safetensors, GGUF or CTranslate2's format, or a folder with model.safetensors, with
  // the shards that model.safetensors.index.json names, with one .gguf file, or with CTranslate2's
  // model.bin. Files are mapped, not read. Throws
  // attn::Error as the parsers do; for PyTorch's pickle files it says why they are refused and how
  // to convert them.
  explicit Weights(const std::string& path);

  // Sorted by name; `begin` and `end` are bytes of the shard that holds the tensor.
  const std::vector<TensorEntry>& entries() const { return entries_; }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  // A tensor of that shape, in the mapped file. Throws attn::Error when it is missing, of a type
  // that is no WeightType or of another shape.
  StoredTensor stored(std::string_view name, const std::vector<std::int64_t>& shape) const;
  // Its numbers as float32: in the mapped file where that holds float32, aligned; converted once
  // and kept otherwise. Valid as long as this object.
  const float* floats(std::string_view name, const std::vector<std::int64_t>& shape);
  // Elements of all floating-point tensors.
  std::int64_t parameters() const;
  // The file's metadata; null when it is not GGUF.
  const Gguf* gguf() const { return gguf_ ? &*gguf_ : nullptr; }
  // Likewise, of a CTranslate2 file.
  const CTranslate2* ctranslate2() const { return ctranslate2_ ? &*ctranslate2_ : nullptr; }

 private:
  void open_file(const std::string& path);
  void open_shards(const std::string& folder, const std::string& index);
  const MappedFile& map(const std::string& path);
  void add(TensorEntry entry, const MappedFile& file);
  const TensorEntry* find(std::string_view name) const;

  std::string source_;  // the file, or the index of the shards
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::vector<TensorEntry> entries_;
  // By entry: the file that holds it, and its numbers where they had to be converted.
  std::vector<const MappedFile*> places_;
  std::vector<std::unique_ptr<float[]>> copies_;
  std::optional<Gguf> gguf_;
  std::optional<CTranslate2> ctranslate2_;
};

}  // namespace attn
