#include "inspect/layer_rows.h"

#include <cstdlib>
#include <limits>

#include "attn/attention.h"
#include "inspect/rows.h"

namespace attn::inspect {

namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// The bias in double precision, without strides; empty when there is none.
std::vector<double> dense_bias(const ConstTensor& bias) {
  std::vector<double> out;
  if (bias.empty()) return out;
  const Shape& s = bias.shape;
  for (std::int64_t h = 0; h < s[1]; ++h) {
    for (std::int64_t q = 0; q < s[2]; ++q) {
      for (std::int64_t k = 0; k < s[3]; ++k) out.push_back(bias_at(bias, h, q, k));
    }
  }
  return out;
}

// Answers of queries, keys and scores.
void attend(const AttentionRecord& record, const LayerRecord& l, const Observed& observed,
            const Context& context) {
  const Geometry g = geometry(record);
  AttentionOptions options{.mask = l.mask, .score = l.score};
  const std::vector<double> bias = dense_bias(l.score.bias);
  if (!bias.empty()) options.score.bias = {bias.data(), l.score.bias.shape};
  options.score.scale = scale_of(l.score, record.width);
  const std::vector<double> q(l.q.begin(), l.q.end()), k(l.k.begin(), l.k.end()),
      v(static_cast<std::size_t>(record.kv_heads * g.k_len));
  std::vector<double> out(static_cast<std::size_t>(g.heads * g.q_len));
  attention({q.data(), Shape{1, g.heads, g.q_len, record.width}},
            {k.data(), Shape{1, record.kv_heads, g.k_len, record.width}},
            {v.data(), Shape{1, record.kv_heads, g.k_len, 1}},
            {out.data(), Shape{1, g.heads, g.q_len, 1}}, options, context, observed);
}

}  // namespace

LayerRows layer_rows(const AttentionRecord& record, std::size_t layer, const Context& context,
                     const LayerQuestions& questions) {
  const LayerRecord& l = record.layers[layer];
  const Geometry g = geometry(record);
  const std::int64_t n = g.q_len, keys = g.k_len, heads = g.heads,
                     queries = static_cast<std::int64_t>(questions.queries.size());
  const auto numbers = [](std::int64_t count) {
    return std::vector<double>(static_cast<std::size_t>(count));
  };
  std::vector<std::int64_t> special, plain;
  for (std::int64_t t = 0; t < keys; ++t)
    (record.key_tokens()[static_cast<std::size_t>(t)].special ? special : plain).push_back(t);
  std::vector<double> offsets(static_cast<std::size_t>(heads * 3), kNone),
      distances(static_cast<std::size_t>(heads * 2 * n), kNone), sets = numbers(heads * n * 3);
  LayerRows rows;
  Observed observed;
  const Shape row_shape{1, heads, n, 1};
  const auto row = [&](std::vector<double>& values) {
    values = numbers(heads * n);
    return Tensor(values.data(), row_shape);
  };
  observed.lse = row(rows.lse);
  observed.entropy = row(rows.entropy);
  observed.relative_entropy = row(rows.relative_entropy);
  observed.max_probability = row(rows.max_probability);
  if (!record.is_cross()) {
    observed.offsets = {.offsets = {1, 0, -1}, .mass = {offsets.data(), Shape{1, heads, 1, 3}}};
    observed.distances = {.first = 1 - n,
                          .step = 1,
                          .bins = 2 * n,
                          .mass = {distances.data(), Shape{1, heads, 1, 2 * n}}};
  }
  observed.key_sets = {.sets = {{0}, special, plain}, .mass = {sets.data(), Shape{1, heads, n, 3}}};
  if (questions.rows > 0) {
    rows.picture = numbers(heads * questions.rows * questions.columns);
    observed.picture = {
        .q_end = n,
        .k_end = keys,
        .rows = questions.rows,
        .columns = questions.columns,
        .mean = {rows.picture.data(), Shape{1, heads, questions.rows, questions.columns}}};
  }
  if (queries > 0) {
    rows.exact = numbers(heads * queries * keys);
    observed.rows = {.queries = questions.queries,
                     .probabilities = {rows.exact.data(), Shape{1, heads, queries, keys}}};
  }
  if (l.implied)
    l.implied->observe(observed, context);
  else
    attend(record, l, observed, context);

  for (std::int64_t h = 0; h < heads; ++h) {
    const double* const offset = offsets.data() + h * 3;
    rows.previous.push_back(offset[0]);
    rows.self.push_back(offset[1]);
    rows.next.push_back(offset[2]);
    double distance = 0;  // bin i holds the distance i - n
    for (std::int64_t i = 1; i < 2 * n; ++i) {
      distance +=
          distances[static_cast<std::size_t>(h * 2 * n + i)] * static_cast<double>(std::abs(i - n));
    }
    rows.distance.push_back(distance);
    for (std::int64_t t = 0; t < n; ++t) {
      const double* const set = sets.data() + (h * n + t) * 3;
      rows.first.push_back(set[0]);
      rows.special.push_back(set[1]);
      rows.plain.push_back(set[2]);
    }
  }
  return rows;
}

}  // namespace attn::inspect
