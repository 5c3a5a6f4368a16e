#include "model/json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "attn/error.h"

namespace attn {
namespace {

constexpr std::size_t kDeepest = 64;
constexpr std::size_t kMostValues = 4'000'000;

// Builds the tree from the parser's events; depth is bounded, so that destroying it is too.
class Builder {
 public:
  Builder(Json* root, const std::string& source) : source_(source) { open_.push_back(root); }

  bool null() { return place({}) != nullptr; }
  bool boolean(bool value) {
    Json json;
    json.kind = Json::Kind::boolean;
    json.boolean = value;
    return place(std::move(json)) != nullptr;
  }
  bool number_integer(std::int64_t value) {
    Json json;
    json.kind = Json::Kind::integer;
    json.integer = value;
    json.real = static_cast<double>(value);
    return place(std::move(json)) != nullptr;
  }
  bool number_unsigned(std::uint64_t value) {
    if (value <= static_cast<std::uint64_t>(INT64_MAX)) {
      return number_integer(static_cast<std::int64_t>(value));
    }
    return number_float(static_cast<double>(value), {});
  }
  bool number_float(double value, const std::string& /*text*/) {
    Json json;
    json.kind = Json::Kind::real;
    json.real = value;
    return place(std::move(json)) != nullptr;
  }
  bool string(std::string& value) {
    Json json;
    json.kind = Json::Kind::text;
    json.text = std::move(value);
    return place(std::move(json)) != nullptr;
  }
  bool binary(std::vector<std::uint8_t>& /*value*/) { return false; }

  bool start_object(std::size_t /*size*/) { return open(Json::Kind::object); }
  bool start_array(std::size_t /*size*/) { return open(Json::Kind::array); }
  bool key(std::string& name) {
    open_.back()->names.push_back(std::move(name));
    return true;
  }
  bool end_object() {
    Json& object = *open_.back();
    std::vector<std::size_t> order(object.names.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return object.names[a] < object.names[b]; });
    std::vector<std::string> names;
    std::vector<Json> items;
    for (const std::size_t i : order) {
      if (!names.empty() && names.back() == object.names[i]) {
        throw Error(source_ + ": invalid JSON: the name \"" + names.back() + "\" appears twice");
      }
      names.push_back(std::move(object.names[i]));
      items.push_back(std::move(object.items[i]));
    }
    object.names = std::move(names);
    object.items = std::move(items);
    open_.pop_back();
    return true;
  }
  bool end_array() {
    open_.pop_back();
    return true;
  }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& exception) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: reason"
    std::string reason = exception.what();
    if (const auto end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
    throw Error(source_ + ": invalid JSON at byte " + std::to_string(position) + ": " + reason);
  }

 private:
  // The first value goes to the root, later ones into the innermost open array or object.
  Json* place(Json json) {
    if (++values_ > kMostValues) {
      throw Error(source_ + ": more than " + std::to_string(kMostValues) + " JSON values");
    }
    Json* const parent = open_.back();
    if (!started_) {
      started_ = true;
      *parent = std::move(json);
      return parent;
    }
    return &parent->items.emplace_back(std::move(json));
  }
  bool open(Json::Kind kind) {
    if (open_.size() > kDeepest) {
      throw Error(source_ + ": more than " + std::to_string(kDeepest) + " levels of JSON");
    }
    Json json;
    json.kind = kind;
    open_.push_back(place(std::move(json)));
    return true;
  }

  const std::string& source_;
  // Pointers stay valid: only the innermost container grows.
  std::vector<Json*> open_;
  std::size_t values_ = 0;
  bool started_ = false;
};

// Python writes an infinite number as a bare Infinity, which is no JSON, Transformers 5 as
// {"__float__":"Infinity"}. Makes the latter of the former.
std::string with_infinity_named(std::string_view text) {
  constexpr std::string_view kBare = "Infinity";
  std::string plain;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!quoted && text.substr(i, kBare.size()) == kBare) {
      plain += R"({"__float__":"Infinity"})";
      i += kBare.size() - 1;
      continue;
    }
    plain += text[i];
    if (quoted && text[i] == '\\' && i + 1 < text.size())
      plain += text[++i];
    else if (text[i] == '"')
      quoted = !quoted;
  }
  return plain;
}

}  // namespace

Json Json::parse(std::string_view text, const std::string& source) {
  Json root;
  Builder builder(&root, source);
  const std::string plain = with_infinity_named(text);
  if (!nlohmann::json::sax_parse(plain.begin(), plain.end(), &builder)) {
    throw Error(source + ": invalid JSON");
  }
  return root;
}

const Json* Json::find(std::string_view name) const {
  const auto at = std::lower_bound(names.begin(), names.end(), name);
  if (at == names.end() || *at != name) return nullptr;
  return &items[static_cast<std::size_t>(at - names.begin())];
}

const char* Json::kind_name() const {
  switch (kind) {
    case Kind::null: return "null";
    case Kind::boolean: return "a boolean";
    case Kind::integer:
    case Kind::real: return "a number";
    case Kind::text: return "a string";
    case Kind::array: return "an array";
    case Kind::object: return "an object";
  }
  return "";
}

}  // namespace attn
