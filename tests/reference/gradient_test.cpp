// The oracle's gradients against finite differences in float64: every option, every pair of
// options, and the edges of the contract.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention/cases.h"
#include "attn/reference.h"

namespace attn::test {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Multiples of 2^-8 below 2 in size, so that float32 holds them and what is added to them exactly.
std::vector<double> coarse(std::int64_t n, Random& random) {
  std::vector<double> x(at(n));
  for (double& e : x) e = static_cast<double>(random.below(513) - 256) / 256;
  return x;
}

// s -> s^2 / 4 + 0.1 (k - q) s, hiding some pairs; and its derivative.
bool custom_hides(std::int64_t q, std::int64_t k) { return (q + 2 * k) % 7 == 3; }
void custom_score(const ScoreTile& t) {
  for (std::size_t r = 0; r < t.q.size(); ++r) {
    for (std::int64_t j = 0; j < t.k_count; ++j) {
      double& s = t.s64[static_cast<std::int64_t>(r) * t.stride + j];
      const std::int64_t k = t.k_begin + j;
      const double slope = 0.1 * static_cast<double>(k - t.q[r] + t.head);
      s = custom_hides(t.q[r], k) ? -kInf : s * s / 4 + slope * s;
    }
  }
}
void custom_derivative(const ScoreGradientTile& t) {
  for (std::size_t r = 0; r < t.s.q.size(); ++r) {
    for (std::int64_t j = 0; j < t.s.k_count; ++j) {
      const std::int64_t i = static_cast<std::int64_t>(r) * t.s.stride + j;
      const double slope = 0.1 * static_cast<double>(t.s.k_begin + j - t.s.q[r] + t.s.head);
      t.d64[i] *= t.s.s64[i] / 2 + slope;
    }
  }
}

// A differentiable problem: every parameter in one place, as float64.
struct Problem64 {
  AttentionShape shape;
  AttentionOptions options;
  Shape bias_shape{};
  std::vector<double> q, k, v, bias, slopes, t5, sinks;
  std::vector<double> d_out, d_lse, d_entropy;  // empty: nothing flows in

  explicit Problem64(const AttentionShape& s, std::uint64_t seed = 1) : shape(s) {
    shape.dtype = DType::f64;
    Random random(seed);
    q = coarse(s.batch * s.q_heads * s.q_len * s.width, random);
    k = coarse(s.batch * s.kv_heads * s.k_len * s.width, random);
    v = coarse(s.batch * s.kv_heads * s.k_len * s.v_width, random);
    d_out = coarse(s.batch * s.q_heads * s.q_len * s.v_width, random);
  }

  struct Part {
    const char* name;
    std::vector<double> Problem64::*values;
  };
  static std::vector<Part> parts() {
    return {{"q", &Problem64::q},        {"k", &Problem64::k},           {"v", &Problem64::v},
            {"bias", &Problem64::bias},  {"slopes", &Problem64::slopes}, {"t5", &Problem64::t5},
            {"sinks", &Problem64::sinks}};
  }

  template <class X>
  static auto view(X& x, const Shape& s) {
    return x.empty() ? Tensor() : Tensor(const_cast<double*>(x.data()), s);
  }
  Shape q_shape(std::int64_t width) const {
    return {shape.batch, shape.q_heads, shape.q_len, width};
  }
  Shape k_shape(std::int64_t width) const {
    return {shape.batch, shape.kv_heads, shape.k_len, width};
  }
  Tensor qt() const { return {const_cast<double*>(q.data()), q_shape(shape.width)}; }
  Tensor kt() const { return {const_cast<double*>(k.data()), k_shape(shape.width)}; }
  Tensor vt() const { return {const_cast<double*>(v.data()), k_shape(shape.v_width)}; }

  AttentionOptions with_parameters() const {
    AttentionOptions o = options;
    if (!bias.empty()) o.score.bias = ConstTensor(bias.data(), bias_shape);
    if (!slopes.empty()) o.score.alibi_slopes = std::vector<float>(slopes.begin(), slopes.end());
    if (!t5.empty()) o.score.t5->table.assign(t5.begin(), t5.end());
    if (!sinks.empty()) o.score.sinks.assign(sinks.begin(), sinks.end());
    return o;
  }

  // The loss is linear in what the run returns.
  double loss() const {
    std::vector<double> out(d_out.size()), lse(at(shape.batch * shape.q_heads * shape.q_len)),
        entropy(lse.size());
    reference::attention(qt(), kt(), vt(), Tensor(out.data(), q_shape(shape.v_width)),
                         with_parameters(),
                         {.lse = view(lse, q_shape(1)), .entropy = view(entropy, q_shape(1))});
    double sum = 0;
    for (std::size_t i = 0; i < d_out.size(); ++i) sum += d_out[i] * out[i];
    for (std::size_t i = 0; i < d_lse.size(); ++i)
      sum += std::isinf(lse[i]) ? 0 : d_lse[i] * lse[i];
    for (std::size_t i = 0; i < d_entropy.size(); ++i) sum += d_entropy[i] * entropy[i];
    return sum;
  }

  // Gradients take the places of the parameters.
  Problem64 gradient(bool accumulate = false, double before = 99) const {
    Problem64 g = *this;
    for (const auto& part : parts()) {
      for (double& x : g.*part.values) x = before;
    }
    const InputGradients to = {
        .q = view(g.q, q_shape(shape.width)),
        .k = view(g.k, k_shape(shape.width)),
        .v = view(g.v, k_shape(shape.v_width)),
        .bias = view(g.bias, bias_shape),
        .alibi_slopes = view(g.slopes, {1, 1, 1, shape.q_heads}),
        .t5 = view(g.t5, {1, 1, options.score.t5 ? options.score.t5->buckets : 0, shape.q_heads}),
        .sinks = view(g.sinks, {1, 1, 1, shape.q_heads}),
        .accumulate = accumulate};
    reference::backward({qt(), kt(), vt()},
                        {.out = view(d_out, q_shape(shape.v_width)),
                         .lse = view(d_lse, q_shape(1)),
                         .entropy = view(d_entropy, q_shape(1))},
                        to, with_parameters());
    return g;
  }
};

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

struct Option {
  const char* name;
  std::function<void(Problem64&)> set;
};

std::vector<Option> all_options() {
  const auto bias_of = [](const Shape& shape) {
    return [shape](Problem64& p) {
      Random random(3);
      p.bias_shape = shape;
      p.bias = coarse(shape[0] * shape[1] * shape[2] * shape[3], random);
      // Hides some pairs.
      if (p.bias.size() > 8) p.bias[3] = p.bias[8] = -kInf;
    };
  };
  const auto t5_of = [](bool both) {
    return [both](Problem64& p) {
      Random random(4);
      p.options.score.t5 =
          T5Bias{.table = {}, .buckets = 6, .max_distance = 4, .bidirectional = both};
      p.t5 = coarse(6 * p.shape.q_heads, random);
    };
  };
  return {
      {"causal", [](Problem64& p) { p.options.mask = p.options.mask & Mask::causal(); }},
      {"window", [](Problem64& p) { p.options.mask = p.options.mask & Mask::window(2, 1); }},
      {"start", [](Problem64& p) { p.options.query_start = 2; }},
      {"early", [](Problem64& p) { p.options.query_start = -2; }},
      {"scale", [](Problem64& p) { p.options.score.scale = 1.75; }},
      {"cap", [](Problem64& p) { p.options.score.soft_cap = 0.75; }},
      {"bias", bias_of({2, 4, 3, 5})},
      {"bias_heads", bias_of({1, 4, 3, 1})},
      {"bias_keys", bias_of({2, 1, 1, 5})},
      {"slopes",
       [](Problem64& p) {
         Random random(5);
         p.options.score.alibi_slopes = std::vector<float>{};
         p.slopes = coarse(p.shape.q_heads, random);
       }},
      {"t5", t5_of(true)},
      {"t5_decoder", t5_of(false)},
      {"sinks",
       [](Problem64& p) {
         p.sinks = {0.5, -1, 2, 0};
       }},
      {"custom",
       [](Problem64& p) {
         p.options.score.custom = custom_score;
         p.options.score.custom_gradient = custom_derivative;
       }},
      {"dropout", [](Problem64& p) { p.options.dropout = {.p = 0.3, .seed = 11, .offset = 5}; }},
      {"lse",
       [](Problem64& p) {
         Random random(6);
         p.d_lse = coarse(p.shape.batch * p.shape.q_heads * p.shape.q_len, random);
       }},
      {"entropy",
       [](Problem64& p) {
         Random random(7);
         p.d_entropy = coarse(p.shape.batch * p.shape.q_heads * p.shape.q_len, random);
       }},
  };
}

// Grouped heads, more keys than queries, values of another width.
const AttentionShape kShape = make_shape(2, 4, 2, 3, 5, 3, 2);

TEST(Gradient, Plain) { expect_each(Problem64(kShape), "plain"); }

TEST(Gradient, EveryOption) {
  for (const Option& option : all_options()) {
    Problem64 p(kShape);
    option.set(p);
    expect_each(p, option.name);
  }
}

TEST(Gradient, EveryPairOfOptions) {
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

TEST(Gradient, Everything) {
  Problem64 p(kShape);
  for (const Option& option : all_options()) option.set(p);
  p.options.query_start = 1;
  expect_each(p, "everything");
}

TEST(Gradient, Shapes) {
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

TEST(Gradient, PositionsAndPadding) {
  Problem64 p(kShape);
  p.options.q_positions = {4, 0, 9};
  p.options.k_positions = {1, 2, 4, 5, 9};
  p.options.mask = Mask::causal() & Mask::padding({5, 3});
  p.options.score.alibi_slopes = std::vector<float>{};
  p.slopes = {0.5, 0.25, 1, 0.125};
  expect_each(p, "positions");
}

TEST(Gradient, RaggedIsSeparate) {
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

TEST(Gradient, AccumulatesOrReplaces) {
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

TEST(Gradient, EmptyRowsAreZeroAndHideTheirPoison) {
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

TEST(Gradient, PoisonReachesOnlyWhatSeesIt) {
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

TEST(Gradient, HugeLogitsStayFinite) {
  Problem64 p(kShape);
  for (double& x : p.q) x *= 4096;
  p.d_lse.assign(24, 1.0);
  p.d_entropy.assign(24, 1.0);
  const Problem64 g = p.gradient();
  for (double x : g.q) EXPECT_TRUE(std::isfinite(x));
  for (double x : g.k) EXPECT_TRUE(std::isfinite(x));
}

TEST(Gradient, Float32IsTheSameRounded) {
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

}  // namespace
}  // namespace attn::test
