// Exact attention as it is defined, one row at a time, in double precision.
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/position.h"
#include "attn/reference.h"
#include "base/check.h"
#include "reference/visible.h"

namespace attn::reference {

namespace {

constexpr double kHidden = -std::numeric_limits<double>::infinity();

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

double element(const ConstTensor& x, std::int64_t b, std::int64_t h, std::int64_t l,
               std::int64_t d) {
  return x.dtype == DType::f64 ? x.row<double>(b, h, l)[d] : double{x.row<float>(b, h, l)[d]};
}

// The row (b, h, l) as double.
std::vector<double> row_of(const ConstTensor& x, std::int64_t b, std::int64_t h, std::int64_t l) {
  std::vector<double> row(at(x.width()));
  for (std::int64_t d = 0; d < x.width(); ++d) row[at(d)] = element(x, b, h, l, d);
  return row;
}

void store(const Tensor& x, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t d,
           double value) {
  if (x.dtype == DType::f64) {
    x.row<double>(b, h, l)[d] = value;
  } else {
    x.row<float>(b, h, l)[d] = static_cast<float>(value);
  }
}

struct Problem {
  AttentionShape shape;
  const AttentionOptions& options;
  ConstTensor q, k;
  Geometry geometry;
  double scale;
  std::vector<float> slopes;  // ALiBi; empty: none

  Problem(const AttentionShape& checked, const AttentionOptions& given, const ConstTensor& queries,
          const ConstTensor& keys)
      : shape(checked), options(given), q(queries), k(keys) {
    geometry = {.batch = shape.batch,
                .heads = shape.q_heads,
                .q_len = shape.q_len,
                .k_len = shape.k_len,
                .query_start = options.query_start,
                .q_positions = options.q_positions,
                .k_positions = options.k_positions};
    const Score& score = options.score;
    scale = score.scale.value_or(1 / std::sqrt(static_cast<double>(shape.width)));
    if (score.alibi_slopes) {
      slopes = score.alibi_slopes->empty() ? alibi_slopes(shape.q_heads) : *score.alibi_slopes;
    }
  }
};

// Everything that is added to the score of a pair.
double additions(const Problem& p, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
  const Score& score = p.options.score;
  const std::int64_t distance = p.geometry.k_position(j) - p.geometry.q_position(i);
  double sum = 0;
  if (!score.bias.empty()) {
    const Shape& n = score.bias.shape;
    sum += element(score.bias, n[0] == 1 ? 0 : b, n[1] == 1 ? 0 : h, n[2] == 1 ? 0 : i,
                   n[3] == 1 ? 0 : j);
  }
  if (!p.slopes.empty()) sum -= p.slopes[at(h)] * std::abs(static_cast<double>(distance));
  if (score.t5) {
    const int bucket =
        t5_bucket(distance, score.t5->bidirectional, score.t5->buckets, score.t5->max_distance);
    sum += score.t5->table[at(bucket * p.shape.q_heads + h)];
  }
  return sum;
}

// The scores of one query, and which keys it sees: all but those that the mask, an addition of
// -infinity or the custom score hides. Hidden keys are never read; their score is -infinity.
std::vector<double> row_scores(const Problem& p, std::int64_t b, std::int64_t h, std::int64_t i,
                               std::vector<bool>& seen) {
  const Score& score = p.options.score;
  const std::int64_t kv_head = h / (p.shape.q_heads / p.shape.kv_heads);
  const std::vector<double> query = row_of(p.q, b, h, i);
  RowVisibility visible(p.options.mask, p.geometry, b, h, i);
  std::vector<double> row(at(p.shape.k_len), kHidden);
  seen.assign(at(p.shape.k_len), false);

  for (std::int64_t j = 0; j < p.shape.k_len; ++j) {
    // 1. The mask hides, and so does an addition of -infinity.
    if (!visible(j)) continue;
    const double added = additions(p, b, h, i, j);
    if (added == kHidden) continue;
    seen[at(j)] = true;
    // 2. Scaled product.
    const std::vector<double> key = row_of(p.k, b, kv_head, j);
    double s = 0;
    for (std::size_t d = 0; d < key.size(); ++d) s += query[d] * key[d];
    s *= p.scale;
    // 3. Soft cap.
    if (score.soft_cap > 0) s = score.soft_cap * std::tanh(s / score.soft_cap);
    // 4. Bias, ALiBi, T5.
    row[at(j)] = s + added;
  }
  // 5. The custom score; what it makes of hidden pairs is ignored.
  if (score.custom && p.shape.k_len > 0) {
    score.custom({.batch = b,
                  .head = h,
                  .q = {&i, 1},
                  .k_begin = 0,
                  .k_count = p.shape.k_len,
                  .stride = p.shape.k_len,
                  .s64 = row.data()});
    for (std::size_t j = 0; j < row.size(); ++j) {
      if (row[j] == kHidden) seen[j] = false;
      if (!seen[j]) row[j] = kHidden;
    }
  }
  return row;
}

// Softmax of one row of scores, in place; returns the log-sum-exp without the sink. A row of
// hidden keys becomes 0 and gives -infinity.
double softmax(std::vector<double>& row, const std::vector<float>& sinks, std::int64_t head) {
  // 1. The largest score, so that no exponential overflows. (A NaN is never the largest, but makes
  //    the sum NaN.)
  double largest = kHidden;
  for (double s : row) {
    if (s > largest) largest = s;
  }
  // 2. Exponentials and their sum.
  double sum = 0;
  bool empty = true;
  for (double& s : row) {
    const bool hidden = s == kHidden;
    s = hidden ? 0 : std::exp(s - largest);
    sum += s;
    empty = empty && hidden;
  }
  if (empty) return kHidden;
  const double lse = largest + std::log(sum);
  // 3. The sink takes its share of the denominator, e^sink / (e^lse + e^sink).
  const double rest = sinks.empty() ? 1 : 1 / (1 + std::exp(sinks[at(head)] - lse));
  for (double& s : row) s = s / sum * rest;
  return lse;
}

}  // namespace

void attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const Tensor& out,
               const AttentionOptions& options, const Observed& observed) {
  const AttentionShape shape = AttentionShape::of(q, k, v);
  check_options(shape, options);
  check_output(shape, out);
  check_observed(shape, observed);
  const Problem problem(shape, options, q, k);

  for (std::int64_t b = 0; b < shape.batch; ++b) {
    for (std::int64_t h = 0; h < shape.q_heads; ++h) {
      const std::int64_t kv_head = h / (shape.q_heads / shape.kv_heads);
      for (std::int64_t i = 0; i < shape.q_len; ++i) {
        // 1. Scores, and from them probabilities.
        std::vector<bool> seen;
        std::vector<double> row = row_scores(problem, b, h, i, seen);
        const double lse = softmax(row, options.score.sinks, h);
        // 2. The mean of the values by probability; a hidden value is never read.
        std::vector<double> sum(at(shape.v_width), 0.0);
        for (std::int64_t j = 0; j < shape.k_len; ++j) {
          if (!seen[at(j)]) continue;
          const std::vector<double> value = row_of(v, b, kv_head, j);
          for (std::size_t d = 0; d < sum.size(); ++d) sum[d] += row[at(j)] * value[d];
        }
        for (std::int64_t d = 0; d < shape.v_width; ++d) store(out, b, h, i, d, sum[at(d)]);
        if (!observed.lse.empty()) store(observed.lse, b, h, i, 0, lse);
      }
    }
  }
}

void weights(const ConstTensor& q, const ConstTensor& k, const AttentionOptions& options,
             const Tensor& out) {
  const AttentionShape shape = AttentionShape::of(q, k, k);
  check_options(shape, options);
  const Shape expected = {shape.batch, shape.q_heads, shape.q_len, shape.k_len};
  if (out.dtype != DType::f64 || out.shape != expected ||
      (out.width() > 1 && out.strides[3] != 1) || (out.empty() && out.size() > 0)) {
    throw std::invalid_argument("[weights] out is " + std::string(name(out.dtype)) + " " +
                                to_string(out.shape) + ", must be float64 " + to_string(expected) +
                                " with contiguous rows");
  }
  const Problem problem(shape, options, q, k);

  for (std::int64_t b = 0; b < shape.batch; ++b) {
    for (std::int64_t h = 0; h < shape.q_heads; ++h) {
      for (std::int64_t i = 0; i < shape.q_len; ++i) {
        std::vector<bool> seen;
        std::vector<double> row = row_scores(problem, b, h, i, seen);
        softmax(row, options.score.sinks, h);
        for (std::int64_t j = 0; j < shape.k_len; ++j) store(out, b, h, i, j, row[at(j)]);
      }
    }
  }
}

}  // namespace attn::reference
