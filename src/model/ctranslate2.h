// CTranslate2's model.bin, binary versions 2 to 6: variables by name, one after another, then names
// that stand for them. Format: OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py
// (_serialize) and src/models/model.cc (Model::load).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tensor_entry.h"

namespace attn {

// Do the bytes begin as such a file does?
bool is_ctranslate2(std::span<const std::byte> file);

// A whole file's bytes, which must outlive the object. Everything is checked: counts against the
// bytes that are left, names (UTF-8, ended by a zero byte, none twice), types, sizes, shapes whose
// product overflows, and that nothing follows. Throws attn::Error "<source>: ...".
class CTranslate2 {
 public:
  CTranslate2(std::span<const std::byte> file, std::string source);

  std::uint32_t version() const { return version_; }
  const std::string& specification() const { return specification_; }  // "TransformerSpec"
  std::uint32_t revision() const { return revision_; }                 // of the specification
  // Sorted by name, further names of a variable included. Types: F32, I8, I16, I32, F16, BF16;
  // before version 4 a file gives sizes only, and 4, 2 and 1 bytes mean F32, I16 and I8.
  const std::vector<TensorEntry>& tensors() const { return tensors_; }

  bool has(std::string_view name) const { return find(name) != nullptr; }
  // A variable of one number, as settings are; nothing when there is none. Throws attn::Error when
  // it is of more numbers or of a 16-bit floating-point type.
  std::optional<double> number(std::string_view name) const;
  // A text, as int8; likewise.
  std::optional<std::string> text(std::string_view name) const;

 private:
  const TensorEntry* find(std::string_view name) const;
  std::span<const std::byte> bytes(const TensorEntry& entry) const {
    return file_.subspan(entry.begin, entry.end - entry.begin);
  }

  std::span<const std::byte> file_;
  std::string source_;
  std::uint32_t version_ = 0, revision_ = 0;
  std::string specification_;
  std::vector<TensorEntry> tensors_;
};

}  // namespace attn
