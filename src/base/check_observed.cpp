#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/checker.h"

namespace attn {

namespace {

constexpr Checker kCheck("attention");

std::int64_t count(const auto& list) { return static_cast<std::int64_t>(list.size()); }

void check_indices(const std::string& what, const std::vector<std::int64_t>& indices,
                   std::int64_t length) {
  for (std::int64_t i : indices) {
    if (i < 0 || i >= length) {
      kCheck.fail(what + " holds " + text(i) + ", must be 0 to " + text(length - 1));
    }
  }
}

void check_top(const AttentionShape& s, const TopKeys& top, DType type) {
  if (top.k == 0 && top.weights.empty() && top.keys.empty()) return;
  if (top.k < 1) kCheck.fail("top.k is " + text(top.k) + ", must be 1 or more");
  kCheck.output("top.weights", top.weights, {s.batch, s.q_heads, s.q_len, top.k}, type);
  if (!top.keys.empty()) {
    kCheck.same("top.keys", count(top.keys), "top", s.batch * s.q_heads * s.q_len * top.k,
                "entries");
  }
}

void check_distances(const DistanceMass& distances, const Shape& shape) {
  if (distances.mass.empty()) return;
  if (distances.bins < 2) {
    kCheck.fail("distances.bins is " + text(distances.bins) + ", must be 2 or more");
  }
  if (distances.step < 1) {
    kCheck.fail("distances.step is " + text(distances.step) + ", must be 1 or more");
  }
  kCheck.output("distances.mass", distances.mass, shape, DType::f64);
}

void check_picture(const AttentionShape& s, const Picture& picture, DType type) {
  if (picture.largest.empty() && picture.mean.empty()) return;
  const auto side = [](const char* queries, std::int64_t begin, std::int64_t end,
                       std::int64_t length, const char* rows, std::int64_t cells) {
    if (begin < 0 || begin >= end || end > length) {
      kCheck.fail(std::string("picture has ") + queries + " " + text(begin) + " to " + text(end) +
                  " of " + text(length));
    }
    if (cells < 1 || cells > end - begin) {
      kCheck.fail(std::string("picture has ") + text(cells) + " " + rows + ", must be 1 to its " +
                  text(end - begin) + " " + queries);
    }
  };
  side("queries", picture.q_begin, picture.q_end, s.q_len, "rows", picture.rows);
  side("keys", picture.k_begin, picture.k_end, s.k_len, "columns", picture.columns);
  const Shape cells = {s.batch, s.q_heads, picture.rows, picture.columns};
  kCheck.output("picture.largest", picture.largest, cells, type);
  kCheck.output("picture.mean", picture.mean, cells, type);
}

}  // namespace

void check_observed(const AttentionShape& shape, const Observed& o) {
  const AttentionShape s = checked_shape(shape);
  const DType type = arithmetic_type(s.dtype);
  const auto rows_of = [&s](std::int64_t width) {
    return Shape{s.batch, s.q_heads, s.q_len, width};
  };
  const auto sums_of = [&s](std::int64_t width) { return Shape{s.batch, s.q_heads, 1, width}; };

  kCheck.output("lse", o.lse, rows_of(1), type);
  kCheck.output("max_logit", o.max_logit, rows_of(1), type);
  kCheck.output("entropy", o.entropy, rows_of(1), type);
  kCheck.output("relative_entropy", o.relative_entropy, rows_of(1), type);
  kCheck.output("max_probability", o.max_probability, rows_of(1), type);
  kCheck.output("mean_variance", o.mean_variance, rows_of(1), type);
  kCheck.output("value_weighted", o.value_weighted, rows_of(1), type);
  kCheck.output("column_mass", o.column_mass, sums_of(s.k_len), DType::f64);
  check_top(s, o.top, type);
  check_distances(o.distances, sums_of(o.distances.bins));
  kCheck.output("offsets.mass", o.offsets.mass, sums_of(count(o.offsets.offsets)), DType::f64);
  kCheck.output("offsets.queries", o.offsets.queries, sums_of(count(o.offsets.offsets)),
                DType::f64);
  kCheck.output("key_sets.mass", o.key_sets.mass, rows_of(count(o.key_sets.sets)), type);
  for (std::size_t i = 0; i < o.key_sets.sets.size(); ++i) {
    check_indices("key_sets.sets[" + std::to_string(i) + "]", o.key_sets.sets[i], s.k_len);
  }
  check_picture(s, o.picture, type);
  check_indices("rows.queries", o.rows.queries, s.q_len);
  kCheck.output("rows.probabilities", o.rows.probabilities,
                {s.batch, s.q_heads, count(o.rows.queries), s.k_len}, type);
}

}  // namespace attn
