// A mask bound to a geometry: validated once, then asked row by row.
//
// The tree of a Mask, resolved for one (batch, head), becomes a small flat program. Windows,
// causal, prefix, padding and their intersections fuse into one range that costs a few instructions
// a row; global tokens, blocks and documents become tables from row to a shared list of intervals.
// Equal programs are stored once, so (batch, head) pairs with the same rows share a variant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "attn/mask.h"
#include "mask/intervals.h"
#include "mask/keys.h"
#include "mask/node.h"
#include "mask/tables.h"

namespace attn {

// Immutable and thread-safe. Throws std::invalid_argument "[mask] ..." when the mask does not fit.
class BoundMask {
 public:
  BoundMask(const Mask& mask, const Geometry& geometry);

  const Geometry& geometry() const { return geometry_; }
  const Keys& keys() const { return keys_; }

  // (batch, head) pairs of one variant have the same rows; ids are 0..variants()-1. A mask without
  // random_blocks, per_head, per_batch, padding, dense and predicate has one (none when batch or
  // heads is 0).
  int variants() const { return static_cast<int>(variants_.size()); }
  int variant(std::int64_t batch, std::int64_t head) const {
    return variant_of_[static_cast<std::size_t>(batch * batch_stride_ + head * head_stride_)];
  }
  // How many (batch, head) pairs have this variant.
  std::int64_t uses(int variant) const { return at(variant).uses; }

  // The rows come from intervals alone. False with a predicate, and with a dense mask unless it is
  // the same for every query and has few intervals (a padding mask in dense form).
  bool structured(int variant) const { return nodes_[at(variant).root].structured; }
  // Every row is all keys. Exact, except that a predicate is not asked: with one it is false.
  bool full(int variant) const { return at(variant).full; }

  // Structured variants only. Appends the row's intervals to `out`, in the normal form of
  // mask/intervals.h: ascending, hulls apart, neighbouring keys in one interval. Allocates nothing
  // but growth of `out` and of scratch that the thread keeps.
  void row_intervals(int variant, std::int64_t q, std::vector<Interval>& out) const;
  // Any variant. Sets words[0..ceil(k_len / 64)): bit j = query q sees key j; bits past k_len are
  // 0. Calls each predicate in the mask once.
  void row_bits(int variant, std::int64_t q, std::uint64_t* words) const;
  // Any variant: the row as intervals, appended; with predicate or dense parts by way of bits.
  void row(int variant, std::int64_t q, std::vector<Interval>& out) const;

 private:
  // range: keys in [begin, end) whose position is within back / ahead of the query's and, if
  // step > 1, congruent to it. all, any: children_[first_child...].
  enum class Kind : std::uint8_t { range, table, dense, custom, all, any };
  struct Node {
    Kind kind = Kind::range;
    bool structured = true;
    bool stepped = false;  // may have intervals with step > 1
    bool asks = false;     // calls a predicate
    std::uint64_t back = kUnlimited, ahead = kUnlimited;
    std::int64_t begin = 0, end = 0, step = 1;
    std::size_t first_child = 0, child_count = 0;
    std::size_t table = 0;
    const Mask::Node::Dense* dense = nullptr;
    std::int64_t dense_row = 0;  // the row of query 0
    const Mask::Predicate* predicate = nullptr;
    std::int64_t batch = 0, head = 0;
  };
  struct Variant {
    std::size_t root;
    bool full;
    std::int64_t uses;
  };

  const Variant& at(int variant) const { return variants_[static_cast<std::size_t>(variant)]; }
  bool is_empty_range(const Node& node) const;
  bool is_full_range(const Node& node) const;

  // Binding; returns indices of nodes_.
  std::size_t bind(const Mask& mask, std::int64_t batch, std::int64_t head);
  std::size_t bind_range(Node range);
  std::size_t bind_list(const Mask::Node* key, std::vector<Interval> pieces);
  std::size_t bind_table(std::vector<std::uint64_t> key, const std::function<RowTable()>& build);
  std::size_t bind_dense(const Mask::Node::Dense& dense, const Mask::Node* key, std::int64_t batch,
                         std::int64_t head);
  std::size_t bind_all(const std::vector<Mask>& masks, std::int64_t batch, std::int64_t head);
  std::size_t bind_any(const std::vector<Mask>& masks, std::int64_t batch, std::int64_t head);
  void add_child(Kind kind, std::size_t child, std::vector<std::size_t>& children) const;
  std::size_t bind_children(Kind kind, const std::vector<std::size_t>& children);
  std::size_t intern(const std::vector<std::uint64_t>& key, const std::function<Node()>& make);
  bool every_row_full(std::size_t root) const;

  // Evaluation.
  bool range_of(const Node& range, std::int64_t q, Interval& row) const;
  void append_row(const Node& node, std::int64_t q, std::vector<Interval>& out) const;
  void append_combined(const Node& node, std::int64_t q, std::vector<Interval>& out) const;
  void append_sparse_range(const Node& range, std::int64_t q, const Interval& hull,
                           std::vector<Interval>& out) const;
  void write_bits(const Node& node, std::int64_t q, std::uint64_t* words) const;

  Mask mask_;  // keeps the data alive that nodes point to
  Geometry geometry_;
  Keys keys_;
  std::int64_t words_;
  std::int64_t lowest_query_ = 0, highest_query_ = 0;  // positions
  std::vector<Node> nodes_;
  std::vector<std::size_t> children_;
  std::vector<RowTable> tables_;
  std::map<std::vector<std::uint64_t>, std::size_t> interned_;
  std::int64_t batch_stride_ = 0, head_stride_ = 0;
  std::vector<int> variant_of_;
  std::vector<Variant> variants_;
};

}  // namespace attn
