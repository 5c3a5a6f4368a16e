// Evaluation of a bound mask: one row as intervals or as bits.
#include "mask/bound.h"

#include <algorithm>
#include <utility>

#include "mask/node.h"

namespace attn {

void BoundMask::row_intervals(int variant, std::int64_t q, std::vector<Interval>& out) const {
  append_row(nodes_[at(variant).root], q, out);
}

void BoundMask::row_bits(int variant, std::int64_t q, std::uint64_t* words) const {
  write_bits(nodes_[at(variant).root], q, words);
}

void BoundMask::row(int variant, std::int64_t q, std::vector<Interval>& out) const {
  const Node& root = nodes_[at(variant).root];
  if (root.structured) return append_row(root, q, out);
  Scratch<std::uint64_t> words;
  words->resize(static_cast<std::size_t>(words_));
  write_bits(root, q, words->data());
  append_runs(words->data(), keys_.length(), out);
}

// The hull of a range in row q; false when it is empty.
bool BoundMask::range_of(const Node& range, std::int64_t q, Interval& row) const {
  std::int64_t begin = range.begin, end = range.end;
  const std::int64_t position = geometry_.q_position(q);
  if (range.back != kUnlimited) begin = std::max(begin, keys_.below(back_by(position, range.back)));
  if (range.ahead != kUnlimited) {
    end = std::min(end, keys_.up_to(forward_by(position, range.ahead)));
  }
  row = {begin, end, 1};
  if (range.step > 1 && keys_.consecutive() && begin < end) {
    const std::int64_t phase =
        floor_mod(position, range.step) - floor_mod(keys_.position(begin), range.step);
    const std::int64_t skip = phase < 0 ? phase + range.step : phase;
    if (skip >= end - begin) return false;
    row = clip({begin + skip, end, range.step}, begin + skip, end);
  }
  return row.begin < row.end;
}

// A dilated window over keys that are not evenly spaced: the keys one by one.
void BoundMask::append_sparse_range(const Node& range, std::int64_t q, const Interval& hull,
                                    std::vector<Interval>& out) const {
  const std::size_t first = out.size();
  const std::int64_t phase = floor_mod(geometry_.q_position(q), range.step);
  for (std::int64_t j = hull.begin; j < hull.end; ++j) {
    if (floor_mod(keys_.position(j), range.step) == phase) append(out, first, {j, j + 1, 1});
  }
}

void BoundMask::append_row(const Node& node, std::int64_t q, std::vector<Interval>& out) const {
  switch (node.kind) {
    case Kind::range: {
      Interval row;
      if (!range_of(node, q, row)) return;
      if (node.step == 1 || keys_.consecutive()) {
        out.push_back(row);
      } else {
        append_sparse_range(node, q, row, out);
      }
      return;
    }
    case Kind::table: {
      const RowTable& table = tables_[node.table];
      const std::size_t list =
          table.list_of_row.empty() ? 0 : table.list_of_row[static_cast<std::size_t>(q)];
      const auto begin = table.intervals.begin();
      out.insert(out.end(), begin + static_cast<std::ptrdiff_t>(table.starts[list]),
                 begin + static_cast<std::ptrdiff_t>(table.starts[list + 1]));
      return;
    }
    case Kind::all:
    case Kind::any: return append_combined(node, q, out);
    case Kind::dense:
    case Kind::custom: return;  // no intervals: such variants are not structured
  }
}

void BoundMask::append_combined(const Node& node, std::int64_t q,
                                std::vector<Interval>& out) const {
  const auto child = [&](std::size_t i) -> const Node& {
    return nodes_[children_[node.first_child + i]];
  };
  const auto combine = node.kind == Kind::all ? intersect : unite;
  const std::size_t first = out.size();
  // In `all`, a plain range comes last and clips what the others leave.
  const Node& last = child(node.child_count - 1);
  const bool clips = node.kind == Kind::all && last.kind == Kind::range && last.step == 1;
  const std::size_t combined = node.child_count - (clips ? 1 : 0);
  if (combined == 1) {
    append_row(child(0), q, out);
  } else {
    Scratch<Interval> so_far, other;
    append_row(child(0), q, *so_far);
    for (std::size_t i = 1; i < combined; ++i) {
      other->clear();
      append_row(child(i), q, *other);
      if (i + 1 == combined) {
        combine(*so_far, *other, out);
      } else {
        Scratch<Interval> next;
        combine(*so_far, *other, *next);
        std::swap(*so_far, *next);
      }
    }
  }
  if (clips) {
    Interval kept;
    if (!range_of(last, q, kept)) kept = {};
    clip_row(out, first, kept.begin, kept.end);
  }
}

void BoundMask::write_bits(const Node& node, std::int64_t q, std::uint64_t* words) const {
  const auto width = static_cast<std::size_t>(words_);
  if (node.structured) {
    Scratch<Interval> row;
    append_row(node, q, *row);
    std::fill_n(words, width, std::uint64_t{0});
    for (const Interval& interval : *row) set_bits(interval, words);
    return;
  }
  switch (node.kind) {
    case Kind::dense: {
      const Mask::Node::Dense& dense = *node.dense;
      const std::int64_t row = node.dense_row + (dense.shape[2] == 1 ? 0 : q);
      const std::uint64_t* source = dense.words.data() + row * dense.row_words;
      if (dense.shape[3] == keys_.length()) {
        std::copy_n(source, width, words);
      } else {  // one column, which stands for every key
        std::fill_n(words, width, std::uint64_t{0});
        if ((*source & 1) != 0) set_bits({0, keys_.length(), 1}, words);
      }
      return;
    }
    case Kind::custom: {
      Scratch<std::uint8_t> visible;
      visible->assign(static_cast<std::size_t>(keys_.length()), 0);
      (*node.predicate)(node.batch, node.head, q, *visible);
      std::fill_n(words, width, std::uint64_t{0});
      for (std::size_t j = 0; j < visible->size(); ++j) {
        words[j / 64] |= std::uint64_t{(*visible)[j] != 0} << (j % 64);
      }
      return;
    }
    case Kind::all:
    case Kind::any: {
      const bool all = node.kind == Kind::all;
      write_bits(nodes_[children_[node.first_child]], q, words);
      for (std::size_t i = 1; i < node.child_count; ++i) {
        const Node& child = nodes_[children_[node.first_child + i]];
        if (child.structured && (!all || !child.stepped)) {
          Scratch<Interval> row;
          append_row(child, q, *row);
          std::int64_t hidden = 0;
          for (const Interval& interval : *row) {
            if (all) {
              clear_bits(hidden, interval.begin, words);
              hidden = interval.end;
            } else {
              set_bits(interval, words);
            }
          }
          if (all) clear_bits(hidden, keys_.length(), words);
          continue;
        }
        Scratch<std::uint64_t> other;
        other->resize(width);
        write_bits(child, q, other->data());
        for (std::size_t w = 0; w < width; ++w) {
          words[w] = all ? words[w] & (*other)[w] : words[w] | (*other)[w];
        }
      }
      return;
    }
    case Kind::range:
    case Kind::table: return;  // always structured
  }
}

}  // namespace attn
