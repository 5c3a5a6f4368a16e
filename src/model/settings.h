// One object of a tokenizer.json, read strictly: what nobody asked for is an error, so that no
// setting is ignored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/json.h"
#include "model/pattern.h"

namespace attn {

class Settings {
 public:
  // `place` opens every complaint: "tokenizer.json: normalizer". The object must outlive this one.
  Settings(const Json& object, std::string place);

  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void fail(const std::string& name, const std::string& what) const;

  // Each throws attn::Error "<place>: <name> ..." when the member is of another kind, and, without
  // a default, when it is missing. null counts as absent.
  const Json* find(std::string_view name);
  const Json& needed(std::string_view name);
  std::string text(std::string_view name);
  std::optional<std::string> optional_text(std::string_view name);
  bool flag(std::string_view name);
  bool flag(std::string_view name, bool otherwise);
  std::int64_t integer(std::string_view name, std::int64_t least, std::int64_t most);
  const std::vector<Json>& array(std::string_view name);
  // A string that is one character.
  char32_t character(std::string_view name);

  const std::string& place() const { return place_; }
  // Throws when a member was not asked for; "type" and "_comment" need not be.
  void finish() const;

 private:
  const Json& object_;
  std::string place_;
  std::vector<bool> asked_;
};

// The member "type" of an object: what kind of part it is.
std::string part_type(const Json& part, const std::string& place);

// Steps that make more of a text, one after the other, could make far too much of it. Throws
// attn::Error "<place>: ..." when one left more than 16,777,216 (characters, bytes) and more than
// before.
void check_growth(std::size_t before, std::size_t after, const std::string& place);

// {"Regex": ...} or {"String": ...}: a pattern, or a text to be matched as it is.
Pattern make_pattern(Settings& settings);

}  // namespace attn
