// One rule a kind of mask, for one pair at a time, straight from its definition; nothing here knows
// intervals.
#include "reference/visible.h"

#include <stdexcept>
#include <string>

#include "attn/reference.h"

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
    const auto block_of = [&b](Wide p) { return p >= 0 ? p / b.size : -((-p - 1) / b.size) - 1; };
    for (const auto& [q_block, k_block] : b.visible) {
      if (q_block == block_of(q_pos) && k_block == block_of(k_pos)) return true;
    }
    return false;
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
