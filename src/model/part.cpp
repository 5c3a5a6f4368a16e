#include "model/part.h"

#include "attn/error.h"
#include "model/unicode.h"

namespace attn {

std::string part_type(const Json& part, const std::string& place) {
  return Fields(part, place).needed_text("type");
}

void finish_part(const Fields& fields) { fields.refuse_others({}, {"type", "_comment"}); }

char32_t needed_character(const Fields& fields, std::string_view name) {
  const auto characters = unicode::decode(fields.needed_text(name));
  if (characters.size() != 1) fields.fail(name, "must be one character");
  return characters.front().value;
}

void check_growth(std::size_t before, std::size_t after, const std::string& place) {
  constexpr std::size_t kMost = std::size_t{1} << 24;
  if (after > before && after > kMost) {
    throw Error(place + ": makes more than " + std::to_string(kMost) + " characters of a text");
  }
}

Pattern make_pattern(const Fields& fields) {
  const auto expression = fields.text("Regex");
  const auto literal = fields.text("String");
  finish_part(fields);
  if (expression.has_value() == literal.has_value())
    fields.fail("must have either Regex or String");
  return expression ? Pattern(*expression, fields.source())
                    : Pattern::literal(*literal, fields.source());
}

}  // namespace attn
