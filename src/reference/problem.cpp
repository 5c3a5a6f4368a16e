// A row of scores and probabilities as they are defined, in double precision.
#include "reference/problem.h"

#include <cmath>
#include <limits>

#include "attn/position.h"
#include "base/check.h"
#include "reference/visible.h"

namespace attn::reference {

namespace {

constexpr double kHidden = -std::numeric_limits<double>::infinity();

// Softmax of the row's scores.
void fill_probabilities(Row& row, double sink) {
  // 1. The largest score, so that no exponential overflows. (A NaN is never the largest, but makes
  //    the sums NaN.)
  row.largest = kHidden;
  bool empty = true;
  for (double s : row.score) {
    if (s > row.largest) row.largest = s;
    empty = empty && s == kHidden;
  }
  row.lse = kHidden;
  row.sink_log_p = kHidden;
  row.log_p.assign(row.score.size(), kHidden);
  row.p.assign(row.score.size(), 0.0);
  if (empty) return;
  // 2. The log-sum-exp knows no sink,
  double sum = 0;
  for (double s : row.score) sum += s == kHidden ? 0 : std::exp(s - row.largest);
  row.lse = row.largest + std::log(sum);
  // 3. the denominator does. ln p is taken relative to the largest entry: lse - s would cancel.
  const double top = std::max(row.largest, sink);
  double total = sink == kHidden ? 0 : std::exp(sink - top);
  for (double s : row.score) total += s == kHidden ? 0 : std::exp(s - top);
  for (std::size_t j = 0; j < row.score.size(); ++j) {
    if (row.score[j] == kHidden) continue;
    row.log_p[j] = row.score[j] - top - std::log(total);
    row.p[j] = std::exp(row.score[j] - top) / total;
  }
  if (sink == kHidden) return;
  row.sink_log_p = sink - top - std::log(total);
  row.sink_p = std::exp(sink - top) / total;
}

}  // namespace

double element(const ConstTensor& x, std::int64_t b, std::int64_t h, std::int64_t l,
               std::int64_t d) {
  switch (x.dtype) {
    case DType::f32: return double{x.row<float>(b, h, l)[d]};
    case DType::f64: return x.row<double>(b, h, l)[d];
    case DType::bf16: return double{to_float(x.row<BFloat16>(b, h, l)[d])};
    case DType::f16: return double{to_float(x.row<Float16>(b, h, l)[d])};
    case DType::i8: return x.row<std::int8_t>(b, h, l)[d];
  }
  return 0;
}

void store(const Tensor& x, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t d,
           double value) {
  const auto narrow = static_cast<float>(value);
  switch (x.dtype) {
    case DType::f32: x.row<float>(b, h, l)[d] = narrow; break;
    case DType::f64: x.row<double>(b, h, l)[d] = value; break;
    case DType::bf16: x.row<BFloat16>(b, h, l)[d] = to_bfloat16(narrow); break;
    case DType::f16: x.row<Float16>(b, h, l)[d] = to_float16(narrow); break;
    case DType::i8: break;  // refused when arguments are checked
  }
}

std::vector<double> row_of(const ConstTensor& x, std::int64_t b, std::int64_t h, std::int64_t l) {
  std::vector<double> row(at(x.width()));
  for (std::int64_t d = 0; d < x.width(); ++d) row[at(d)] = element(x, b, h, l, d);
  return row;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
  return sum;
}

double Row::entropy() const {
  // p ln p is 0 for what weighs nothing.
  double sum = sink_p == 0 ? 0 : sink_p * sink_log_p;
  for (std::size_t j = 0; j < p.size(); ++j) sum += p[j] == 0 ? 0 : p[j] * log_p[j];
  return -sum;
}

Problem::Problem(const AttentionShape& checked, const AttentionOptions& options,
                 const ConstTensor& q, const KeyValue& kv)
    : shape_(checked), options_(options), q_(q), kv_(kv), dropout_(options.dropout) {
  const Score& score = options.score;
  scale_ = score.scale.value_or(1 / std::sqrt(static_cast<double>(shape_.width)));
  if (score.alibi_slopes) {
    slopes_ = score.alibi_slopes->empty() ? alibi_slopes(shape_.q_heads) : *score.alibi_slopes;
  }
  list_sequences();
}

void Problem::list_sequences() {
  const Ragged& ragged = options_.ragged;
  const Dropout& dropout = options_.dropout;
  const std::int64_t count = sequence_count(shape_, options_);
  for (std::int64_t i = 0; i < count; ++i) {
    Sequence s;
    s.index = i;
    s.tensor = i;
    s.stream = dropout.offset +
               (dropout.streams.empty() ? static_cast<std::uint32_t>(i) : dropout.streams[at(i)]);
    s.geometry = {.batch = count,
                  .heads = shape_.q_heads,
                  .q_len = shape_.q_len,
                  .k_len = shape_.k_len,
                  .query_start = options_.query_start,
                  .q_positions = options_.q_positions,
                  .k_positions = options_.k_positions};
    if (!ragged.q_offsets.empty()) {
      s.tensor = 0;
      s.q_begin = ragged.q_offsets[at(i)];
      s.k_begin = ragged.k_offsets[at(i)];
      s.geometry.q_len = ragged.q_offsets[at(i) + 1] - s.q_begin;
      s.geometry.k_len = ragged.k_offsets[at(i) + 1] - s.k_begin;
      if (!ragged.query_starts.empty()) s.geometry.query_start = ragged.query_starts[at(i)];
    }
    sequences_.push_back(std::move(s));
  }
}

std::vector<double> Problem::query(const Sequence& s, std::int64_t head, std::int64_t i) const {
  return row_of(q_, s.tensor, head, s.q_begin + i);
}

std::int64_t Problem::place(const Sequence& s, std::int64_t j) const {
  if (kv_.pages == nullptr) return s.k_begin + j;
  // The last run that begins at or before key j.
  std::int64_t run = kv_.pages->run_begin[at(s.index)];
  const std::int64_t end = kv_.pages->run_begin[at(s.index) + 1];
  while (run + 1 < end && kv_.pages->runs[at(run) + 1].begin <= j) ++run;
  return kv_.pages->runs[at(run)].row + j - kv_.pages->runs[at(run)].begin;
}

std::vector<double> Problem::key(const Sequence& s, std::int64_t kv_head, std::int64_t j) const {
  const std::int64_t b = kv_.pages == nullptr ? s.tensor : 0, row = place(s, j);
  std::vector<double> key(at(shape_.width));
  for (std::int64_t d = 0; d < shape_.width; ++d) {
    if (kv_.k_panel == 0) {
      key[at(d)] = element(kv_.k, b, kv_head, row, d);
    } else {  // in panels [rows / k_panel][width][k_panel]
      const std::int64_t panel = row / kv_.k_panel * kv_.k_panel;
      key[at(d)] = element(kv_.k, b, kv_head, panel, d * kv_.k_panel + row - panel);
    }
  }
  if (kv_.k.dtype == DType::i8) {
    for (double& x : key) x *= element(kv_.k_scale, b, kv_head, row, 0);
  }
  if (kv_.rotation != nullptr) {
    const KeyRotation& r = *kv_.rotation;
    const std::int64_t turn = (r.first_row != nullptr ? r.first_row[s.index] : 0) + j;
    for (std::int64_t i = 0; i < r.width / 2; ++i) {
      double& x = key[at(r.interleaved ? 2 * i : i)];
      double& y = key[at(r.interleaved ? 2 * i + 1 : i + r.width / 2)];
      const double c = r.cosines[turn * r.width / 2 + i], n = r.sines[turn * r.width / 2 + i];
      const double old = x;
      x = old * c - y * n;
      y = old * n + y * c;
    }
  }
  return key;
}

std::vector<double> Problem::value(const Sequence& s, std::int64_t kv_head, std::int64_t j) const {
  const std::int64_t b = kv_.pages == nullptr ? s.tensor : 0, row = place(s, j);
  std::vector<double> value = row_of(kv_.v, b, kv_head, row);
  if (kv_.v.dtype == DType::i8) {
    for (double& x : value) x *= element(kv_.v_scale, b, kv_head, row, 0);
  }
  return value;
}

// Everything that is added to the score of a pair.
double Problem::additions(const Sequence& s, std::int64_t head, std::int64_t i,
                          std::int64_t j) const {
  const Score& score = options_.score;
  const std::int64_t distance = s.geometry.k_position(j) - s.geometry.q_position(i);
  double sum = 0;
  if (!score.bias.empty()) {
    const Shape& n = score.bias.shape;
    sum += element(score.bias, n[0] == 1 ? 0 : s.index, n[1] == 1 ? 0 : head, n[2] == 1 ? 0 : i,
                   n[3] == 1 ? 0 : j);
  }
  if (!slopes_.empty()) sum -= slopes_[at(head)] * std::abs(static_cast<double>(distance));
  if (score.t5) {
    const int bucket =
        t5_bucket(distance, score.t5->bidirectional, score.t5->buckets, score.t5->max_distance);
    sum += score.t5->table[at(bucket * shape_.q_heads + head)];
  }
  return sum;
}

Row Problem::row(const Sequence& s, std::int64_t head, std::int64_t i) const {
  const Score& score = options_.score;
  const std::int64_t keys = s.geometry.k_len;
  const std::vector<double> q = query(s, head, i);
  RowVisibility visible(options_.mask, s.geometry, s.index, head, i);
  Row row;
  row.seen.assign(at(keys), false);
  row.product.assign(at(keys), kHidden);
  row.given.assign(at(keys), kHidden);

  for (std::int64_t j = 0; j < keys; ++j) {
    // 1. The mask hides, and so does an addition of -infinity.
    if (!visible(j)) continue;
    const double added = additions(s, head, i, j);
    if (added == kHidden) continue;
    row.seen[at(j)] = true;
    // 2. Scaled product.
    double x = scale_ * dot(q, key(s, kv_head(head), j));
    row.product[at(j)] = x;
    // 3. Soft cap.
    if (score.soft_cap > 0) x = score.soft_cap * std::tanh(x / score.soft_cap);
    // 4. Bias, ALiBi, T5.
    row.given[at(j)] = x + added;
  }
  // 5. The custom score; what it makes of hidden pairs is ignored.
  row.score = row.given;
  if (score.custom && keys > 0) {
    score.custom({.batch = s.index,
                  .head = head,
                  .q = {&i, 1},
                  .k_begin = 0,
                  .k_count = keys,
                  .stride = keys,
                  .s64 = row.score.data()});
    for (std::size_t j = 0; j < row.score.size(); ++j) {
      if (row.score[j] == kHidden) row.seen[j] = false;
      if (!row.seen[j]) row.score[j] = kHidden;
    }
  }
  // 6. Softmax, with the sink.
  fill_probabilities(row, score.sinks.empty() ? kHidden : double{score.sinks[at(head)]});
  // 7. Dropout.
  row.weight = row.p;
  if (dropout_.active()) {
    for (std::int64_t j = 0; j < keys; ++j) {
      row.weight[at(j)] *= keeps(s, head, i, j) ? dropout_.scale() : 0.0;
    }
  }
  return row;
}

}  // namespace attn::reference
