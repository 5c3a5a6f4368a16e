// Gradients of the oracle and of every instruction set against finite differences in float64: every
// option, every pair of options, and the edges of the contract.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention/gradient_problem.h"

namespace attn::test {
namespace {

// Five points, h = 2^-8: the truncation is h^4/30 = 8e-12 times a fifth derivative. Those of these
// losses (sums of up to some hundred terms, each with logits and slopes of a few units) stay below
// 1e4, hence 1e-7; a wrong term shows as 1e-3 or more.
constexpr double kStep = 0x1p-8, kBound = 1e-7;

double slope(const std::function<double(double)>& f) {
  return (8 * (f(kStep) - f(-kStep)) - (f(2 * kStep) - f(-2 * kStep))) / (12 * kStep);
}

// Every coordinate of every parameter.
void expect_each(const Problem64& p, const std::string& label) {
  const Problem64 g = p.gradient();
  for (const auto& part : Problem64::parts()) {
    for (std::size_t i = 0; i < (p.*part.values).size(); ++i) {
      if (std::isinf((p.*part.values)[i])) {
        EXPECT_EQ((g.*part.values)[i], 0) << label << " hidden " << part.name << " " << i;
        continue;
      }
      Problem64 moved = p;
      const double expected = slope([&](double step) {
        (moved.*part.values)[i] = (p.*part.values)[i] + step;
        return moved.loss();
      });
      EXPECT_NEAR((g.*part.values)[i], expected, kBound) << label << " " << part.name << " " << i;
    }
  }
}

// One random direction (of -1, 0 and 1) through each parameter.
void expect_directions(const Problem64& p, const std::string& label) {
  const Problem64 g = p.gradient();
  Random random(9);
  for (const auto& part : Problem64::parts()) {
    std::vector<double> direction((p.*part.values).size());
    double along = 0;
    for (std::size_t i = 0; i < direction.size(); ++i) {
      if (std::isinf((p.*part.values)[i])) continue;
      direction[i] = static_cast<double>(random.below(3) - 1);
      along += direction[i] * (g.*part.values)[i];
    }
    Problem64 moved = p;
    const double expected = slope([&](double step) {
      for (std::size_t i = 0; i < direction.size(); ++i) {
        if (direction[i] != 0) (moved.*part.values)[i] = (p.*part.values)[i] + step * direction[i];
      }
      return moved.loss();
    });
    EXPECT_NEAR(along, expected, 1e3 * kBound) << label << " " << part.name;
  }
}

// Grouped heads, more keys than queries, values of another width.
const AttentionShape kShape = make_shape(2, 4, 2, 3, 5, 3, 2);

// By the oracle, or by plans for an instruction set.
class Gradient : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() != "oracle")
      Problem64::fast.emplace(ContextOptions{.threads = 2, .isa = isa_from_name(GetParam())});
  }
  void TearDown() override { Problem64::fast.reset(); }
};

std::vector<std::string> engines() {
  std::vector<std::string> names = {"oracle"};
  for (const Isa isa : supported_isas()) names.emplace_back(name(isa));
  return names;
}
INSTANTIATE_TEST_SUITE_P(By, Gradient, testing::ValuesIn(engines()),
                         [](const auto& test) { return test.param; });

TEST_P(Gradient, Plain) { expect_each(Problem64(kShape), "plain"); }

TEST_P(Gradient, EveryOption) {
  for (const Option& option : all_options()) {
    Problem64 p(kShape);
    option.set(p);
    expect_each(p, option.name);
  }
}

TEST_P(Gradient, EveryPairOfOptions) {
  const std::vector<Option> options = all_options();
  for (std::size_t a = 0; a < options.size(); ++a) {
    for (std::size_t b = a + 1; b < options.size(); ++b) {
      Problem64 p(kShape);
      options[a].set(p);
      options[b].set(p);
      expect_directions(p, std::string(options[a].name) + " + " + options[b].name);
    }
  }
}

TEST_P(Gradient, Everything) {
  Problem64 p(kShape);
  for (const Option& option : all_options()) option.set(p);
  p.options.query_start = 1;
  expect_each(p, "everything");
}

TEST_P(Gradient, Shapes) {
  for (const AttentionShape& shape :
       {make_shape(1, 1, 1, 1, 1, 1), make_shape(1, 7, 1, 2, 3, 2), make_shape(1, 2, 2, 5, 2, 1, 4),
        make_shape(1, 2, 1, 0, 3, 2), make_shape(1, 2, 1, 3, 0, 2), make_shape(0, 2, 1, 3, 3, 2),
        make_shape(1, 1, 1, 13, 11, 2, 1)}) {
    for (const bool causal : {false, true}) {
      Problem64 p(shape);
      if (causal) p.options.mask = Mask::causal();
      expect_each(p, to_string(Shape{shape.q_heads, shape.q_len, shape.k_len, shape.width}));
    }
  }
}

TEST_P(Gradient, PositionsAndPadding) {
  Problem64 p(kShape);
  p.options.q_positions = {4, 0, 9};
  p.options.k_positions = {1, 2, 4, 5, 9};
  p.options.mask = Mask::causal() & Mask::padding({5, 3});
  p.options.score.alibi_slopes = std::vector<float>{};
  p.slopes = {0.5, 0.25, 1, 0.125};
  expect_each(p, "positions");
}

TEST_P(Gradient, RaggedIsSeparate) {
  const AttentionShape shape = make_shape(1, 4, 2, 9, 11, 3, 2);
  Problem64 all(shape);
  all.options.mask = Mask::causal();
  all.options.ragged = {
      .q_offsets = {0, 2, 2, 6, 9}, .k_offsets = {0, 5, 6, 6, 11}, .query_starts = {3, 0, 0, 1}};
  all.options.dropout = {.p = 0.25, .seed = 3, .streams = {9, 1, 4, 2}};
  all.sinks = {0.5, -1, 2, 0};
  all.options.score.alibi_slopes = std::vector<float>{};
  all.slopes = {0.5, 0.25, 1, 0.125};
  all.bias_shape = {4, 1, 4, 5};
  Random random(8);
  all.bias = coarse(80, random);
  all.d_lse = coarse(36, random);
  all.d_entropy = coarse(36, random);
  expect_each(all, "ragged");

  // Each sequence by itself, added up.
  const Problem64 together = all.gradient();
  std::vector<double> slopes(4), sinks(4);
  for (std::size_t n = 0; n < 4; ++n) {
    const Ragged& r = all.options.ragged;
    const std::int64_t q0 = r.q_offsets[n], ql = r.q_offsets[n + 1] - q0, k0 = r.k_offsets[n],
                       kl = r.k_offsets[n + 1] - k0;
    Problem64 one(make_shape(1, 4, 2, ql, kl, 3, 2));
    one.options = all.options;
    one.options.ragged = {};
    one.options.query_start = r.query_starts[n];
    one.options.dropout.streams = {all.options.dropout.streams[n]};
    one.sinks = all.sinks;
    one.slopes = all.slopes;
    one.bias_shape = {1, 1, ql, kl};
    one.bias.clear();
    for (std::int64_t i = 0; i < ql; ++i) {
      for (std::int64_t j = 0; j < kl; ++j) {
        one.bias.push_back(all.bias[(n * 4 + at(i)) * 5 + at(j)]);
      }
    }
    const auto cut = [](const std::vector<double>& x, std::int64_t heads, std::int64_t length,
                        std::int64_t begin, std::int64_t count, std::int64_t width) {
      std::vector<double> part;
      for (std::int64_t h = 0; h < heads; ++h) {
        const auto first = x.begin() + (h * length + begin) * width;
        part.insert(part.end(), first, first + count * width);
      }
      return part;
    };
    one.q = cut(all.q, 4, 9, q0, ql, 3);
    one.k = cut(all.k, 2, 11, k0, kl, 3);
    one.v = cut(all.v, 2, 11, k0, kl, 2);
    one.d_out = cut(all.d_out, 4, 9, q0, ql, 2);
    one.d_lse = cut(all.d_lse, 4, 9, q0, ql, 1);
    one.d_entropy = cut(all.d_entropy, 4, 9, q0, ql, 1);
    const Problem64 g = one.gradient();
    EXPECT_EQ(g.q, cut(together.q, 4, 9, q0, ql, 3)) << n;
    EXPECT_EQ(g.k, cut(together.k, 2, 11, k0, kl, 3)) << n;
    EXPECT_EQ(g.v, cut(together.v, 2, 11, k0, kl, 2)) << n;
    for (std::size_t h = 0; h < 4; ++h) {
      slopes[h] += g.slopes[h];
      sinks[h] += g.sinks[h];
    }
  }
  for (std::size_t h = 0; h < 4; ++h) {
    EXPECT_NEAR(slopes[h], together.slopes[h], 1e-14);
    EXPECT_NEAR(sinks[h], together.sinks[h], 1e-14);
  }
}

TEST_P(Gradient, AccumulatesOrReplaces) {
  Problem64 p(kShape);
  for (const Option& option : all_options()) option.set(p);
  p.options.query_start = 0;
  const Problem64 replaced = p.gradient(false, 99), added = p.gradient(true, 0.5);
  for (const auto& part : Problem64::parts()) {
    for (std::size_t i = 0; i < (p.*part.values).size(); ++i) {
      EXPECT_NEAR((added.*part.values)[i], (replaced.*part.values)[i] + 0.5, 1e-14)
          << part.name << " " << i;
    }
  }
}

TEST_P(Gradient, EmptyRowsAreZeroAndHideTheirPoison) {
  Problem64 p(kShape);
  p.options.mask = Mask::causal();
  p.options.query_start = -1;  // query 0 sees nothing
  p.options.score.sinks = {0.5f, -1.0f, 2.0f, 0.0f};
  p.sinks = {0.5, -1, 2, 0};
  p.d_lse.assign(24, 0.5);
  p.d_entropy.assign(24, 0.25);
  const Problem64 clean = p.gradient();
  for (const double poison : {kNan, kInf, -kInf}) {
    Problem64 bad = p;
    for (std::size_t bh = 0; bh < 8; ++bh) {
      bad.q[bh * 9] = bad.d_out[bh * 6] = bad.d_lse[bh * 3] = bad.d_entropy[bh * 3] = poison;
    }
    // Keys 2 and later are seen by nobody.
    for (std::size_t bh = 0; bh < 4; ++bh) {
      for (std::size_t j = 2; j < 5; ++j)
        bad.k[(bh * 5 + j) * 3] = bad.v[(bh * 5 + j) * 2] = poison;
    }
    const Problem64 g = bad.gradient();
    for (const auto& part : Problem64::parts()) {
      EXPECT_EQ(g.*part.values, clean.*part.values) << part.name << " " << poison;
    }
    for (std::size_t bh = 0; bh < 8; ++bh) {
      for (std::size_t d = 0; d < 3; ++d) EXPECT_EQ(g.q[bh * 9 + d], 0);
    }
    for (std::size_t j = 2; j < 5; ++j) EXPECT_EQ(g.k[j * 3], 0);
  }
}

TEST_P(Gradient, PoisonReachesOnlyWhatSeesIt) {
  // Query 1 of head 0 sees keys 0 and 1: a NaN in its gradient reaches its dq and their dk and dv.
  Problem64 p(make_shape(1, 2, 2, 4, 4, 2));
  p.options.mask = Mask::causal();
  const Problem64 clean = p.gradient();
  Problem64 bad = p;
  bad.d_out[2] = kNan;
  const Problem64 g = bad.gradient();
  for (std::size_t row = 0; row < 8; ++row) {
    const bool same_q = g.q[2 * row] == clean.q[2 * row];
    const bool same_k = g.k[2 * row] == clean.k[2 * row], same_v = g.v[2 * row] == clean.v[2 * row];
    EXPECT_EQ(same_q, row != 1) << row;
    EXPECT_EQ(same_k, row > 1) << row;
    EXPECT_EQ(same_v, row > 1) << row;
  }
}

TEST_P(Gradient, HugeLogitsStayFinite) {
  Problem64 p(kShape);
  for (double& x : p.q) x *= 4096;
  p.d_lse.assign(24, 1.0);
  p.d_entropy.assign(24, 1.0);
  const Problem64 g = p.gradient();
  for (double x : g.q) EXPECT_TRUE(std::isfinite(x));
  for (double x : g.k) EXPECT_TRUE(std::isfinite(x));
}

TEST_P(Gradient, Float32IsTheSameRounded) {
  Problem64 p(kShape);
  const Problem64 g = p.gradient();
  std::vector<float> q(p.q.begin(), p.q.end()), k(p.k.begin(), p.k.end()),
      v(p.v.begin(), p.v.end()), d(p.d_out.begin(), p.d_out.end()), dq(q.size()), dk(k.size()),
      dv(v.size());
  reference::backward({ConstTensor(q.data(), p.qt().shape), ConstTensor(k.data(), p.kt().shape),
                       ConstTensor(v.data(), p.vt().shape)},
                      {.out = ConstTensor(d.data(), p.q_shape(2))},
                      {.q = Tensor(dq.data(), p.qt().shape),
                       .k = Tensor(dk.data(), p.kt().shape),
                       .v = Tensor(dv.data(), p.vt().shape)});
  for (std::size_t i = 0; i < q.size(); ++i) EXPECT_EQ(dq[i], static_cast<float>(g.q[i]));
  for (std::size_t i = 0; i < k.size(); ++i) EXPECT_EQ(dk[i], static_cast<float>(g.k[i]));
  for (std::size_t i = 0; i < v.size(); ++i) EXPECT_EQ(dv[i], static_cast<float>(g.v[i]));
}

// Every option in float32, against the oracle; also with all that gives a row more than one term.
void expect_float32(const Context& context) {
  for (const bool terms : {false, true}) {
    for (const Option& option : all_options()) {
      if (std::string(option.name) == "custom") continue;  // a function of float64
      Problem64 p(kShape);
      option.set(p);
      for (const Option& more : all_options()) {
        const std::string name = more.name;
        if (terms && (name == "sinks" || name == "lse" || name == "entropy")) more.set(p);
      }
      const Problem64 expected = p.gradient();

      struct Floats {
        std::vector<float> x;
        Shape shape;
        explicit Floats(const std::vector<double>& from, const Shape& s)
            : x(from.begin(), from.end()), shape(s) {}
        Tensor view() { return x.empty() ? Tensor() : Tensor(x.data(), shape); }
      };
      const Shape row = p.q_shape(1), heads{1, 1, 1, kShape.q_heads};
      Floats q(p.q, p.q_shape(3)), k(p.k, p.k_shape(3)), v(p.v, p.k_shape(2)),
          bias(p.bias, p.bias_shape), d_out(p.d_out, p.q_shape(2)), d_lse(p.d_lse, row),
          d_entropy(p.d_entropy, row);
      Floats dq = q, dk = k, dv = v, d_bias = bias, d_slopes(p.slopes, heads),
             d_t5(p.t5, {1, 1, 6, kShape.q_heads}), d_sinks(p.sinks, heads);
      AttentionOptions options = p.with_parameters();
      if (!p.bias.empty()) options.score.bias = bias.view();
      const std::vector<double> rows(at(2 * 4 * 3));
      Floats out(p.d_out, p.q_shape(2)), lse(rows, row), entropy(rows, row);
      const Plan made = plan(kShape, options, context);
      made.run(q.view(), k.view(), v.view(), out.view(),
               {.lse = lse.view(), .entropy = entropy.view()});
      made.backward({q.view(), k.view(), v.view()},
                    {.out = out.view(), .lse = lse.view(), .entropy = entropy.view()},
                    {.out = d_out.view(), .lse = d_lse.view(), .entropy = d_entropy.view()},
                    {.q = dq.view(),
                     .k = dk.view(),
                     .v = dv.view(),
                     .bias = d_bias.view(),
                     .alibi_slopes = d_slopes.view(),
                     .t5 = d_t5.view(),
                     .sinks = d_sinks.view()});
      // Sums of at most 100 terms of a few units, each off by some roundings of logits of a few
      // units: 1e-5 each; a wrong term shows as 1e-3 or more.
      const auto compare = [&](const Floats& found, const std::vector<double>& truth,
                               const char* what) {
        for (std::size_t i = 0; i < truth.size(); ++i) {
          ASSERT_NEAR(found.x[i], truth[i], 1e-4)
              << option.name << (terms ? " and terms, " : ", ") << what << " " << i;
        }
      };
      compare(dq, expected.q, "q");
      compare(dk, expected.k, "k");
      compare(dv, expected.v, "v");
      compare(d_bias, expected.bias, "bias");
      compare(d_slopes, expected.slopes, "slopes");
      compare(d_t5, expected.t5, "t5");
      compare(d_sinks, expected.sinks, "sinks");
    }
  }
}

TEST(GradientInFloat32, EveryOption) {
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    expect_float32(Context({.threads = 2, .isa = isa}));
  }
}

}  // namespace
}  // namespace attn::test
