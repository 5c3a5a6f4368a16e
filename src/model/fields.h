// Reading the members of a JSON object that describes a model.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "attn/error.h"
#include "model/json.h"

namespace attn {

// Members of one JSON object, with the file's name in every complaint. null counts as absent.
class Fields {
 public:
  Fields(const Json& object, std::string source) : object_(object), source_(std::move(source)) {
    if (!object.is(Json::Kind::object)) {
      throw Error(source_ + ": holds " + object.kind_name() + ", must be an object");
    }
  }

  [[noreturn]] void fail(const std::string& name, const std::string& what) const {
    throw Error(source_ + ": " + name + " " + what);
  }
  const Json* find(const char* name) const {
    read_.insert(name);
    const Json* const value = object_.find(name);
    return value != nullptr && value->is(Json::Kind::null) ? nullptr : value;
  }
  std::optional<std::string> text(const char* name) const {
    const Json* const value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is(Json::Kind::text)) {
      fail(name, std::string("is ") + value->kind_name() + ", must be a string");
    }
    return value->text;
  }
  std::optional<bool> boolean(const char* name) const {
    const Json* const value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is(Json::Kind::boolean)) {
      fail(name, std::string("is ") + value->kind_name() + ", must be true or false");
    }
    return value->boolean;
  }
  std::optional<double> number(const char* name) const {
    const Json* const value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) {
      fail(name, std::string("is ") + value->kind_name() + ", must be a number");
    }
    return value->real;
  }
  std::optional<std::int64_t> integer(const char* name, std::int64_t least,
                                      std::int64_t most) const {
    const Json* const value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is(Json::Kind::integer) || value->integer < least || value->integer > most) {
      fail(name, "is " + (value->is_number() ? number_text(*value) : value->kind_name()) +
                     ", must be an integer in [" + std::to_string(least) + ", " +
                     std::to_string(most) + "]");
    }
    return value->integer;
  }
  std::optional<std::int64_t> size(const char* name, std::int64_t largest) const {
    return integer(name, 1, largest);
  }
  std::int64_t needed_size(const char* name, std::int64_t largest) const {
    const auto value = size(name, largest);
    if (!value) fail(name, "is missing");
    return *value;
  }
  std::string needed_text(const char* name) const {
    const auto value = text(name);
    if (!value) fail(name, "is missing");
    return *value;
  }
  // Nothing is guessed: a member that nobody has read and that is in neither list of those which
  // change no result is an error.
  void refuse_others(std::span<const std::string_view> ignored,
                     std::initializer_list<std::string_view> also = {}) const {
    const auto in = [](const auto& list, const std::string& name) {
      return std::find(list.begin(), list.end(), name) != list.end();
    };
    for (std::size_t i = 0; i < object_.names.size(); ++i) {
      const std::string& name = object_.names[i];
      if (object_.items[i].is(Json::Kind::null) || read_.count(name) > 0) continue;
      if (!in(ignored, name) && !in(also, name)) fail(name, "is not known");
    }
  }
  const std::string& source() const { return source_; }

 private:
  static std::string number_text(const Json& value) {
    return value.is(Json::Kind::integer) ? std::to_string(value.integer)
                                         : std::to_string(value.real);
  }

  const Json& object_;
  std::string source_;
  mutable std::set<std::string, std::less<>> read_;
};

}  // namespace attn
