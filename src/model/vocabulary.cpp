#include "model/vocabulary.h"

#include "attn/error.h"

namespace attn {

void Vocabulary::add(const std::string& piece, std::int64_t id, const std::string& place) {
  if (id < 0 || id >= kLargest) {
    throw Error(place + ": \"" + piece + "\" has id " + std::to_string(id) + ", must be in [0, " +
                std::to_string(kLargest) + ")");
  }
  const auto at = static_cast<std::size_t>(id);
  if (at >= pieces_.size()) pieces_.resize(at + 1);
  if (pieces_[at] && *pieces_[at] != piece) {
    throw Error(place + ": \"" + *pieces_[at] + "\" and \"" + piece + "\" have the same id, " +
                std::to_string(id));
  }
  const auto [found, fresh] = ids_.emplace(piece, static_cast<std::int32_t>(id));
  if (!fresh && found->second != id) {
    throw Error(place + ": \"" + piece + "\" has two ids, " + std::to_string(found->second) +
                " and " + std::to_string(id));
  }
  pieces_[at] = piece;
}

Vocabulary read_vocabulary(const Json& object, const std::string& place) {
  if (!object.is(Json::Kind::object)) {
    throw Error(place + " is " + object.kind_name() + ", must be an object");
  }
  Vocabulary vocabulary;
  for (std::size_t i = 0; i < object.names.size(); ++i) {
    const Json& id = object.items[i];
    if (!id.is(Json::Kind::integer)) {
      throw Error(place + ": the id of \"" + object.names[i] + "\" is " + id.kind_name() +
                  ", must be an integer");
    }
    vocabulary.add(object.names[i], id.integer, place);
  }
  return vocabulary;
}

}  // namespace attn
