#include "model/fields.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "attn/error.h"

namespace attn {

Fields::Fields(const Json& object, std::string source)
    : object_(object), source_(std::move(source)), asked_(object.names.size()) {
  if (!object.is(Json::Kind::object))
    fail(std::string("holds ") + object.kind_name() + ", must be an object");
}

void Fields::fail(const std::string& what) const { throw Error(source_ + ": " + what); }

void Fields::fail(std::string_view name, const std::string& what) const {
  fail(std::string(name) + " " + what);
}

const Json* Fields::find(std::string_view name) const {
  const Json* const value = object_.find(name);
  if (value == nullptr) return nullptr;
  asked_[static_cast<std::size_t>(value - object_.items.data())] = true;
  return value->is(Json::Kind::null) ? nullptr : value;
}

std::optional<std::string> Fields::text(std::string_view name) const {
  const Json* const value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is(Json::Kind::text))
    fail(name, std::string("is ") + value->kind_name() + ", must be a string");
  return value->text;
}

std::optional<bool> Fields::boolean(std::string_view name) const {
  const Json* const value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is(Json::Kind::boolean))
    fail(name, std::string("is ") + value->kind_name() + ", must be true or false");
  return value->boolean;
}

std::optional<double> Fields::number(std::string_view name) const {
  const Json* const value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number())
    fail(name, std::string("is ") + value->kind_name() + ", must be a number");
  return value->real;
}

std::optional<std::int64_t> Fields::integer(std::string_view name, std::int64_t least,
                                            std::int64_t most) const {
  const Json* const value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is(Json::Kind::integer) || value->integer < least || value->integer > most) {
    const std::string is = value->is(Json::Kind::integer) ? std::to_string(value->integer)
                           : value->is(Json::Kind::real)  ? std::to_string(value->real)
                                                          : value->kind_name();
    fail(name, "is " + is + ", must be an integer in [" + std::to_string(least) + ", " +
                   std::to_string(most) + "]");
  }
  return value->integer;
}

const Json& Fields::needed(std::string_view name) const {
  const Json* const value = find(name);
  if (value == nullptr) fail(name, "is missing");
  return *value;
}

std::string Fields::needed_text(std::string_view name) const {
  needed(name);
  return *text(name);
}

bool Fields::needed_boolean(std::string_view name) const {
  needed(name);
  return *boolean(name);
}

std::int64_t Fields::needed_integer(std::string_view name, std::int64_t least,
                                    std::int64_t most) const {
  needed(name);
  return *integer(name, least, most);
}

const std::vector<Json>& Fields::needed_array(std::string_view name) const {
  const Json& value = needed(name);
  if (!value.is(Json::Kind::array))
    fail(name, std::string("is ") + value.kind_name() + ", must be an array");
  return value.items;
}

std::vector<std::int32_t> Fields::tokens(std::string_view name, std::int64_t vocabulary) const {
  std::vector<std::int32_t> tokens;
  const Json* const value = find(name);
  if (value == nullptr) return tokens;
  if (!value->is(Json::Kind::array)) return {token(name, *value, vocabulary)};
  for (const Json& item : value->items) tokens.push_back(token(name, item, vocabulary));
  return tokens;
}

std::int32_t Fields::needed_token(std::string_view name, std::int64_t vocabulary) const {
  return token(name, needed(name), vocabulary);
}

std::int32_t Fields::token(std::string_view name, const Json& value,
                           std::int64_t vocabulary) const {
  if (!value.is(Json::Kind::integer) || value.integer < 0 || value.integer >= vocabulary)
    fail(name, "is no token: must be an integer in [0, " + std::to_string(vocabulary) + ")");
  return static_cast<std::int32_t>(value.integer);
}

void Fields::refuse_others(std::span<const std::string_view> ignored,
                           std::initializer_list<std::string_view> also) const {
  const auto in = [](const auto& list, const std::string& name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  for (std::size_t i = 0; i < asked_.size(); ++i) {
    const std::string& name = object_.names[i];
    if (asked_[i] || object_.items[i].is(Json::Kind::null)) continue;
    if (!in(ignored, name) && !in(also, name)) fail(name, "is not known");
  }
}

}  // namespace attn
