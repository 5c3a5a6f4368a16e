// Which keys may one query see? Asks pair by pair; a predicate is called once.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "attn/mask.h"
#include "mask/node.h"

namespace attn::reference {

using PredicateRows = std::map<const Mask::Node::Custom*, std::vector<std::uint8_t>>;

class RowVisibility {
 public:
  RowVisibility(const Mask& mask, const Geometry& geometry, std::int64_t batch, std::int64_t head,
                std::int64_t q)
      : mask_(mask), geometry_(geometry), batch_(batch), head_(head), q_(q) {}

  bool operator()(std::int64_t k);

 private:
  const Mask& mask_;
  const Geometry& geometry_;
  std::int64_t batch_, head_, q_;
  PredicateRows predicate_rows_;
};

}  // namespace attn::reference
