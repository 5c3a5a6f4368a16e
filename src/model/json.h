// JSON as read from a model's folder: a small tree, so that the parser's header is compiled once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace attn {

class Json {
 public:
  enum class Kind : std::uint8_t { null, boolean, integer, real, text, array, object };

  // Throws attn::Error "<source>: ..." for text that is not JSON (RFC 8259) in valid UTF-8, for a
  // name that an object has twice, and for more than 64 levels or four million values. Python's
  // bare Infinity becomes the object {"__float__": "Infinity"}.
  static Json parse(std::string_view text, const std::string& source);

  Kind kind = Kind::null;
  bool boolean = false;
  std::int64_t integer = 0;  // integers that fit; others are `real`
  double real = 0;           // numbers of both kinds
  std::string text;
  std::vector<Json> items;         // of an array or object
  std::vector<std::string> names;  // of an object's items, sorted

  bool is(Kind k) const { return kind == k; }
  bool is_number() const { return kind == Kind::integer || kind == Kind::real; }
  // The member of that name; null when there is none or this is no object.
  const Json* find(std::string_view name) const;
  // "an object", "a number"; for messages.
  const char* kind_name() const;
};

}  // namespace attn
