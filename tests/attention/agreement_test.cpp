// The fast path against the double-precision oracle, for every option and every instruction set
// that this CPU has. The bound comes from float32 itself: 4 times the error of a plain float32
// computation of the same problem, plus 2 ulp of the largest value.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "attention/cases.h"
#include "attn/position.h"

namespace attn::test {
namespace {

// Attention as a float32 framework computes it: scores, softmax, weighted sum, all in float, one
// row at a time. Visibility and biases come from the oracle's weights being zero or not and from
// recomputing its scores in float.
std::vector<float> plain_float(Problem<float>& p, const AttentionOptions& options) {
  std::vector<float> out(p.out.size(), 0.0f);
  const AttentionShape& s = p.shape;
  const Geometry geometry = geometry_of(s, options);
  const Score& score = options.score;
  const auto scale =
      static_cast<float>(score.scale.value_or(1 / std::sqrt(static_cast<double>(s.width))));
  const std::vector<float> slopes = !score.alibi_slopes           ? std::vector<float>()
                                    : score.alibi_slopes->empty() ? alibi_slopes(s.q_heads)
                                                                  : *score.alibi_slopes;
  std::vector<float> row(static_cast<std::size_t>(s.k_len));
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::int64_t h = 0; h < s.q_heads; ++h) {
      const std::int64_t hk = h / (s.q_heads / s.kv_heads);
      for (std::int64_t i = 0; i < s.q_len; ++i) {
        const float* q = p.qt().row<float>(b, h, i);
        for (std::int64_t j = 0; j < s.k_len; ++j) {
          const float* k = p.kt().row<float>(b, hk, j);
          float dot = 0;
          for (std::int64_t d = 0; d < s.width; ++d) dot += q[d] * k[d];
          dot *= scale;
          if (score.soft_cap > 0) {
            const auto cap = static_cast<float>(score.soft_cap);
            dot = cap * std::tanh(dot / cap);
          }
          const std::int64_t relative = geometry.k_position(j) - geometry.q_position(i);
          if (!slopes.empty())
            dot -= slopes[static_cast<std::size_t>(h)] * static_cast<float>(std::abs(relative));
          if (score.t5) {
            const int bucket = t5_bucket(relative, score.t5->bidirectional, score.t5->buckets,
                                         score.t5->max_distance);
            dot += score.t5->table[static_cast<std::size_t>(bucket * s.q_heads + h)];
          }
          row[static_cast<std::size_t>(j)] = dot;
        }
        if (score.custom) {
          ScoreTile tile;
          tile.batch = b;
          tile.head = h;
          tile.q = {&i, 1};
          tile.k_count = s.k_len;
          tile.stride = s.k_len;
          tile.s32 = row.data();
          score.custom(tile);
        }
        float top = -std::numeric_limits<float>::infinity();
        for (std::int64_t j = 0; j < s.k_len; ++j) {
          float& x = row[static_cast<std::size_t>(j)];
          if (!reference::visible(options.mask, geometry, b, h, i, j))
            x = -std::numeric_limits<float>::infinity();
          top = std::max(top, x);
        }
        if (std::isinf(top)) continue;
        if (!score.sinks.empty()) top = std::max(top, score.sinks[static_cast<std::size_t>(h)]);
        float sum =
            score.sinks.empty() ? 0 : std::exp(score.sinks[static_cast<std::size_t>(h)] - top);
        for (float& x : row) sum += x = std::exp(x - top);
        const Tensor o(out.data(), Shape{s.batch, s.q_heads, s.q_len, s.v_width});
        float* to = o.row<float>(b, h, i);
        for (std::int64_t j = 0; j < s.k_len; ++j) {
          const float w = row[static_cast<std::size_t>(j)] / sum;
          const float* v = p.vt().row<float>(b, hk, j);
          for (std::int64_t d = 0; d < s.v_width; ++d) to[d] += w * v[d];
        }
      }
    }
  }
  return out;
}

double largest_difference(const std::vector<float>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= largest)) largest = difference;  // NaN wins
  }
  return largest;
}

double largest_size(const std::vector<float>& v) {
  double largest = 0;
  for (float x : v) largest = std::max(largest, std::abs(static_cast<double>(x)));
  return largest;
}

class Agreement : public testing::TestWithParam<Case> {};

TEST_P(Agreement, Float32) {
  const Case& c = GetParam();
  Problem<float> p(c.shape, 17, c.q_size);
  Problem<double> oracle = in_double(p);
  oracle.run_reference(c.options);
  const double plain = largest_difference(plain_float(p, c.options), oracle.out);
  const double bound = 4 * plain + 2 * std::numeric_limits<float>::epsilon() * largest_size(p.v);
  for (const Isa isa : supported_isas()) {
    p.clear();
    p.run(c.options, Context({.threads = 2, .isa = isa}));
    const double error = largest_difference(p.out, oracle.out);
    EXPECT_TRUE(error <= bound) << name(isa) << ": error " << error << ", bound " << bound;
    for (std::size_t i = 0; i < p.lse.size(); ++i) {
      const double expected = oracle.lse[i], got = p.lse[i];
      if (std::isinf(expected)) {
        EXPECT_EQ(got, expected) << name(isa) << " lse of row " << i;
      } else {
        // A score is a sum of `width` products: its rounding grows with their size.
        const double tolerance = 1e-6 * (4 + std::abs(expected) +
                                         c.q_size * std::sqrt(static_cast<double>(c.shape.width)));
        EXPECT_TRUE(std::abs(got - expected) <= tolerance)
            << name(isa) << " lse of row " << i << " is " << got << ", not " << expected;
      }
    }
  }
}

TEST_P(Agreement, Float64) {
  const Case& c = GetParam();
  Problem<double> p(c.shape, 23, c.q_size);
  Problem<double> oracle = p;
  oracle.run_reference(c.options);
  const double scale = 1 + c.q_size * std::sqrt(static_cast<double>(c.shape.width));
  for (const Isa isa : supported_isas()) {
    p.clear();
    p.run(c.options, Context({.threads = 2, .isa = isa}));
    for (std::size_t i = 0; i < p.out.size(); ++i) {
      ASSERT_TRUE(std::abs(p.out[i] - oracle.out[i]) <= 1e-14 * scale * 20)
          << name(isa) << " element " << i << ": " << p.out[i] << " is not " << oracle.out[i];
    }
    for (std::size_t i = 0; i < p.lse.size(); ++i) {
      ASSERT_TRUE(p.lse[i] == oracle.lse[i] ||
                  std::abs(p.lse[i] - oracle.lse[i]) <= 1e-14 * scale * 20)
          << name(isa) << " lse " << i << ": " << p.lse[i] << " is not " << oracle.lse[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Agreement, testing::ValuesIn(standard_cases()),
                         [](const auto& test) { return test.param.label; });

TEST(Isa, EveryPathOfThisCpuRuns) {
  const std::vector<Isa> isas = supported_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.back(), Isa::scalar);
  for (const Isa isa : isas) {
    Problem<float> p(make_shape(1, 1, 1, 3, 3, 4), 1);
    const Plan one = plan(p.shape, {}, Context({.threads = 1, .isa = isa}));
    EXPECT_EQ(one.summary().isa, isa);
    EXPECT_NE(one.explain().find(name(isa)), std::string::npos);
  }
}

// A dense bias, in every shape that broadcasts, with -infinity hiding pairs.
TEST(Bias, BroadcastsAndHides) {
  const AttentionShape shape = make_shape(2, 4, 2, 70, 90, 16);
  for (const Shape& extent : {Shape{2, 4, 70, 90}, Shape{1, 1, 70, 90}, Shape{2, 1, 1, 90},
                              Shape{1, 4, 70, 1}, Shape{1, 1, 1, 1}}) {
    Problem<double> p(shape, 3);
    std::vector<double> bias(
        static_cast<std::size_t>(extent[0] * extent[1] * extent[2] * extent[3]));
    Random random(4);
    for (double& x : bias)
      x = bias.size() > 1 && random.uniform() < 0.2 ? -INFINITY : random.normal();
    const AttentionOptions options{.mask = Mask::causal(),
                                   .score = {.bias = ConstTensor(bias.data(), extent)},
                                   .query_start = 20};
    Problem<double> oracle = p;
    oracle.run_reference(options);
    std::vector<float> bias32(bias.begin(), bias.end());
    AttentionOptions options32 = options;
    options32.score.bias = ConstTensor(bias32.data(), extent);
    Problem<float> p32(shape, 3);
    for (const Isa isa : supported_isas()) {
      p.clear();
      p.run(options, Context({.threads = 1, .isa = isa}));
      for (std::size_t i = 0; i < p.out.size(); ++i) ASSERT_NEAR(p.out[i], oracle.out[i], 1e-13);
      p32.clear();
      p32.run(options32, Context({.threads = 1, .isa = isa}));
      for (std::size_t i = 0; i < p.out.size(); ++i) ASSERT_NEAR(p32.out[i], oracle.out[i], 1e-5);
    }
  }
}

// A finite minimum is not -infinity: a row that is all finfo.min is the mean, as written.
TEST(Bias, FiniteMinimumStaysFinite) {
  Problem<float> p(make_shape(1, 1, 1, 4, 20, 8), 9);
  const float lowest = std::numeric_limits<float>::lowest();
  std::vector<float> bias(20, lowest);
  for (const Isa isa : supported_isas()) {
    p.clear();
    p.run({.score = {.bias = ConstTensor(bias.data(), Shape{1, 1, 1, 20})}},
          Context({.threads = 1, .isa = isa}));
    for (int d = 0; d < 8; ++d) {
      double mean = 0;
      for (int j = 0; j < 20; ++j) mean += p.v[static_cast<std::size_t>(j * 8 + d)] / 20.0;
      EXPECT_NEAR(p.out[static_cast<std::size_t>(d)], mean, 1e-6) << name(isa);
    }
  }
}

// A bias whose last stride is not 1 is refused, not misread.
TEST(Bias, RefusesAStridedLastDimension) {
  Problem<float> p(make_shape(1, 1, 1, 5, 9, 8), 9);
  std::vector<float> wide(9 * 3, 0.3f);
  const ConstTensor strided(wide.data(), DType::f32, Shape{1, 1, 1, 9}, Strides{27, 27, 27, 3});
  EXPECT_THROW(p.run({.score = {.bias = strided}}, Context({.threads = 1})), std::invalid_argument);
}

}  // namespace
}  // namespace attn::test
