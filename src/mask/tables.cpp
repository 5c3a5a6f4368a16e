#include "mask/tables.h"

#include <algorithm>
#include <limits>
#include <map>

#include "mask/intervals.h"
#include "mask/random_blocks.h"

namespace attn {
namespace {

constexpr std::int64_t kLowest = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kHighest = std::numeric_limits<std::int64_t>::max();
constexpr std::uint32_t kFirstList = 0, kSecondList = 1;

std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  return a / b - (a % b != 0 && a < 0 ? 1 : 0);
}

__extension__ using Wide = __int128;

std::int64_t clipped(Wide position) {
  return static_cast<std::int64_t>(std::clamp<Wide>(position, kLowest, kHighest));
}

// Positions first...last of a block, clipped to the type; false when the block lies outside it.
bool block_positions(std::int64_t block, std::int64_t size, std::int64_t& first,
                     std::int64_t& last) {
  if (block >= 0) {
    if (__builtin_mul_overflow(block, size, &first)) return false;
    last = first > kHighest - (size - 1) ? kHighest : first + (size - 1);
    return true;
  }
  std::int64_t end = 0;
  if (__builtin_mul_overflow(block + 1, size, &end) || end == kLowest) return false;
  last = end - 1;
  first = last < kLowest + (size - 1) ? kLowest : last - (size - 1);
  return true;
}

// Blocks of `size` positions that reach from position 0 to the last key; 2^63 at most.
std::uint64_t key_blocks(std::int64_t size, const Keys& keys) {
  if (keys.length() == 0 || keys.highest() < 0) return 0;
  return static_cast<std::uint64_t>(keys.highest() / size) + 1;
}

// One list for each block that a query stands in: keys_of(block, pieces) appends its keys.
template <class KeysOf>
RowTable table_by_block(std::int64_t size, const Geometry& geometry, const KeysOf& keys_of) {
  RowTable table;
  std::map<std::int64_t, std::uint32_t> list_of_block;
  std::vector<Interval> pieces;
  table.list_of_row.reserve(static_cast<std::size_t>(geometry.q_len));
  for (std::int64_t q = 0; q < geometry.q_len; ++q) {
    const std::int64_t block = floor_div(geometry.q_position(q), size);
    const auto next = static_cast<std::uint32_t>(table.starts.size() - 1);
    const auto [it, added] = list_of_block.try_emplace(block, next);
    table.list_of_row.push_back(it->second);
    if (!added) continue;
    pieces.clear();
    keys_of(block, pieces);
    normalise(pieces);
    table.intervals.insert(table.intervals.end(), pieces.begin(), pieces.end());
    table.starts.push_back(table.intervals.size());
  }
  return table;
}

}  // namespace

RowTable table_of(const Mask::Node::GlobalTokens& global, const Geometry& geometry,
                  const Keys& keys) {
  RowTable table;
  for (const std::int64_t p : global.positions) keys.between(p, p, table.intervals);
  normalise(table.intervals);
  table.starts.push_back(table.intervals.size());
  if (keys.length() > 0) table.intervals.push_back({0, keys.length(), 1});
  table.starts.push_back(table.intervals.size());
  table.list_of_row.reserve(static_cast<std::size_t>(geometry.q_len));
  for (std::int64_t q = 0; q < geometry.q_len; ++q) {
    const bool everywhere = std::binary_search(global.positions.begin(), global.positions.end(),
                                               geometry.q_position(q));
    table.list_of_row.push_back(everywhere ? kSecondList : kFirstList);
  }
  return table;
}

RowTable table_of(const Mask::Node::Blocks& blocks, const Geometry& geometry, const Keys& keys) {
  RowTable table;
  table.starts.push_back(0);  // list 0: nothing
  std::vector<std::int64_t> query_blocks;
  std::vector<Interval> pieces;
  for (auto it = blocks.visible.begin(); it != blocks.visible.end();) {
    query_blocks.push_back(it->first);
    pieces.clear();
    for (; it != blocks.visible.end() && it->first == query_blocks.back(); ++it) {
      std::int64_t first = 0, last = 0;
      if (block_positions(it->second, blocks.size, first, last)) {
        keys.between(first, last, pieces);
      }
    }
    normalise(pieces);
    table.intervals.insert(table.intervals.end(), pieces.begin(), pieces.end());
    table.starts.push_back(table.intervals.size());
  }
  table.list_of_row.reserve(static_cast<std::size_t>(geometry.q_len));
  for (std::int64_t q = 0; q < geometry.q_len; ++q) {
    const std::int64_t block = floor_div(geometry.q_position(q), blocks.size);
    const auto it = std::lower_bound(query_blocks.begin(), query_blocks.end(), block);
    const bool listed = it != query_blocks.end() && *it == block;
    table.list_of_row.push_back(listed ? static_cast<std::uint32_t>(it - query_blocks.begin() + 1)
                                       : kFirstList);
  }
  return table;
}

RowTable table_of(const Mask::Node::BlockWindow& w, const Geometry& geometry, const Keys& keys) {
  return table_by_block(w.size, geometry, [&](std::int64_t block, std::vector<Interval>& pieces) {
    const Wide from = (Wide{block} - w.left) * w.size, to = (Wide{block} + w.right + 1) * w.size;
    keys.between(w.left < 0 ? kLowest : clipped(from), w.right < 0 ? kHighest : clipped(to - 1),
                 pieces);
  });
}

RowTable table_of(const Mask::Node::GlobalBlocks& g, const Geometry& geometry, const Keys& keys) {
  const std::uint64_t n = key_blocks(g.size, keys),
                      last = n - std::min(n, static_cast<std::uint64_t>(g.last));
  return table_by_block(g.size, geometry, [&](std::int64_t block, std::vector<Interval>& pieces) {
    const auto index = static_cast<std::uint64_t>(block);  // of a negative one: above all others
    if ((0 <= block && block < g.first) || (last <= index && index < n)) {
      return keys.between(kLowest, kHighest, pieces);
    }
    if (g.first > 0) keys.between(0, clipped(Wide{g.first} * g.size - 1), pieces);
    if (last < n) {
      keys.between(clipped(Wide{last} * g.size), clipped(Wide{n} * g.size - 1), pieces);
    }
  });
}

RowTable table_of(const Mask::Node::DrawnBlocks& drawn, std::int64_t head, const Geometry& geometry,
                  const Keys& keys) {
  const RandomBlocks& rule = drawn.rule;
  const std::uint64_t n = key_blocks(rule.size, keys);
  return table_by_block(
      rule.size, geometry, [&](std::int64_t block, std::vector<Interval>& pieces) {
        for (const auto& [first, last] : drawn_blocks(rule, n, block, head)) {
          keys.between(first * rule.size, clipped((Wide{last} + 1) * rule.size - 1), pieces);
        }
      });
}

RowTable table_of(const Mask::Node::Documents& documents, const Geometry& geometry,
                  const Keys& keys) {
  RowTable table;
  table.starts.push_back(0);  // list 0: nothing
  std::int64_t begin = 0;
  std::vector<Interval> pieces;
  for (const std::int64_t end : documents.ends) {
    pieces.clear();
    keys.between(begin, end - 1, pieces);
    normalise(pieces);
    table.intervals.insert(table.intervals.end(), pieces.begin(), pieces.end());
    table.starts.push_back(table.intervals.size());
    begin = end;
  }
  table.list_of_row.reserve(static_cast<std::size_t>(geometry.q_len));
  for (std::int64_t q = 0; q < geometry.q_len; ++q) {
    const std::int64_t p = geometry.q_position(q);
    const auto it = std::upper_bound(documents.ends.begin(), documents.ends.end(), p);
    const bool inside = p >= 0 && it != documents.ends.end();
    table.list_of_row.push_back(inside ? static_cast<std::uint32_t>(it - documents.ends.begin() + 1)
                                       : kFirstList);
  }
  return table;
}

}  // namespace attn
