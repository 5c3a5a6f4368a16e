// Gradients of plans: agreement with the oracle, those that are asked for, errors, work, memory.
// Finite differences are in finite_difference_test.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "attention/gradients.h"

namespace attn::test {
namespace {

class Backward : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, Backward, testing::ValuesIn(gradient_cases()),
                         [](const auto& test) { return test.param.label; });

// Worst case of each element, from the oracle's probabilities: those are off by a relative error e,
// and so are sums of n terms by n roundings; magnitudes are sums of absolute values.
// What is below the smallest normal number is zero: `least` stands for sums of such terms.
struct GradientBound {
  std::vector<double> q, k, v;

  GradientBound(Problem<double>& p, std::vector<double>& d_out, const AttentionOptions& options,
                double epsilon, double least)
      : q(p.q.size(), least), k(p.k.size(), least), v(p.v.size(), least) {
    const AttentionShape& s = p.shape;
    const Score& score = options.score;
    std::vector<double> weights(static_cast<std::size_t>(s.batch * s.q_heads * s.q_len * s.k_len));
    const Tensor w(weights.data(), {s.batch, s.q_heads, s.q_len, s.k_len});
    reference::weights(p.qt(), p.kt(), options, w);
    p.run_reference(options);
    const Tensor d = p.view(d_out, s.q_heads, s.q_len, s.v_width);
    const double scale =
        std::abs(score.scale.value_or(1 / std::sqrt(static_cast<double>(s.width))));
    double logit = 0;
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t h = 0; h < s.q_heads; ++h) {
        for (std::int64_t i = 0; i < s.q_len; ++i) {
          for (std::int64_t j = 0; j < s.k_len; ++j) {
            logit = std::max(logit, scale * sum(p.qt().row<double>(b, h, i),
                                                p.kt().row<double>(b, kv(s, h), j), s.width));
          }
        }
      }
    }
    // Biases of these cases are below 500 in size: slopes of at most 1 at 300 tokens, tables of 5.
    const auto terms = static_cast<double>(s.width + s.v_width + s.k_len + s.q_len * s.q_heads);
    const double relative =
        epsilon * (2 * static_cast<double>(s.width + 16) * logit + 4 * 500 + 4 * terms + 64);
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t h = 0; h < s.q_heads; ++h) {
        for (std::int64_t i = 0; i < s.q_len; ++i) {
          const double* di = d.row<double>(b, h, i);
          const double mean = sum(di, p.ot().row<double>(b, h, i), s.v_width);
          for (std::int64_t j = 0; j < s.k_len; ++j) {
            const double weight = w.row<double>(b, h, i)[j] * relative;
            const double ds =
                weight * (sum(di, p.vt().row<double>(b, kv(s, h), j), s.v_width) + mean) * scale;
            add(p.view(v, s.kv_heads, s.k_len, s.v_width).row<double>(b, kv(s, h), j), weight, di,
                s.v_width);
            add(p.view(k, s.kv_heads, s.k_len, s.width).row<double>(b, kv(s, h), j), ds,
                p.qt().row<double>(b, h, i), s.width);
            add(p.view(q, s.q_heads, s.q_len, s.width).row<double>(b, h, i), ds,
                p.kt().row<double>(b, kv(s, h), j), s.width);
          }
        }
      }
    }
  }

 private:
  static std::int64_t kv(const AttentionShape& s, std::int64_t h) {
    return h / (s.q_heads / s.kv_heads);
  }
  static double sum(const double* a, const double* b, std::int64_t n) {
    double total = 0;
    for (std::int64_t i = 0; i < n; ++i) total += std::abs(a[i] * b[i]);
    return total;
  }
  static void add(double* to, double x, const double* y, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) to[i] += std::abs(x * y[i]);
  }
};

template <class T>
void expect_near(const std::vector<T>& found, const std::vector<double>& expected,
                 const std::vector<double>& bound, const char* what) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double error = std::abs(static_cast<double>(found[i]) - expected[i]);
    ASSERT_TRUE(error <= bound[i]) << what << " " << i << ": " << found[i] << " for " << expected[i]
                                   << ", may be off by " << bound[i];
  }
}

template <class T>
void expect_agreement(const Case& c) {
  Problem<float> p32(c.shape, 17, c.q_size);
  Problem<double> oracle = in_double(p32);
  std::vector<double> d = flowing_in<double>(c.shape);
  const Gradients<double> expected = oracle_gradients(oracle, d, c.options);
  const GradientBound bound(oracle, d, c.options, std::numeric_limits<T>::epsilon(),
                            1e6 * static_cast<double>(std::numeric_limits<T>::min()));
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    Problem<T> p(c.shape, 17);
    p.q.assign(p32.q.begin(), p32.q.end());
    p.k.assign(p32.k.begin(), p32.k.end());
    p.v.assign(p32.v.begin(), p32.v.end());
    std::vector<T> d_out = flowing_in<T>(c.shape);
    const Gradients<T> g = gradients_of(p, d_out, c.options, Context({.threads = 2, .isa = isa}));
    expect_near(g.q, expected.q, bound.q, "dq");
    expect_near(g.k, expected.k, bound.k, "dk");
    expect_near(g.v, expected.v, bound.v, "dv");
  }
}

TEST_P(Backward, AgreesWithTheOracle) { expect_agreement<float>(GetParam()); }
TEST_P(Backward, AgreesInFloat64) { expect_agreement<double>(GetParam()); }

// Gradients that nobody asks for are not touched, and asking for some changes no bit of them.
TEST(BackwardAsked, OnlySome) {
  const AttentionShape s = make_shape(1, 2, 1, 70, 300, 20);
  std::vector<float> d = flowing_in<float>(s);
  for (const Isa isa : supported_isas()) {
    Problem<float> p(s, 3);
    const Context context({.threads = 2, .isa = isa});
    const auto all = gradients_of(p, d, {}, context);
    const Plan made = plan(s, {}, context);
    for (int asked = 0; asked < 8; ++asked) {
      Gradients<float> g{std::vector<float>(p.q.size(), 7), std::vector<float>(p.k.size(), 7),
                         std::vector<float>(p.v.size(), 7)};
      InputGradients to;
      if ((asked & 1) != 0) to.q = p.view(g.q, 2, 70, 20);
      if ((asked & 2) != 0) to.k = p.view(g.k, 1, 300, 20);
      if ((asked & 4) != 0) to.v = p.view(g.v, 1, 300, 20);
      made.backward({p.qt(), p.kt(), p.vt()}, {.out = p.ot(), .lse = p.lt()},
                    {.out = p.view(d, 2, 70, 20)}, to);
      const std::vector<float> untouched(p.k.size(), 7), untouched_q(p.q.size(), 7);
      EXPECT_EQ(g.q, (asked & 1) != 0 ? all.q : untouched_q);
      EXPECT_EQ(g.k, (asked & 2) != 0 ? all.k : untouched);
      EXPECT_EQ(g.v, (asked & 4) != 0 ? all.v : untouched);
    }
  }
}

// An exception of a custom score ends the call, also while other threads wait for their turn.
TEST(BackwardErrors, OfACustomScorePassThrough) {
  const AttentionShape s = make_shape(1, 1, 1, 900, 1500, 8);
  std::vector<float> d = flowing_in<float>(s);
  for (const int threads : {1, 2, 8}) {
    const Context context({.threads = threads});
    std::atomic<int> calls{0};
    std::atomic<bool> armed{false};
    const AttentionOptions options{.score = {.custom =
                                                 [&](const ScoreTile&) {
                                                   if (armed && ++calls == 40)
                                                     throw std::runtime_error("mine");
                                                 },
                                             .custom_gradient = [](const ScoreGradientTile&) {}}};
    Problem<float> p(s, 3);
    const auto whole = gradients_of(p, d, options, context);
    const Plan made = plan(s, options, context);
    Gradients<float> g = whole;
    const auto again = [&] {
      made.backward({p.qt(), p.kt(), p.vt()}, {.out = p.ot(), .lse = p.lt()},
                    {.out = p.view(d, 1, 900, 8)},
                    {.q = p.view(g.q, 1, 900, 8),
                     .k = p.view(g.k, 1, 1500, 8),
                     .v = p.view(g.v, 1, 1500, 8)});
    };
    armed = true;
    EXPECT_THROW(again(), std::runtime_error);
    armed = false;
    again();  // the context is free again
    EXPECT_TRUE(same_bits(g, whole));
  }
}

// Every visible tile of pairs is computed once: the custom score is called for no more than its
// rows need.
TEST(BackwardWork, IsProportionalToVisibleTiles) {
  const Context context({.threads = 1});
  const AttentionShape s = make_shape(1, 1, 1, 4096, 4096, 8);
  std::vector<float> d = flowing_in<float>(s);
  const auto pairs = [&](const Mask& mask) {
    std::atomic<std::int64_t> count{0};
    const AttentionOptions options{
        .mask = mask,
        .score = {.custom = [](const ScoreTile&) {},
                  .custom_gradient =
                      [&](const ScoreGradientTile& t) {
                        count += static_cast<std::int64_t>(t.s.q.size()) * t.s.k_count;
                      }}};
    Problem<float> p(s, 3);
    gradients_of(p, d, options, context);
    return count.load();
  };
  constexpr std::int64_t kAll = 4096 * 4096;
  EXPECT_EQ(pairs(Mask::full()), kAll);
  EXPECT_GE(pairs(Mask::causal()), kAll / 2);
  EXPECT_LE(pairs(Mask::causal()), kAll * 0.51);
  EXPECT_GE(pairs(Mask::window(63, 0)), 4096 * 64 - 64 * 63 / 2);
  // A strip of at most 14 rows sees 64 + 13 keys, in whole vectors.
  EXPECT_LE(pairs(Mask::window(63, 0)), 4096 * (64 + 13 + 2 * 15));
}

// Scratch of threads does not grow with the length.
TEST(BackwardMemory, WorkspaceIsBounded) {
  std::size_t at_shortest = 0;
  for (const std::int64_t length : {16384, 32768}) {
    const Context context({.threads = 2});
    const AttentionShape s = make_shape(1, 2, 2, length, length, 64);
    Problem<float> p(s, 3);
    std::vector<float> d = flowing_in<float>(s);
    gradients_of(p, d, {.mask = Mask::window(31, 0)}, context);
    if (at_shortest == 0) at_shortest = context.workspace_bytes();
    EXPECT_EQ(context.workspace_bytes(), at_shortest);
    EXPECT_LE(context.workspace_bytes(), std::size_t{2} * (4 << 20));
  }
}

}  // namespace
}  // namespace attn::test
