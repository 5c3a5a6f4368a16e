// Masks that give every query one of a few lists of keys: global tokens, blocks and documents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attn/mask.h"
#include "mask/keys.h"
#include "mask/node.h"

namespace attn {

// Row q has intervals [starts[list], starts[list + 1]), in the normal form of mask/intervals.h,
// where list = list_of_row[q], or list 0 when list_of_row is empty.
struct RowTable {
  std::vector<std::uint32_t> list_of_row;
  std::vector<std::size_t> starts = {0};
  std::vector<Interval> intervals;
};

RowTable table_of(const Mask::Node::GlobalTokens& global, const Geometry& geometry,
                  const Keys& keys);
RowTable table_of(const Mask::Node::Blocks& blocks, const Geometry& geometry, const Keys& keys);
RowTable table_of(const Mask::Node::BlockWindow& window, const Geometry& geometry,
                  const Keys& keys);
RowTable table_of(const Mask::Node::GlobalBlocks& global, const Geometry& geometry,
                  const Keys& keys);
// As `head` draws.
RowTable table_of(const Mask::Node::DrawnBlocks& drawn, std::int64_t head, const Geometry& geometry,
                  const Keys& keys);
RowTable table_of(const Mask::Node::Documents& documents, const Geometry& geometry,
                  const Keys& keys);

}  // namespace attn
