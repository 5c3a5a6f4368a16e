// What the oracle observes, against formulas over the whole matrix of probabilities.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "attention/cases.h"
#include "attn/reference.h"

namespace attn::test {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// A place for every answer, float64, filled with what must be overwritten.
struct Answers {
  AttentionShape shape;
  std::vector<double> lse, max_logit, entropy, relative, max_p, variance, norms, columns, top,
      distances, offsets, offset_queries, sets, largest, mean, rows;
  std::vector<std::int32_t> top_keys;
  Observed questions;

  explicit Answers(const AttentionShape& s) : shape(s) {
    const auto tensor = [&](std::vector<double>& x, std::int64_t length, std::int64_t width) {
      x.assign(at(s.batch * s.q_heads * length * width), 77);
      return Tensor(x.data(), {s.batch, s.q_heads, length, width});
    };
    const std::int64_t n = s.q_len;
    questions.lse = tensor(lse, n, 1);
    questions.max_logit = tensor(max_logit, n, 1);
    questions.entropy = tensor(entropy, n, 1);
    questions.relative_entropy = tensor(relative, n, 1);
    questions.max_probability = tensor(max_p, n, 1);
    questions.mean_variance = tensor(variance, n, 1);
    questions.value_weighted = tensor(norms, n, 1);
    questions.column_mass = tensor(columns, 1, s.k_len);
    questions.top = {.k = 3, .weights = tensor(top, n, 3)};
    top_keys.assign(top.size(), 77);
    questions.top.keys = top_keys;
    questions.distances = {.first = -2, .step = 2, .bins = 5, .mass = tensor(distances, 1, 5)};
    questions.offsets = {.offsets = {1, 0, -3, 100},
                         .mass = tensor(offsets, 1, 4),
                         .queries = tensor(offset_queries, 1, 4)};
    questions.key_sets = {.sets = {{0}, {}, {4, 1, 4, 2}}, .mass = tensor(sets, n, 3)};
    questions.picture = {.q_begin = 1,
                         .q_end = n,
                         .k_begin = 2,
                         .k_end = s.k_len - 1,
                         .rows = 3,
                         .columns = 4,
                         .largest = tensor(largest, 3, 4),
                         .mean = tensor(mean, 3, 4)};
    questions.rows = {.queries = {n - 1, 0, n - 1}, .probabilities = tensor(rows, 3, s.k_len)};
  }
};

struct Seen {
  Problem<double> problem;
  Answers answers;
  std::vector<double> p;  // [B, Hq, Lq, Lk]

  Seen(const AttentionShape& shape, const AttentionOptions& options, double q_size = 1)
      : problem(shape, 5, q_size), answers(problem.shape) {
    const AttentionShape& s = problem.shape;
    reference::attention(problem.qt(), problem.kt(), problem.vt(), problem.ot(), options,
                         answers.questions);
    p.resize(at(s.batch * s.q_heads * s.q_len * s.k_len));
    AttentionOptions kept = options;
    kept.dropout = {};
    reference::weights(problem.qt(), problem.kt(), kept,
                       Tensor(p.data(), {s.batch, s.q_heads, s.q_len, s.k_len}));
  }
};

// Everything from the matrix; visibility from the mask.
void expect_formulas(const Seen& seen, const AttentionOptions& options) {
  const Answers& a = seen.answers;
  const AttentionShape& s = seen.problem.shape;
  const Geometry geometry = geometry_of(s, options);
  const bool sinks = !options.score.sinks.empty();
  const std::int64_t n = s.q_len, m = s.k_len;
  for (std::int64_t bh = 0; bh < s.batch * s.q_heads; ++bh) {
    const std::int64_t b = bh / s.q_heads, h = bh % s.q_heads,
                       kv = b * s.kv_heads + h / (s.q_heads / s.kv_heads);
    const auto p = [&](std::int64_t i, std::int64_t j) { return seen.p[at((bh * n + i) * m + j)]; };
    const auto visible = [&](std::int64_t i, std::int64_t j) {
      return reference::visible(options.mask, geometry, b, h, i, j);
    };
    for (std::int64_t i = 0; i < n; ++i) {
      const std::size_t row = at(bh * n + i);
      SCOPED_TRACE("head " + std::to_string(bh) + " query " + std::to_string(i));
      double count = 0, mass = 0, ln = 0, largest = 0, variance = 0, norms = 0;
      std::vector<std::pair<double, std::int64_t>> order;
      for (std::int64_t j = 0; j < m; ++j) {
        if (!visible(i, j)) continue;
        count += 1;
        mass += p(i, j);
        ln += p(i, j) > 0 ? p(i, j) * std::log(p(i, j)) : 0;
        largest = std::max(largest, p(i, j));
        variance += p(i, j) * (1 - p(i, j));
        order.push_back({-p(i, j), j});
        const double* v = &seen.problem.v[at((kv * m + j) * s.v_width)];
        norms += p(i, j) * std::sqrt(std::inner_product(v, v + s.v_width, v, 0.0));
      }
      if (count == 0) {
        EXPECT_EQ(a.lse[row], -kInf);
        EXPECT_EQ(a.max_logit[row], -kInf);
      } else {
        // p = e^(s - lse) of the visible mass.
        EXPECT_NEAR(std::log(largest), a.max_logit[row] - a.lse[row] + std::log(mass), 1e-13);
      }
      const double sink = sinks && count > 0 ? 1 - mass : 0;
      const double entropy = -ln - (sink > 0 ? sink * std::log(sink) : 0);
      const double entries = count + (sinks ? 1 : 0);
      EXPECT_NEAR(a.entropy[row], entropy, 1e-13);
      EXPECT_NEAR(a.relative[row], count > 0 && entries > 1 ? entropy / std::log(entries) : 0,
                  1e-13);
      EXPECT_NEAR(a.max_p[row], largest, 1e-15);
      EXPECT_NEAR(a.variance[row], count > 0 ? variance / count : 0, 1e-15);
      EXPECT_NEAR(a.norms[row], norms, 1e-14);
      std::sort(order.begin(), order.end());
      for (std::size_t t = 0; t < 3; ++t) {
        const bool exists = t < order.size();
        EXPECT_EQ(a.top_keys[row * 3 + t], exists ? order[t].second : -1);
        EXPECT_EQ(a.top[row * 3 + t], exists ? -order[t].first : 0);
      }
      double set = 0;
      for (std::int64_t j : {1, 2, 4}) set += p(i, j);
      EXPECT_EQ(a.sets[row * 3], p(i, 0));
      EXPECT_EQ(a.sets[row * 3 + 1], 0);
      EXPECT_NEAR(a.sets[row * 3 + 2], set, 1e-15);
    }
    for (std::int64_t j = 0; j < m; ++j) {
      double column = 0;
      for (std::int64_t i = 0; i < n; ++i) column += p(i, j);
      EXPECT_NEAR(a.columns[at(bh * m + j)], column, 1e-14);
      EXPECT_EQ(a.rows[at((bh * 3 + 0) * m + j)], p(n - 1, j));
      EXPECT_EQ(a.rows[at((bh * 3 + 1) * m + j)], p(0, j));
      EXPECT_EQ(a.rows[at((bh * 3 + 2) * m + j)], p(n - 1, j));
    }
    // Distances below -2; -2, -1; 0, 1; 2, 3; 4 and more.
    std::vector<double> bins(5), offsets(4), queries(4);
    const std::vector<std::int64_t> wanted = {1, 0, -3, 100};
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < m; ++j) {
        const std::int64_t d = geometry.q_position(i) - geometry.k_position(j);
        bins[d < -2 ? 0 : d < 0 ? 1 : d < 2 ? 2 : d < 4 ? 3 : 4] += p(i, j);
        for (std::size_t o = 0; o < 4; ++o) {
          if (d != wanted[o]) continue;
          offsets[o] += p(i, j);
          queries[o] += visible(i, j);
        }
      }
    }
    for (std::size_t x = 0; x < 5; ++x) EXPECT_NEAR(a.distances[at(bh) * 5 + x], bins[x], 1e-14);
    for (std::size_t o = 0; o < 4; ++o) {
      EXPECT_NEAR(a.offsets[at(bh) * 4 + o], offsets[o], 1e-14);
      EXPECT_EQ(a.offset_queries[at(bh) * 4 + o], queries[o]);
    }
    // Cells of the picture begin at thirds and quarters, rounded down.
    const Picture& picture = a.questions.picture;
    const std::int64_t height = picture.q_end - picture.q_begin,
                       width = picture.k_end - picture.k_begin;
    for (std::int64_t y = 0; y < 3; ++y) {
      for (std::int64_t x = 0; x < 4; ++x) {
        double largest = 0, sum = 0, pairs = 0;
        for (std::int64_t i = y * height / 3; i < (y + 1) * height / 3; ++i) {
          for (std::int64_t j = x * width / 4; j < (x + 1) * width / 4; ++j) {
            const double value = p(picture.q_begin + i, picture.k_begin + j);
            largest = std::max(largest, value);
            sum += value;
            pairs += 1;
          }
        }
        EXPECT_EQ(a.largest[at((bh * 3 + y) * 4 + x)], largest);
        EXPECT_NEAR(a.mean[at((bh * 3 + y) * 4 + x)], sum / pairs, 1e-15);
      }
    }
  }
}

TEST(Observe, FormulasOverTheMatrix) {
  const AttentionShape shape = make_shape(2, 4, 2, 6, 9, 5, 3);
  const std::vector<float> sinks = {0.5f, -1.0f, 2.0f, 0.0f};
  for (const AttentionOptions& options :
       {AttentionOptions{}, AttentionOptions{.mask = Mask::causal(), .query_start = -2},
        AttentionOptions{.mask = Mask::causal() & Mask::window(3, 0), .query_start = 3},
        AttentionOptions{.mask = Mask::causal(), .score = {.sinks = sinks}, .query_start = -1},
        AttentionOptions{.mask = Mask::padding({4, 9}),
        .score = {.soft_cap = 2, .alibi_slopes = std::vector<float>{}},
        .query_start = 2},
        AttentionOptions{.mask = Mask::window(2, 2),
        .q_positions = {9, 3, 0, 1, 30, 5},
        .k_positions = {0, 1, 3, 4, 5, 6, 7, 8, 12}},
        AttentionOptions{.dropout = {.p = 0.5, .seed = 3}}}) {
    SCOPED_TRACE(options.mask.to_string() + " " + options.score.to_string());
    expect_formulas(Seen(shape, options), options);
  }
}

TEST(Observe, UniformRowsByHand) {
  const Seen seen(make_shape(1, 1, 1, 4, 8, 2), {.mask = Mask::causal(), .query_start = 3}, 0);
  const Answers& a = seen.answers;
  for (std::size_t i = 0; i < 4; ++i) {
    const double n = 4.0 + static_cast<double>(i);
    EXPECT_NEAR(a.entropy[i], std::log(n), 1e-15);
    EXPECT_NEAR(a.relative[i], 1, 1e-15);
    EXPECT_NEAR(a.max_p[i], 1 / n, 1e-15);
    EXPECT_NEAR(a.variance[i], (1 - 1 / n) / n, 1e-15);
    EXPECT_EQ(a.max_logit[i], 0);
    // Equal ones: the lower key first.
    for (std::size_t t = 0; t < 3; ++t) EXPECT_EQ(a.top_keys[i * 3 + t], static_cast<int>(t));
  }
  EXPECT_NEAR(a.columns[0], 1 / 4.0 + 1 / 5.0 + 1 / 6.0 + 1 / 7.0, 1e-15);
  EXPECT_NEAR(a.columns[6], 1 / 7.0, 1e-15);
  EXPECT_EQ(a.columns[7], 0);
  // One key: no entropy, and nothing to be relative to.
  const Seen one(make_shape(1, 1, 1, 4, 7, 2), {.mask = Mask::window(0, 0), .query_start = 1});
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(one.answers.entropy[i], 0);
    EXPECT_EQ(one.answers.relative[i], 0);
    EXPECT_EQ(one.answers.top[i * 3], 1);
    EXPECT_EQ(one.answers.top_keys[i * 3 + 1], -1);
  }
}

TEST(Observe, EntropyOfHugeLogits) {
  // Weights 1/4 and 3/4 at logits of 1e4.
  const std::vector<double> q = {1}, k = {1e4 - std::log(3.0), 1e4, -1e4}, v = {1, 2, 3};
  std::vector<double> out(1), entropy(1);
  reference::attention(ConstTensor(q.data(), {1, 1, 1, 1}), ConstTensor(k.data(), {1, 1, 3, 1}),
                       ConstTensor(v.data(), {1, 1, 3, 1}), Tensor(out.data(), {1, 1, 1, 1}), {},
                       {.entropy = Tensor(entropy.data(), {1, 1, 1, 1})});
  EXPECT_NEAR(entropy[0], 0.75 * std::log(4 / 3.0) + 0.25 * std::log(4.0), 1e-11);
  // A sink of the same size is one more entry.
  AttentionOptions options;
  options.score.sinks = {1e4f};
  reference::attention(ConstTensor(q.data(), {1, 1, 1, 1}), ConstTensor(k.data() + 1, {1, 1, 1, 1}),
                       ConstTensor(v.data(), {1, 1, 1, 1}), Tensor(out.data(), {1, 1, 1, 1}),
                       options, {.entropy = Tensor(entropy.data(), {1, 1, 1, 1})});
  EXPECT_NEAR(entropy[0], std::log(2.0), 1e-15);
}

TEST(Observe, RaggedCountsThroughAllSequences) {
  const AttentionShape shape = make_shape(1, 2, 1, 7, 10, 3);
  AttentionOptions options = {
      .mask = Mask::causal(),
      .ragged = {.q_offsets = {0, 4, 7}, .k_offsets = {0, 6, 10}, .query_starts = {2, 0}}};
  const Seen seen(shape, options);
  // The same pairs as a dense mask over all tokens, at positions that keep the distances.
  std::vector<std::uint8_t> bits(70);
  for (std::size_t i = 0; i < 7; ++i) {
    for (std::size_t j = 0; j < 10; ++j) {
      bits[i * 10 + j] = i < 4 ? j <= i + 2 : j >= 6 && j - 6 <= i - 4;
    }
  }
  const AttentionOptions dense = {.mask = Mask::dense(bits.data(), {1, 1, 7, 10}),
                                  .q_positions = {2, 3, 4, 5, 6, 7, 8},
                                  .k_positions = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}};
  const Seen flat(shape, dense);
  const Answers &a = seen.answers, &b = flat.answers;
  EXPECT_EQ(seen.p, flat.p);
  EXPECT_EQ(a.lse, b.lse);
  EXPECT_EQ(a.entropy, b.entropy);
  EXPECT_EQ(a.columns, b.columns);
  EXPECT_EQ(a.top, b.top);
  EXPECT_EQ(a.top_keys, b.top_keys);
  EXPECT_EQ(a.sets, b.sets);
  EXPECT_EQ(a.largest, b.largest);
  EXPECT_EQ(a.mean, b.mean);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.distances, b.distances);
  EXPECT_EQ(a.offsets, b.offsets);
}

}  // namespace
}  // namespace attn::test
