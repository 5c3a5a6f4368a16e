// One rule a kind of mask, for one pair at a time, straight from its definition; nothing here knows
// intervals.
#include "reference/visible.h"

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>

#include "attn/reference.h"
#include "base/random.h"

namespace attn::reference {

namespace {

__extension__ using Wide = __int128;  // holds the difference of any two positions

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

void check_list(const char* what, std::size_t size, std::int64_t wanted) {
  if (size != at(wanted)) {
    throw std::invalid_argument(std::string("[mask] ") + what + " has " + std::to_string(size) +
                                " entries, meets " + std::to_string(wanted));
  }
}

// A pair of a query and a key, asking each kind of mask.
struct Pair {
  const Geometry& geometry;
  std::int64_t batch, head, q, k;  // indices
  PredicateRows& predicate_rows;
  Wide q_pos = geometry.q_position(q), k_pos = geometry.k_position(k);

  bool operator()(const Mask::Node::Full&) const { return true; }

  bool operator()(const Mask::Node::Causal&) const { return k_pos <= q_pos; }

  bool operator()(const Mask::Node::Window& w) const {
    return (w.left < 0 || q_pos - w.left <= k_pos) && (w.right < 0 || k_pos <= q_pos + w.right);
  }

  bool operator()(const Mask::Node::DilatedWindow& w) const {
    const Wide offset = k_pos - q_pos;
    if (offset % w.step != 0) return false;
    const Wide steps = offset / w.step;
    return (w.left < 0 || -steps <= w.left) && (w.right < 0 || steps <= w.right);
  }

  bool operator()(const Mask::Node::GlobalTokens& g) const {
    for (std::int64_t p : g.positions) {
      if (p == q_pos || p == k_pos) return true;
    }
    return false;
  }

  bool operator()(const Mask::Node::Blocks& b) const {
    for (const auto& [q_block, k_block] : b.visible) {
      if (q_block == block_of(q_pos, b.size) && k_block == block_of(k_pos, b.size)) return true;
    }
    return false;
  }

  bool operator()(const Mask::Node::BlockWindow& w) const {
    const Wide q_block = block_of(q_pos, w.size), k_block = block_of(k_pos, w.size);
    return (w.left < 0 || q_block - w.left <= k_block) &&
           (w.right < 0 || k_block <= q_block + w.right);
  }

  bool operator()(const Mask::Node::GlobalBlocks& g) const {
    const Wide n = key_blocks(g.size);
    const auto global = [&](Wide block) {
      return block >= 0 && (block < g.first || (block < n && block >= n - g.last));
    };
    return global(block_of(q_pos, g.size)) || global(block_of(k_pos, g.size));
  }

  bool operator()(const Mask::Node::DrawnBlocks& drawn) const {
    const RandomBlocks& rule = drawn.rule;
    const Wide n = key_blocks(rule.size), row = block_of(q_pos, rule.size),
               wanted = block_of(k_pos, rule.size);
    if (row < rule.first || row >= n - rule.last) return false;
    std::vector<Wide> open;  // blocks that may be drawn
    for (Wide c = rule.first; c < n - rule.last; ++c) {
      if (c < row - rule.band || c > row + rule.band) open.push_back(c);
    }
    const auto m = static_cast<std::int64_t>(open.size());
    std::set<Wide> taken;
    for (std::int64_t j = std::max<std::int64_t>(0, m - rule.count), d = 0; j < m; ++j, ++d) {
      const auto words = philox4x32(
          {static_cast<std::uint32_t>(d), static_cast<std::uint32_t>(row),
           static_cast<std::uint32_t>(head), 0xFFFFFFFF},
          {static_cast<std::uint32_t>(rule.seed), static_cast<std::uint32_t>(rule.seed >> 32)});
      const Wide x = Wide{words[0]} + (Wide{words[1]} << 32);
      const Wide t = m <= rule.count ? j : x * (j + 1) >> 64;
      const Wide block = open[at(static_cast<std::int64_t>(t))];
      taken.insert(taken.count(block) != 0 ? open[at(j)] : block);
    }
    return taken.count(wanted) != 0;
  }

  bool operator()(const Mask::Node::Documents& d) const {
    Wide begin = 0;
    for (std::int64_t end : d.ends) {
      if (begin <= q_pos && q_pos < end && begin <= k_pos && k_pos < end) return true;
      begin = end;
    }
    return false;
  }

  bool operator()(const Mask::Node::Prefix& p) const { return k_pos < p.n; }

  bool operator()(const Mask::Node::Padding& p) const {
    if (p.lengths.size() != 1) check_list("padding", p.lengths.size(), geometry.batch);
    const std::int64_t n = p.lengths.size() == 1 ? p.lengths[0] : p.lengths[at(batch)];
    if (n > geometry.k_len) {
      throw std::invalid_argument("[mask] padding length " + std::to_string(n) + " of " +
                                  std::to_string(geometry.k_len) + " keys");
    }
    return p.side == PaddingSide::right ? k < n : k >= geometry.k_len - n;
  }

  bool operator()(const Mask::Node::Dense& d) const {
    const std::int64_t axis[4] = {batch, head, q, k};
    const std::int64_t length[4] = {geometry.batch, geometry.heads, geometry.q_len, geometry.k_len};
    std::int64_t index[4];
    for (std::size_t i = 0; i < 4; ++i) {
      if (d.shape[i] != 1) check_list("dense", at(d.shape[i]), length[i]);
      index[i] = d.shape[i] == 1 ? 0 : axis[i];
    }
    const std::int64_t row = (index[0] * d.shape[1] + index[1]) * d.shape[2] + index[2];
    return (d.words[at(row * d.row_words + index[3] / 64)] >> (index[3] % 64)) & 1;
  }

  bool operator()(const Mask::Node::Custom& c) const {
    const auto [row, first_time] = predicate_rows.try_emplace(&c, at(geometry.k_len), 0);
    if (first_time) c.f(batch, head, q, row->second);
    return row->second[at(k)] != 0;
  }

  bool operator()(const Mask::Node::PerHead& p) const {
    check_list("per_head", p.masks.size(), geometry.heads);
    return sees(p.masks[at(head)]);
  }

  bool operator()(const Mask::Node::PerBatch& p) const {
    check_list("per_batch", p.masks.size(), geometry.batch);
    return sees(p.masks[at(batch)]);
  }

  bool operator()(const Mask::Node::All& all) const {
    for (const Mask& m : all.masks) {
      if (!sees(m)) return false;
    }
    return true;
  }

  bool operator()(const Mask::Node::Any& any) const {
    for (const Mask& m : any.masks) {
      if (sees(m)) return true;
    }
    return false;
  }

  static Wide block_of(Wide p, std::int64_t size) {
    return p >= 0 ? p / size : -((-p - 1) / size) - 1;
  }

  // Blocks from position 0 to the last key.
  Wide key_blocks(std::int64_t size) const {
    Wide blocks = 0;
    for (std::int64_t j = 0; j < geometry.k_len; ++j) {
      blocks = std::max(blocks, block_of(geometry.k_position(j), size) + 1);
    }
    return blocks;
  }

  bool sees(const Mask& mask) const { return std::visit(*this, mask.node().data); }
};

}  // namespace

bool RowVisibility::operator()(std::int64_t k) {
  return Pair{geometry_, batch_, head_, q_, k, predicate_rows_}.sees(mask_);
}

bool visible(const Mask& mask, const Geometry& geometry, std::int64_t batch, std::int64_t head,
             std::int64_t q, std::int64_t k) {
  return RowVisibility(mask, geometry, batch, head, q)(k);
}

}  // namespace attn::reference
