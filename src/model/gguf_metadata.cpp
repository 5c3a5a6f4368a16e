// Looking up the metadata of a GGUF file. All of it was checked when the file was opened.
#include <algorithm>
#include <cstring>

#include "attn/error.h"
#include "model/gguf.h"
#include "model/unicode.h"

namespace attn {
namespace {

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

// Element `index` of a value of numbers, given to f in its own type.
template <class F>
auto with_number(const GgufValue& value, std::uint64_t index, F&& f) {
  const auto at = [&]<class T>(T) { return f(load<T>(value.bytes.data() + index * sizeof(T))); };
  switch (value.type == GgufType::array ? value.element : value.type) {
    case GgufType::i8: return at(std::int8_t{});
    case GgufType::u16: return at(std::uint16_t{});
    case GgufType::i16: return at(std::int16_t{});
    case GgufType::u32: return at(std::uint32_t{});
    case GgufType::i32: return at(std::int32_t{});
    case GgufType::u64: return at(std::uint64_t{});
    case GgufType::i64: return at(std::int64_t{});
    case GgufType::f32: return at(float{});
    case GgufType::f64: return at(double{});
    default: return at(std::uint8_t{});  // and booleans
  }
}

bool is_boolean(GgufType type) { return type == GgufType::boolean; }
bool is_text(GgufType type) { return type == GgufType::text; }
bool is_real(GgufType type) {
  return type != GgufType::boolean && type != GgufType::text && type != GgufType::array;
}
bool is_integer(GgufType type) {
  return is_real(type) && type != GgufType::f32 && type != GgufType::f64;
}

double real_at(const GgufValue& value, std::uint64_t index) {
  return with_number(value, index, [](auto x) { return static_cast<double>(x); });
}

}  // namespace

const GgufValue* Gguf::find(std::string_view key) const {
  const auto at =
      std::lower_bound(metadata_.begin(), metadata_.end(), key,
                       [](const GgufValue& value, std::string_view k) { return value.key < k; });
  return at != metadata_.end() && at->key == key ? &*at : nullptr;
}

const GgufValue& Gguf::needed(std::string_view key, bool array, bool (*fits)(GgufType),
                              const char* wanted) const {
  const std::string where = source_ + ": key " + std::string(key) + ": ";
  const GgufValue* const value = find(key);
  if (value == nullptr) throw Error(where + "is missing");
  const bool is_array = value->type == GgufType::array;
  if (is_array != array || !fits(is_array ? value->element : value->type)) {
    throw Error(where + "is " + gguf_type_name(*value) + ", must be " +
                (array ? "an array of " : "a ") + wanted);
  }
  return *value;
}

std::int64_t Gguf::integer_at(const GgufValue& value, std::uint64_t index) const {
  if ((value.type == GgufType::array ? value.element : value.type) == GgufType::u64) {
    const auto number = load<std::uint64_t>(value.bytes.data() + index * sizeof(std::uint64_t));
    if (number > static_cast<std::uint64_t>(INT64_MAX)) {
      throw Error(source_ + ": key " + std::string(value.key) + ": holds " +
                  std::to_string(number) + ", must be less than 2^63");
    }
  }
  return with_number(value, index, [](auto x) { return static_cast<std::int64_t>(x); });
}

bool Gguf::boolean(std::string_view key) const {
  return needed(key, false, is_boolean, "boolean").bytes[0] != std::byte{0};
}

std::int64_t Gguf::integer(std::string_view key) const {
  return integer_at(needed(key, false, is_integer, "whole number"), 0);
}

double Gguf::real(std::string_view key) const {
  return real_at(needed(key, false, is_real, "number"), 0);
}

std::string Gguf::text(std::string_view key) const {
  const auto bytes = needed(key, false, is_text, "string").bytes;
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!unicode::is_utf8(text)) {
    throw Error(source_ + ": key " + std::string(key) + ": is not UTF-8");
  }
  return text;
}

std::vector<bool> Gguf::booleans(std::string_view key) const {
  std::vector<bool> list;
  for (const std::byte b : needed(key, true, is_boolean, "booleans").bytes) {
    list.push_back(b != std::byte{0});
  }
  return list;
}

std::vector<std::int64_t> Gguf::integers(std::string_view key) const {
  const GgufValue& value = needed(key, true, is_integer, "whole numbers");
  std::vector<std::int64_t> list(value.count);
  for (std::uint64_t i = 0; i < value.count; ++i) list[i] = integer_at(value, i);
  return list;
}

std::vector<double> Gguf::reals(std::string_view key) const {
  const GgufValue& value = needed(key, true, is_real, "numbers");
  std::vector<double> list(value.count);
  for (std::uint64_t i = 0; i < value.count; ++i) list[i] = real_at(value, i);
  return list;
}

std::vector<std::string_view> Gguf::texts(std::string_view key) const {
  const GgufValue& value = needed(key, true, is_text, "strings");
  std::vector<std::string_view> list;
  list.reserve(value.count);
  const std::byte* at = value.bytes.data();
  for (std::uint64_t i = 0; i < value.count; ++i) {
    const auto length = load<std::uint64_t>(at);
    list.emplace_back(reinterpret_cast<const char*>(at) + 8, length);
    at += 8 + length;
  }
  return list;
}

}  // namespace attn
