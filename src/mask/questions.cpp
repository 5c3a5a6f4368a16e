// Exact answers of Mask, row by row through a BoundMask.
#include <bit>
#include <stdexcept>
#include <string>

#include "attn/mask.h"
#include "mask/bound.h"

namespace attn {
namespace {

void check_index(const char* name, std::int64_t index, std::int64_t extent) {
  if (index < 0 || index >= extent) {
    throw std::invalid_argument("[mask] " + std::string(name) + " " + std::to_string(index) +
                                " is outside 0.." + std::to_string(extent - 1));
  }
}

void check_pair(const Geometry& geometry, std::int64_t batch, std::int64_t head) {
  check_index("batch", batch, geometry.batch);
  check_index("head", head, geometry.heads);
}

bool later_key(const BoundMask& bound, std::int64_t q, const std::vector<Interval>& row) {
  if (row.empty()) return false;
  const std::int64_t position = bound.geometry().q_position(q);
  if (bound.keys().increasing()) return bound.keys().position(row.back().end - 1) > position;
  for (const Interval& interval : row) {
    for (std::int64_t j = interval.begin; j < interval.end; j += interval.step) {
      if (bound.keys().position(j) > position) return true;
    }
  }
  return false;
}

}  // namespace

std::int64_t Mask::pairs(const Geometry& geometry) const {
  const BoundMask bound(*this, geometry);
  Scratch<Interval> row;
  Scratch<std::uint64_t> words;
  words->resize(static_cast<std::size_t>(words_for(geometry.k_len)));
  std::int64_t total = 0;
  for (int variant = 0; variant < bound.variants(); ++variant) {
    std::int64_t visible = 0;
    if (bound.full(variant)) {
      visible = geometry.q_len * geometry.k_len;
    } else if (bound.structured(variant)) {
      for (std::int64_t q = 0; q < geometry.q_len; ++q) {
        row->clear();
        bound.row_intervals(variant, q, *row);
        for (const Interval& interval : *row) visible += count(interval);
      }
    } else {
      for (std::int64_t q = 0; q < geometry.q_len; ++q) {
        bound.row_bits(variant, q, words->data());
        for (const std::uint64_t word : *words) visible += std::popcount(word);
      }
    }
    total += visible * bound.uses(variant);
  }
  return total;
}

std::vector<std::int64_t> Mask::empty_rows(const Geometry& geometry, std::int64_t batch,
                                           std::int64_t head) const {
  const BoundMask bound(*this, geometry);
  check_pair(geometry, batch, head);
  const int variant = bound.variant(batch, head);
  std::vector<std::int64_t> empty;
  Scratch<Interval> row;
  for (std::int64_t q = 0; q < geometry.q_len; ++q) {
    row->clear();
    bound.row(variant, q, *row);
    if (row->empty()) empty.push_back(q);
  }
  return empty;
}

bool Mask::sees_future(const Geometry& geometry) const {
  const BoundMask bound(*this, geometry);
  Scratch<Interval> row;
  for (int variant = 0; variant < bound.variants(); ++variant) {
    for (std::int64_t q = 0; q < geometry.q_len; ++q) {
      row->clear();
      bound.row(variant, q, *row);
      if (later_key(bound, q, *row)) return true;
    }
  }
  return false;
}

bool Mask::visible(const Geometry& geometry, std::int64_t batch, std::int64_t head, std::int64_t q,
                   std::int64_t k) const {
  check_index("k", k, geometry.k_len);
  for (const Interval& interval : row(geometry, batch, head, q)) {
    if (k < interval.end) return k >= interval.begin && (k - interval.begin) % interval.step == 0;
  }
  return false;
}

std::vector<Interval> Mask::row(const Geometry& geometry, std::int64_t batch, std::int64_t head,
                                std::int64_t q) const {
  const BoundMask bound(*this, geometry);
  check_pair(geometry, batch, head);
  check_index("q", q, geometry.q_len);
  std::vector<Interval> intervals;
  bound.row(bound.variant(batch, head), q, intervals);
  return intervals;
}

}  // namespace attn
