// One JSON object of a model's files, read strictly: what nobody asked for is an error, so that no
// setting is ignored.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/json.h"

namespace attn {

class Fields {
 public:
  // `source` opens every complaint: "config.json", "tokenizer.json: normalizer". The object must
  // outlive this one. Throws attn::Error for what is no object.
  Fields(const Json& object, std::string source);

  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void fail(std::string_view name, const std::string& what) const;

  // Each throws attn::Error "<source>: <name> ..." when the member is of another kind or outside
  // the bounds; where it is needed, when it is missing. null counts as absent.
  const Json* find(std::string_view name) const;
  std::optional<std::string> text(std::string_view name) const;
  std::optional<bool> boolean(std::string_view name) const;
  std::optional<double> number(std::string_view name) const;
  std::optional<std::int64_t> integer(std::string_view name, std::int64_t least,
                                      std::int64_t most) const;
  std::optional<std::int64_t> size(std::string_view name, std::int64_t largest) const {
    return integer(name, 1, largest);
  }
  const Json& needed(std::string_view name) const;
  std::string needed_text(std::string_view name) const;
  bool needed_boolean(std::string_view name) const;
  std::int64_t needed_integer(std::string_view name, std::int64_t least, std::int64_t most) const;
  std::int64_t needed_size(std::string_view name, std::int64_t largest) const {
    return needed_integer(name, 1, largest);
  }
  const std::vector<Json>& needed_array(std::string_view name) const;
  // Tokens, which are in [0, vocabulary): one or a list of them; none when absent.
  std::vector<std::int32_t> tokens(std::string_view name, std::int64_t vocabulary) const;
  std::int32_t needed_token(std::string_view name, std::int64_t vocabulary) const;
  // `value`, which is the member or within it.
  std::int32_t token(std::string_view name, const Json& value, std::int64_t vocabulary) const;

  // Throws for a member that nobody has asked for and that is in neither list of those which change
  // no result.
  void refuse_others(std::span<const std::string_view> ignored = {},
                     std::initializer_list<std::string_view> also = {}) const;

  const std::string& source() const { return source_; }

 private:
  const Json& object_;
  std::string source_;
  mutable std::vector<bool> asked_;  // of the object's members
};

}  // namespace attn
