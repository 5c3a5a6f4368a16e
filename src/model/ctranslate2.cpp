#include "model/ctranslate2.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "attn/error.h"
#include "model/byte_reader.h"
#include "model/unicode.h"

namespace attn {
namespace {

constexpr std::uint32_t kOldest = 2, kNewest = 6;
constexpr std::size_t kMostDimensions = 8;
// The least bytes of a variable (an empty name, no dimension, its type and size), and of an alias.
constexpr std::size_t kSmallestVariable = 3 + 1 + 1 + 4, kSmallestAlias = 3 + 3;

struct ElementType {
  const char* name;
  std::size_t bytes;
};
// As numbered in files since version 4.
constexpr ElementType kTypes[] = {{"F32", 4}, {"I8", 1},  {"I16", 2},
                                  {"I32", 4}, {"F16", 2}, {"BF16", 2}};

// Reads names and counts, too.
class Reader : public ByteReader {
 public:
  using ByteReader::ByteReader;

  // Its length, the zero byte at its end included, and its bytes.
  std::string name(const std::string& where) {
    const auto bytes = take(number<std::uint16_t>(where), where);
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (text.empty() || text.find('\0') != text.size() - 1)
      fail(where, "a name does not end with its only zero byte");
    if (!unicode::is_utf8(text)) fail(where, "a name is not UTF-8");
    return std::string(text.substr(0, text.size() - 1));
  }
  std::uint32_t count(std::size_t smallest, const std::string& where) {
    const auto value = number<std::uint32_t>(where);
    if (value > left() / smallest) {
      fail(where, "truncated: " + std::to_string(value) + " of them, " + std::to_string(left()) +
                      " bytes are left");
    }
    return value;
  }
};

ElementType element_type(Reader& in, std::uint32_t version, const std::string& where) {
  const auto number = in.number<std::uint8_t>(where);
  if (version >= 4) {
    if (number >= std::size(kTypes))
      in.fail(where, "has the unknown type " + std::to_string(number));
    return kTypes[number];
  }
  if (number == 4) return kTypes[0];
  if (number == 2) return kTypes[2];
  if (number == 1) return kTypes[1];
  in.fail(where, "has elements of " + std::to_string(number) + " bytes, must be 1, 2 or 4");
}

TensorEntry read_variable(Reader& in, std::uint32_t version, const std::string& which) {
  TensorEntry entry;
  entry.name = in.name(which);
  const std::string where = "tensor " + entry.name + ": ";
  const std::size_t dimensions = in.number<std::uint8_t>(where);
  if (dimensions > kMostDimensions) {
    in.fail(where, "has " + std::to_string(dimensions) + " dimensions, at most " +
                       std::to_string(kMostDimensions) + " are known");
  }
  std::uint64_t elements = 1;
  for (std::size_t i = 0; i < dimensions; ++i) {
    const auto size = in.number<std::uint32_t>(where);
    // No file has so many bytes; so products stay inside 64 bits.
    if (size > 0 && elements > (std::uint64_t{1} << 40) / size)
      in.fail(where, "has more elements than a file can hold");
    elements *= size;
    entry.shape.push_back(size);
  }
  const ElementType type = element_type(in, version, where);
  entry.dtype = type.name;
  // Bytes since version 4, elements before.
  const std::uint64_t given =
      in.number<std::uint32_t>(where) * std::uint64_t{version >= 4 ? 1 : type.bytes};
  if (given != elements * type.bytes) {
    in.fail(where, "has " + std::to_string(given) + " bytes, its shape " + to_string(entry.shape) +
                       " of " + type.name + " takes " + std::to_string(elements * type.bytes));
  }
  in.take(given, where);
  entry.end = in.at();
  entry.begin = entry.end - given;
  return entry;
}

bool by_name(const TensorEntry& a, const TensorEntry& b) { return a.name < b.name; }

}  // namespace

bool is_ctranslate2(std::span<const std::byte> file) {
  std::uint32_t version = 0;
  if (file.size() < sizeof version) return false;
  std::memcpy(&version, file.data(), sizeof version);
  return version >= 1 && version <= 255;  // the bytes of no other format that we read
}

CTranslate2::CTranslate2(std::span<const std::byte> file, std::string source)
    : file_(file), source_(std::move(source)) {
  Reader in(file_, source_);
  version_ = in.number<std::uint32_t>("binary version: ");
  if (version_ < kOldest || version_ > kNewest) {
    in.fail("", "has binary version " + std::to_string(version_) + ", must be " +
                    std::to_string(kOldest) + " to " + std::to_string(kNewest));
  }
  specification_ = in.name("specification: ");
  revision_ = in.number<std::uint32_t>("revision: ");
  const std::uint32_t variables = in.count(kSmallestVariable, "variables: ");
  for (std::uint32_t i = 0; i < variables; ++i)
    tensors_.push_back(read_variable(in, version_, "variable " + std::to_string(i) + ": "));
  std::sort(tensors_.begin(), tensors_.end(), by_name);
  if (version_ >= 3) {
    const std::uint32_t aliases = in.count(kSmallestAlias, "aliases: ");
    std::vector<TensorEntry> further;
    for (std::uint32_t i = 0; i < aliases; ++i) {
      const std::string where = "alias " + std::to_string(i) + ": ";
      std::string alias = in.name(where);
      const std::string name = in.name(where);
      const TensorEntry* const entry = find(name);
      if (entry == nullptr) in.fail(where, alias + " stands for " + name + ", which is missing");
      further.push_back(*entry);
      further.back().name = std::move(alias);
    }
    tensors_.insert(tensors_.end(), further.begin(), further.end());
    std::sort(tensors_.begin(), tensors_.end(), by_name);
  }
  const auto twice =
      std::adjacent_find(tensors_.begin(), tensors_.end(),
                         [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice != tensors_.end()) in.fail("tensor " + twice->name + ": ", "is there twice");
  if (in.left() > 0) in.fail("", std::to_string(in.left()) + " bytes follow the last entry");
}

const TensorEntry* CTranslate2::find(std::string_view name) const {
  const auto at =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const TensorEntry& entry, std::string_view n) { return entry.name < n; });
  return at != tensors_.end() && at->name == name ? &*at : nullptr;
}

std::optional<double> CTranslate2::number(std::string_view name) const {
  const TensorEntry* const entry = find(name);
  if (entry == nullptr) return std::nullopt;
  const auto as = [&]<class T>(T value) {
    std::memcpy(&value, bytes(*entry).data(), sizeof value);
    return static_cast<double>(value);
  };
  const bool one = std::all_of(entry->shape.begin(), entry->shape.end(),
                               [](std::int64_t size) { return size == 1; });
  if (one && entry->dtype == "F32") return as(float{});
  if (one && entry->dtype == "I8") return as(std::int8_t{});
  if (one && entry->dtype == "I16") return as(std::int16_t{});
  if (one && entry->dtype == "I32") return as(std::int32_t{});
  throw Error(source_ + ": tensor " + entry->name + ": is " + entry->dtype + " " +
              to_string(entry->shape) + ", must be one number");
}

std::optional<std::string> CTranslate2::text(std::string_view name) const {
  const TensorEntry* const entry = find(name);
  if (entry == nullptr) return std::nullopt;
  const auto data = bytes(*entry);
  std::string text(reinterpret_cast<const char*>(data.data()), data.size());
  if (entry->dtype != "I8" || !unicode::is_utf8(text))
    throw Error(source_ + ": tensor " + entry->name + ": must be a text");
  return text;
}

}  // namespace attn
