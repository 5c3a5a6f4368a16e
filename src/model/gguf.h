// GGUF files, versions 2 and 3, little-endian: metadata by key, tensors, then the tensors' bytes.
// Format: ggml-org/ggml, docs/gguf.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tensor_entry.h"

namespace attn {

// The types of metadata, as numbered in the file.
enum class GgufType : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  text = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

// One value, checked, still in the file: a number or boolean as it lies there, a text's bytes, or
// an array's elements one after another (texts and arrays with their lengths before them).
struct GgufValue {
  std::string_view key;
  GgufType type = GgufType::u8;
  GgufType element = GgufType::u8;  // of an array
  std::uint64_t count = 1;          // elements of an array
  std::span<const std::byte> bytes;
};

// "uint32", "array of string"; for messages.
std::string gguf_type_name(const GgufValue& value);

// A whole file's bytes, which must outlive the object. Everything is checked: the header, counts
// against the bytes that are left, keys and names (UTF-8, none twice), types, lengths, nesting,
// shapes whose product overflows or whose rows are not whole blocks, and that tensors are aligned,
// in the file and apart. Throws attn::Error "<source>: tensor ...: reason", "<source>: key ...".
class Gguf {
 public:
  Gguf(std::span<const std::byte> file, std::string source);

  const std::string& source() const { return source_; }
  std::uint32_t version() const { return version_; }
  // Sorted by name. Shapes are row-major, the file's dimensions reversed.
  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  // Sorted by key.
  const std::vector<GgufValue>& metadata() const { return metadata_; }

  bool has(std::string_view key) const { return find(key) != nullptr; }
  // The value of a key. Each throws attn::Error naming the key when it is missing, of another type
  // (any width of integer is an integer, any number is a real) or an integer of 2^63 or more. A
  // text must be UTF-8; the texts of an array may be any bytes and lie in the file.
  bool boolean(std::string_view key) const;
  std::int64_t integer(std::string_view key) const;
  double real(std::string_view key) const;
  std::string text(std::string_view key) const;
  std::vector<bool> booleans(std::string_view key) const;
  std::vector<std::int64_t> integers(std::string_view key) const;
  std::vector<double> reals(std::string_view key) const;
  std::vector<std::string_view> texts(std::string_view key) const;

 private:
  const GgufValue* find(std::string_view key) const;
  // A value, or an array of values, of a type that `fits`.
  const GgufValue& needed(std::string_view key, bool array, bool (*fits)(GgufType),
                          const char* wanted) const;
  std::int64_t integer_at(const GgufValue& value, std::uint64_t index) const;

  std::string source_;
  std::uint32_t version_ = 0;
  std::vector<GgufValue> metadata_;
  std::vector<TensorEntry> tensors_;
};

}  // namespace attn
