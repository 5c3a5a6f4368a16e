// Pieces and their ids.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/json.h"

namespace attn {

// Finds strings by views.
struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
};

class Vocabulary {
 public:
  // Ids are below this: as many as a tokenizer.json may have values.
  static constexpr std::int64_t kLargest = std::int64_t{1} << 22;

  // Throws attn::Error "<place>: ..." when the id has another piece or the piece another id, and
  // for an id that is negative or too large.
  void add(const std::string& piece, std::int64_t id, const std::string& place);

  std::optional<std::int32_t> find(std::string_view piece) const {
    const auto found = ids_.find(piece);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }
  // False also for an id that was left out.
  bool has(std::int64_t id) const {
    return id >= 0 && id < size() && pieces_[static_cast<std::size_t>(id)].has_value();
  }
  // The piece of an id that `has` holds for.
  const std::string& piece(std::int32_t id) const { return *pieces_[static_cast<std::size_t>(id)]; }
  // The largest id, plus 1.
  std::int64_t size() const { return static_cast<std::int64_t>(pieces_.size()); }

 private:
  std::vector<std::optional<std::string>> pieces_;
  std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>> ids_;
};

// The "vocab" object of a model: piece to id.
Vocabulary read_vocabulary(const Json& object, const std::string& place);

}  // namespace attn
