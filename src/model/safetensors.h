// Weights in safetensors files: eight bytes of header length (little-endian), a JSON header, then
// the tensors' bytes. Format: huggingface/safetensors, README.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/file.h"
#include "model/tensor_entry.h"

namespace attn {

// The header of a whole file's bytes, entries sorted by name. Everything is checked: the header's
// length and JSON, names, types, shapes whose product overflows, sizes, and that the tensors fill
// the rest of the file without overlap or gap. Throws attn::Error "<source>: tensor ...: reason".
std::vector<TensorEntry> parse_safetensors(std::span<const std::byte> file,
                                           const std::string& source);

// A mapped, checked file.
class Safetensors {
 public:
  explicit Safetensors(const std::string& path);

  const std::vector<TensorEntry>& entries() const { return entries_; }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  // The numbers of a float32 tensor of that shape, in the mapped file (or copied, when they are not
  // aligned there). Valid as long as this object. Throws attn::Error when the tensor is missing, of
  // another type or of another shape.
  const float* floats(std::string_view name, const std::vector<std::int64_t>& shape);
  // Elements of all floating-point tensors.
  std::int64_t parameters() const;

 private:
  const TensorEntry* find(std::string_view name) const;

  MappedFile file_;
  std::vector<TensorEntry> entries_;
  std::vector<std::unique_ptr<float[]>> copies_;
};

}  // namespace attn
