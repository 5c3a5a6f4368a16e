// Every question that needs a second pass, with places for the answers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "attention/cases.h"
#include "attn/observe.h"

namespace attn::test {

template <class T>
struct Answers {
  AttentionShape shape;
  std::int64_t k = 5;
  std::int64_t first = -40, step = 7, bins = 30;
  std::vector<std::int64_t> offsets = {1, 0, -3, 100, 17, 1};
  std::vector<std::vector<std::int64_t>> sets = {{}, {}, {}};
  std::vector<std::int64_t> rows;
  Picture picture;

  std::vector<double> column_mass, distances, offset_mass, offset_queries;
  std::vector<T> top_weights, in_sets, largest, mean, exact, value_weighted;
  std::vector<std::int32_t> top_keys;

  explicit Answers(const AttentionShape& s) : shape(s) {
    for (std::int64_t j = 0; j < s.k_len; j += 3 + s.k_len / 99) sets[0].push_back(j);
    if (s.k_len > 0) sets[1] = {s.k_len - 1, 0, s.k_len - 1};
    if (s.q_len > 0) rows = {s.q_len - 1, 0, s.q_len / 2, 0};
    picture = {s.q_len / 5, s.q_len, s.k_len / 7, s.k_len - s.k_len / 9, 0, 0};
    picture.rows = std::min<std::int64_t>(9, picture.q_end - picture.q_begin);
    picture.columns = std::min<std::int64_t>(13, picture.k_end - picture.k_begin);
    const std::int64_t heads = s.batch * s.q_heads;
    const auto size = [heads](auto& x, std::int64_t each) {
      x.assign(static_cast<std::size_t>(heads * each), 77);
    };
    size(column_mass, s.k_len);
    size(distances, bins);
    size(offset_mass, std::ssize(offsets));
    size(offset_queries, std::ssize(offsets));
    size(top_weights, s.q_len * k);
    size(top_keys, s.q_len * k);
    size(in_sets, s.q_len * std::ssize(sets));
    size(largest, picture.rows * picture.columns);
    size(mean, picture.rows * picture.columns);
    size(exact, std::ssize(rows) * s.k_len);
    size(value_weighted, s.q_len);
  }

  template <class X>
  Tensor tensor(std::vector<X>& x, std::int64_t length, std::int64_t width) const {
    return {x.data(), Shape{shape.batch, shape.q_heads, length, width}};
  }

  Observed observed() {
    Observed o;
    for (const Observed& one : one_by_one()) {
      if (!one.column_mass.empty()) o.column_mass = one.column_mass;
      if (!one.top.weights.empty()) o.top = one.top;
      if (!one.distances.mass.empty()) o.distances = one.distances;
      if (!one.offsets.mass.empty()) o.offsets = one.offsets;
      if (!one.key_sets.mass.empty()) o.key_sets = one.key_sets;
      if (!one.picture.mean.empty()) o.picture = one.picture;
      if (!one.rows.probabilities.empty()) o.rows = one.rows;
      if (!one.value_weighted.empty()) o.value_weighted = one.value_weighted;
    }
    return o;
  }

  std::vector<Observed> one_by_one() {
    std::vector<Observed> all(8);
    all[0].column_mass = tensor(column_mass, 1, shape.k_len);
    all[1].top = {k, tensor(top_weights, shape.q_len, k), top_keys};
    all[2].distances = {first, step, bins, tensor(distances, 1, bins)};
    all[3].offsets = {offsets, tensor(offset_mass, 1, std::ssize(offsets)),
                      tensor(offset_queries, 1, std::ssize(offsets))};
    all[4].key_sets = {sets, tensor(in_sets, shape.q_len, std::ssize(sets))};
    if (picture.rows > 0 && picture.columns > 0) {
      all[5].picture = picture;
      all[5].picture.largest = tensor(largest, picture.rows, picture.columns);
      all[5].picture.mean = tensor(mean, picture.rows, picture.columns);
    }
    all[6].rows = {rows, tensor(exact, std::ssize(rows), shape.k_len)};
    all[7].value_weighted = tensor(value_weighted, shape.q_len, 1);
    return all;
  }

  // The first list of answers whose bits differ; "" if none does.
  std::string difference(const Answers& other) const {
    if (!same_bits(column_mass, other.column_mass)) return "column mass";
    if (!same_bits(distances, other.distances)) return "distances";
    if (!same_bits(offset_mass, other.offset_mass)) return "offset mass";
    if (!same_bits(offset_queries, other.offset_queries)) return "offset queries";
    if (!same_bits(top_weights, other.top_weights)) return "top weights";
    if (top_keys != other.top_keys) return "top keys";
    if (!same_bits(in_sets, other.in_sets)) return "key sets";
    if (!same_bits(largest, other.largest)) return "largest of cells";
    if (!same_bits(mean, other.mean)) return "mean of cells";
    if (!same_bits(exact, other.exact)) return "exact rows";
    if (!same_bits(value_weighted, other.value_weighted)) return "value-weighted norms";
    return "";
  }
};

}  // namespace attn::test
