#include "model/settings.h"

#include <algorithm>
#include <utility>

#include "attn/error.h"
#include "model/unicode.h"

namespace attn {

Settings::Settings(const Json& object, std::string place)
    : object_(object), place_(std::move(place)), asked_(object.names.size()) {
  if (!object.is(Json::Kind::object)) {
    throw Error(place_ + " is " + object.kind_name() + ", must be an object");
  }
}

void Settings::fail(const std::string& what) const { throw Error(place_ + ": " + what); }

void Settings::fail(const std::string& name, const std::string& what) const {
  fail(name + " " + what);
}

const Json* Settings::find(std::string_view name) {
  const Json* const value = object_.find(name);
  if (value == nullptr) return nullptr;
  asked_[static_cast<std::size_t>(value - object_.items.data())] = true;
  return value->is(Json::Kind::null) ? nullptr : value;
}

const Json& Settings::needed(std::string_view name) {
  const Json* const value = find(name);
  if (value == nullptr) fail(std::string(name), "is missing");
  return *value;
}

std::optional<std::string> Settings::optional_text(std::string_view name) {
  const Json* const value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is(Json::Kind::text)) {
    fail(std::string(name), std::string("is ") + value->kind_name() + ", must be a string");
  }
  return value->text;
}

std::string Settings::text(std::string_view name) {
  needed(name);
  return *optional_text(name);
}

bool Settings::flag(std::string_view name) {
  const Json& value = needed(name);
  if (!value.is(Json::Kind::boolean)) {
    fail(std::string(name), std::string("is ") + value.kind_name() + ", must be true or false");
  }
  return value.boolean;
}

bool Settings::flag(std::string_view name, bool otherwise) {
  return find(name) == nullptr ? otherwise : flag(name);
}

std::int64_t Settings::integer(std::string_view name, std::int64_t least, std::int64_t most) {
  const Json& value = needed(name);
  if (!value.is(Json::Kind::integer) || value.integer < least || value.integer > most) {
    fail(std::string(name),
         "is " +
             (value.is(Json::Kind::integer) ? std::to_string(value.integer) : value.kind_name()) +
             ", must be an integer in [" + std::to_string(least) + ", " + std::to_string(most) +
             "]");
  }
  return value.integer;
}

const std::vector<Json>& Settings::array(std::string_view name) {
  const Json& value = needed(name);
  if (!value.is(Json::Kind::array)) {
    fail(std::string(name), std::string("is ") + value.kind_name() + ", must be an array");
  }
  return value.items;
}

char32_t Settings::character(std::string_view name) {
  const auto characters = unicode::decode(text(name));
  if (characters.size() != 1) fail(std::string(name), "must be one character");
  return characters.front().value;
}

void Settings::finish() const {
  for (std::size_t i = 0; i < asked_.size(); ++i) {
    const std::string& name = object_.names[i];
    if (!asked_[i] && name != "type" && name != "_comment") fail(name, "is not a known setting");
  }
}

std::string part_type(const Json& part, const std::string& place) {
  return Settings(part, place).text("type");
}

void check_growth(std::size_t before, std::size_t after, const std::string& place) {
  constexpr std::size_t kMost = std::size_t{1} << 24;
  if (after > before && after > kMost) {
    throw Error(place + ": makes more than " + std::to_string(kMost) + " characters of a text");
  }
}

Pattern make_pattern(Settings& settings) {
  const auto expression = settings.optional_text("Regex");
  const auto literal = settings.optional_text("String");
  settings.finish();
  if (expression.has_value() == literal.has_value()) {
    settings.fail("must have either Regex or String");
  }
  return expression ? Pattern(*expression, settings.place())
                    : Pattern::literal(*literal, settings.place());
}

}  // namespace attn
