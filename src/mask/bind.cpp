// Binding: from the tree of a Mask and a Geometry to the flat program of a BoundMask.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "mask/bound.h"
#include "mask/fit.h"
#include "mask/tables.h"

namespace attn {
namespace {

using MaskNode = Mask::Node;
// A dense mask that is the same for every query binds to intervals when it has at most this many.
constexpr std::size_t kFewIntervals = 16;

std::uint64_t reach(std::int64_t side, std::int64_t step) {
  std::uint64_t distance = 0;
  if (side < 0 || __builtin_mul_overflow(static_cast<std::uint64_t>(side),
                                         static_cast<std::uint64_t>(step), &distance)) {
    return kUnlimited;
  }
  return distance;
}

struct Dependence {
  bool batch = false, head = false;
};

Dependence dependence(const Mask& mask) {
  Dependence found;
  const auto join = [&](const std::vector<Mask>& masks) {
    for (const Mask& part : masks) {
      const Dependence inner = dependence(part);
      found.batch |= inner.batch;
      found.head |= inner.head;
    }
  };
  const auto& data = mask.node().data;
  if (const auto* padding = std::get_if<MaskNode::Padding>(&data)) {
    found.batch = padding->lengths.size() > 1;
  } else if (const auto* dense = std::get_if<MaskNode::Dense>(&data)) {
    found = {dense->shape[0] > 1, dense->shape[1] > 1};
  } else if (std::holds_alternative<MaskNode::Custom>(data)) {
    found = {true, true};
  } else if (const auto* drawn = std::get_if<MaskNode::DrawnBlocks>(&data)) {
    found.head = drawn->rule.count > 0;
  } else if (const auto* heads = std::get_if<MaskNode::PerHead>(&data)) {
    join(heads->masks);
    found.head = true;
  } else if (const auto* batch = std::get_if<MaskNode::PerBatch>(&data)) {
    join(batch->masks);
    found.batch = true;
  } else if (const auto* all = std::get_if<MaskNode::All>(&data)) {
    join(all->masks);
  } else if (const auto* any = std::get_if<MaskNode::Any>(&data)) {
    join(any->masks);
  }
  return found;
}

std::uint64_t id(const void* address) { return reinterpret_cast<std::uintptr_t>(address); }

}  // namespace

BoundMask::BoundMask(const Mask& mask, const Geometry& geometry)
    : mask_(mask),
      geometry_(checked(geometry)),
      keys_(geometry),
      words_(words_for(geometry.k_len)) {
  check_fits(mask_, geometry_, keys_);
  if (geometry_.q_len > 0 && geometry_.q_positions.empty()) {
    lowest_query_ = geometry_.q_position(0);
    highest_query_ = geometry_.q_position(geometry_.q_len - 1);
  } else if (geometry_.q_len > 0) {
    const auto& q = geometry_.q_positions;
    const auto [low, high] = std::minmax_element(q.begin(), q.end());
    lowest_query_ = *low;
    highest_query_ = *high;
  }
  if (geometry_.batch == 0 || geometry_.heads == 0) return;

  const Dependence depends = dependence(mask_);
  const std::int64_t batches = depends.batch ? geometry_.batch : 1;
  const std::int64_t heads = depends.head ? geometry_.heads : 1;
  batch_stride_ = depends.batch ? heads : 0;
  head_stride_ = depends.head ? 1 : 0;
  const std::int64_t uses = geometry_.batch / batches * (geometry_.heads / heads);
  std::map<std::size_t, int> variant_of_root;
  for (std::int64_t b = 0; b < batches; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::size_t root = bind(mask_, b, h);
      const auto [it, added] = variant_of_root.emplace(root, variants());
      if (added) variants_.push_back({root, every_row_full(root), 0});
      variants_[static_cast<std::size_t>(it->second)].uses += uses;
      variant_of_.push_back(it->second);
    }
  }
  interned_.clear();
}

std::size_t BoundMask::bind(const Mask& mask, std::int64_t batch, std::int64_t head) {
  const MaskNode* key = &mask.node();
  return std::visit(
      [&](const auto& node) -> std::size_t {
        using T = std::decay_t<decltype(node)>;
        Node range;
        range.end = keys_.length();
        if constexpr (std::is_same_v<T, MaskNode::Full>) {
          return bind_range(range);
        } else if constexpr (std::is_same_v<T, MaskNode::Causal>) {
          range.ahead = 0;
          return bind_range(range);
        } else if constexpr (std::is_same_v<T, MaskNode::Window>) {
          range.back = reach(node.left, 1);
          range.ahead = reach(node.right, 1);
          return bind_range(range);
        } else if constexpr (std::is_same_v<T, MaskNode::DilatedWindow>) {
          range.back = reach(node.left, node.step);
          range.ahead = reach(node.right, node.step);
          range.step = node.step;
          return bind_range(range);
        } else if constexpr (std::is_same_v<T, MaskNode::GlobalTokens> ||
                             std::is_same_v<T, MaskNode::Blocks> ||
                             std::is_same_v<T, MaskNode::BlockWindow> ||
                             std::is_same_v<T, MaskNode::GlobalBlocks> ||
                             std::is_same_v<T, MaskNode::Documents>) {
          return bind_table({1, id(key)}, [&] { return table_of(node, geometry_, keys_); });
        } else if constexpr (std::is_same_v<T, MaskNode::DrawnBlocks>) {
          if (node.rule.count == 0) return bind_range(Node{});
          return bind_table({7, id(key), static_cast<std::uint64_t>(head)},
                            [&] { return table_of(node, head, geometry_, keys_); });
        } else if constexpr (std::is_same_v<T, MaskNode::Prefix>) {
          constexpr auto lowest = std::numeric_limits<std::int64_t>::min();
          std::vector<Interval> pieces;
          if (node.n > lowest) keys_.between(lowest, node.n - 1, pieces);
          return bind_list(key, std::move(pieces));
        } else if constexpr (std::is_same_v<T, MaskNode::Padding>) {
          const std::int64_t n =
              node.lengths[node.lengths.size() == 1 ? 0 : static_cast<std::size_t>(batch)];
          range.begin = node.side == PaddingSide::right ? 0 : keys_.length() - n;
          range.end = range.begin + n;
          return bind_range(range);
        } else if constexpr (std::is_same_v<T, MaskNode::Dense>) {
          return bind_dense(node, key, batch, head);
        } else if constexpr (std::is_same_v<T, MaskNode::Custom>) {
          return intern(
              {2, id(key), static_cast<std::uint64_t>(batch), static_cast<std::uint64_t>(head)},
              [&] {
                Node custom;
                custom.kind = Kind::custom;
                custom.structured = false;
                custom.asks = true;
                custom.predicate = &node.f;
                custom.batch = batch;
                custom.head = head;
                return custom;
              });
        } else if constexpr (std::is_same_v<T, MaskNode::PerHead>) {
          return bind(node.masks[static_cast<std::size_t>(head)], batch, head);
        } else if constexpr (std::is_same_v<T, MaskNode::PerBatch>) {
          return bind(node.masks[static_cast<std::size_t>(batch)], batch, head);
        } else if constexpr (std::is_same_v<T, MaskNode::All>) {
          return bind_all(node.masks, batch, head);
        } else {
          return bind_any(node.masks, batch, head);
        }
      },
      mask.node().data);
}

bool BoundMask::is_empty_range(const Node& node) const {
  return node.kind == Kind::range && node.begin >= node.end;
}

bool BoundMask::is_full_range(const Node& node) const {
  return node.kind == Kind::range && node.begin == 0 && node.end == keys_.length() &&
         node.back == kUnlimited && node.ahead == kUnlimited && node.step == 1;
}

// Ranges that select the same keys for every query of the geometry become the same node: a side
// that cuts nothing becomes unlimited, so that causal in decode is simply full.
std::size_t BoundMask::bind_range(Node range) {
  if (range.begin >= range.end && keys_.length() > 0) {
    range = Node{};
  } else if (range.step == 1 && geometry_.q_len > 0) {
    if (range.back != kUnlimited &&
        keys_.below(back_by(highest_query_, range.back)) <= range.begin) {
      range.back = kUnlimited;
    }
    if (range.ahead != kUnlimited &&
        keys_.up_to(forward_by(lowest_query_, range.ahead)) >= range.end) {
      range.ahead = kUnlimited;
    }
  }
  range.stepped = range.step > 1;
  return intern({0, range.back, range.ahead, static_cast<std::uint64_t>(range.begin),
                 static_cast<std::uint64_t>(range.end), static_cast<std::uint64_t>(range.step)},
                [&] { return range; });
}

// The same keys for every query.
std::size_t BoundMask::bind_list(const MaskNode* key, std::vector<Interval> pieces) {
  normalise(pieces);
  if (pieces.size() <= 1) {
    Node range;
    if (!pieces.empty()) {
      range.begin = pieces[0].begin;
      range.end = pieces[0].end;
    }
    return bind_range(range);
  }
  return bind_table({1, id(key)}, [&] {
    RowTable table;
    table.starts.push_back(pieces.size());
    table.intervals = std::move(pieces);
    return table;
  });
}

std::size_t BoundMask::bind_table(std::vector<std::uint64_t> key,
                                  const std::function<RowTable()>& build) {
  return intern(key, [&] {
    Node node;
    node.kind = Kind::table;
    node.table = tables_.size();
    tables_.push_back(build());
    return node;
  });
}

std::size_t BoundMask::bind_dense(const MaskNode::Dense& dense, const MaskNode* key,
                                  std::int64_t batch, std::int64_t head) {
  const std::int64_t b = dense.shape[0] == 1 ? 0 : batch, h = dense.shape[1] == 1 ? 0 : head;
  const std::int64_t row = (b * dense.shape[1] + h) * dense.shape[2];
  if (dense.shape[2] == 1 && keys_.length() > 0) {
    std::vector<Interval> pieces;
    const std::uint64_t* words = dense.words.data() + row * dense.row_words;
    append_runs(words, dense.shape[3], pieces);
    if (dense.shape[3] == 1 && !pieces.empty()) pieces[0].end = keys_.length();
    if (pieces.size() <= 1) return bind_list(key, std::move(pieces));
    if (pieces.size() <= kFewIntervals) {
      return intern({3, id(key), static_cast<std::uint64_t>(row)}, [&] {
        Node node;
        node.kind = Kind::table;
        node.table = tables_.size();
        tables_.push_back({{}, {0, pieces.size()}, pieces});
        return node;
      });
    }
  }
  return intern({4, id(key), static_cast<std::uint64_t>(row)}, [&] {
    Node node;
    node.kind = Kind::dense;
    node.structured = false;
    node.dense = &dense;
    node.dense_row = row;
    return node;
  });
}

// Children of the same operation join their parent's.
void BoundMask::add_child(Kind kind, std::size_t child, std::vector<std::size_t>& children) const {
  const Node& node = nodes_[child];
  if (node.kind != kind) {
    children.push_back(child);
    return;
  }
  for (std::size_t i = 0; i < node.child_count; ++i) {
    children.push_back(children_[node.first_child + i]);
  }
}

std::size_t BoundMask::bind_all(const std::vector<Mask>& masks, std::int64_t batch,
                                std::int64_t head) {
  std::vector<std::size_t> children;
  for (const Mask& mask : masks) add_child(Kind::all, bind(mask, batch, head), children);
  // Ranges share their limits; the first step joins them, further ones stay children.
  std::vector<std::size_t> others;
  std::vector<Node> stepped;
  Node shared;
  shared.end = keys_.length();
  for (const std::size_t child : children) {
    const Node& node = nodes_[child];
    if (node.kind != Kind::range) {
      others.push_back(child);
      continue;
    }
    shared.back = std::min(shared.back, node.back);
    shared.ahead = std::min(shared.ahead, node.ahead);
    shared.begin = std::max(shared.begin, node.begin);
    shared.end = std::min(shared.end, node.end);
    if (node.step > 1) stepped.push_back(node);
  }
  for (const Node& range : stepped) {
    if (shared.step == 1) {
      shared.step = range.step;
    } else if (shared.step != range.step) {
      others.push_back(bind_range(range));
    }
  }
  const std::size_t fused = bind_range(shared);
  if (others.empty() || is_empty_range(nodes_[fused])) return fused;
  if (!is_full_range(nodes_[fused])) others.push_back(fused);
  return bind_children(Kind::all, others);
}

std::size_t BoundMask::bind_any(const std::vector<Mask>& masks, std::int64_t batch,
                                std::int64_t head) {
  std::vector<std::size_t> children;
  for (const Mask& mask : masks) {
    const std::size_t child = bind(mask, batch, head);
    if (is_full_range(nodes_[child])) return child;
    if (!is_empty_range(nodes_[child])) add_child(Kind::any, child, children);
  }
  return children.empty() ? bind_range(Node{}) : bind_children(Kind::any, children);
}

// Children in one order, whatever the order they were written in: predicates and dense masks first,
// since their bits are then combined with intervals in place; ranges last, since they only clip.
std::size_t BoundMask::bind_children(Kind kind, const std::vector<std::size_t>& list) {
  std::vector<std::size_t> children = list;
  const auto rank = [&](std::size_t child) {
    const Node& node = nodes_[child];
    return std::pair(!node.structured                             ? 0
                     : node.kind == Kind::range && node.step == 1 ? 2
                                                                  : 1,
                     child);
  };
  std::sort(children.begin(), children.end(),
            [&](std::size_t a, std::size_t b) { return rank(a) < rank(b); });
  children.erase(std::unique(children.begin(), children.end()), children.end());
  if (children.size() == 1) return children[0];
  std::vector<std::uint64_t> key = {kind == Kind::all ? std::uint64_t{5} : std::uint64_t{6}};
  key.insert(key.end(), children.begin(), children.end());
  return intern(key, [&] {
    Node node;
    node.kind = kind;
    node.first_child = children_.size();
    node.child_count = children.size();
    for (const std::size_t child : children) {
      node.structured = node.structured && nodes_[child].structured;
      node.stepped = node.stepped || nodes_[child].stepped;
      node.asks = node.asks || nodes_[child].asks;
      children_.push_back(child);
    }
    return node;
  });
}

std::size_t BoundMask::intern(const std::vector<std::uint64_t>& key,
                              const std::function<Node()>& make) {
  const auto it = interned_.find(key);
  if (it != interned_.end()) return it->second;
  const std::size_t index = nodes_.size();
  nodes_.push_back(make());
  interned_.emplace(key, index);
  return index;
}

bool BoundMask::every_row_full(std::size_t root) const {
  const Node& node = nodes_[root];
  if (is_full_range(node)) return true;
  if (node.asks) return false;
  Scratch<Interval> row;
  Scratch<std::uint64_t> words;
  words->resize(static_cast<std::size_t>(words_));
  for (std::int64_t q = 0; q < geometry_.q_len; ++q) {
    row->clear();
    if (node.structured) {
      append_row(node, q, *row);
    } else {
      write_bits(node, q, words->data());
      append_runs(words->data(), keys_.length(), *row);
    }
    if (keys_.length() > 0 && (row->size() != 1 || (*row)[0] != Interval{0, keys_.length(), 1})) {
      return false;
    }
  }
  return true;
}

}  // namespace attn
