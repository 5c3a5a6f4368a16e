// Linear attention by states against every pair of a query and a key, its gradients, and what
// FAVOR+ promises about its estimate.
#include "attn/linear_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include "attn/reference.h"
#include "attn/reference_recurrent.h"

namespace attn::test {
namespace {

struct LinearCase {
  std::string name;
  FeatureMap map = FeatureMap::elu_plus_one;
  bool causal = true, normalise = true;
  std::int64_t batch = 1, q_heads = 1, heads = 1, length = 1, width = 4, v_width = 3;
  std::int64_t features = 0;
  double size = 1;  // of queries and keys
  std::vector<std::int64_t> offsets = {};

  LinearAttentionOptions options() const {
    LinearAttentionOptions o;
    o.map = map;
    o.causal = causal;
    o.normalise = normalise;
    o.offsets = offsets;
    if (map == FeatureMap::favor) o.random = std::make_shared<RandomFeatures>(width, features, 7);
    return o;
  }
  Shape qk() const { return {batch, q_heads, length, width}; }
  Shape values() const { return {batch, heads, length, v_width}; }
  friend std::ostream& operator<<(std::ostream& o, const LinearCase& c) { return o << c.name; }
};

template <class T>
struct LinearProblem {
  LinearCase c;
  std::vector<T> q, k, v, out;
  explicit LinearProblem(const LinearCase& given) : c(given) {
    std::mt19937_64 random(3);
    std::normal_distribution<double> normal;
    const auto fill = [&](const Shape& s, double size) {
      std::vector<T> x(static_cast<std::size_t>(s[0] * s[1] * s[2] * s[3]));
      for (T& e : x) e = static_cast<T>(static_cast<float>(size * normal(random)));
      return x;
    };
    q = fill(c.qk(), c.size);
    k = fill(c.qk(), c.size);
    v = fill(c.values(), 1);
    out.assign(v.size(), T(-7));
  }
  ConstTensor qt() const { return {q.data(), c.qk()}; }
  ConstTensor kt() const { return {k.data(), c.qk()}; }
  ConstTensor vt() const { return {v.data(), c.values()}; }
  Tensor ot() { return {out.data(), c.values()}; }
};

std::vector<LinearCase> cases() {
  std::vector<LinearCase> all;
  const std::pair<const char*, FeatureMap> maps[] = {{"identity", FeatureMap::identity},
                                                     {"relu", FeatureMap::relu},
                                                     {"elu", FeatureMap::elu_plus_one},
                                                     {"favor", FeatureMap::favor}};
  for (const auto& [name, map] : maps) {
    for (bool causal : {true, false}) {
      LinearCase c;
      c.map = map, c.causal = causal;
      c.normalise = map != FeatureMap::identity;
      c.batch = 2, c.q_heads = 1, c.heads = 2, c.length = 131, c.width = 7, c.v_width = 5;
      c.features = 19;
      c.name = std::string(name) + (causal ? "_causal" : "_all");
      all.push_back(c);
      LinearCase ragged = c;
      ragged.batch = 1, ragged.length = 70, ragged.offsets = {0, 0, 1, 66, 70};
      ragged.name += "_ragged";
      all.push_back(ragged);
      c.batch = c.heads = 1, c.length = 1, c.name += "_one";
      all.push_back(c);
    }
  }
  LinearCase c;
  c.map = FeatureMap::favor, c.length = 700, c.width = 16, c.v_width = 16, c.features = 64;
  c.size = 6, c.name = "favor_huge";
  all.push_back(c);
  c.map = FeatureMap::elu_plus_one, c.width = 257, c.length = 65, c.size = 1, c.name = "elu_wide";
  all.push_back(c);
  c.width = 1, c.length = 0, c.name = "elu_empty";
  all.push_back(c);
  c.map = FeatureMap::favor, c.features = 5, c.name = "favor_empty";
  all.push_back(c);
  c.length = 67, c.q_heads = 2, c.heads = 14, c.name = "favor_groups_of_seven";
  all.push_back(c);
  c.map = FeatureMap::elu_plus_one, c.name = "elu_groups_of_seven";
  all.push_back(c);
  c.map = FeatureMap::favor, c.q_heads = c.heads = 1, c.width = 257, c.v_width = 1;
  c.size = 0.25, c.name = "favor_wide";
  all.push_back(c);
  return all;
}

class Linear : public testing::TestWithParam<LinearCase> {};

template <class T>
void expect_near(const std::vector<T>& x, const std::vector<double>& expected, double bound) {
  ASSERT_EQ(x.size(), expected.size());
  double largest = 0;
  for (double e : expected) largest = std::max(largest, std::abs(e));
  for (std::size_t i = 0; i < x.size(); ++i)
    ASSERT_TRUE(std::abs(static_cast<double>(x[i]) - expected[i]) <= bound * (largest + 1))
        << i << ": " << x[i] << " " << expected[i];
}

// In float32 exponents of size e carry an error of e epsilon.
double float_bound(const LinearCase& c) { return 2e-5 * std::max(1.0, c.size * c.size); }

TEST_P(Linear, EqualsEveryPair) {
  LinearProblem<double> exact(GetParam());
  const LinearAttentionOptions options = GetParam().options();
  reference::linear_attention(exact.qt(), exact.kt(), exact.vt(), exact.ot(), options);
  for (Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    const Context context({.threads = 2, .isa = isa});
    LinearProblem<float> p(GetParam());
    linear_attention(p.qt(), p.kt(), p.vt(), p.ot(), options, {}, context);
    expect_near(p.out, exact.out, float_bound(GetParam()));
    LinearProblem<double> d(GetParam());
    linear_attention(d.qt(), d.kt(), d.vt(), d.ot(), options, {}, context);
    expect_near(d.out, exact.out, 1e-10);
    LinearProblem<float> again(GetParam());
    linear_attention(again.qt(), again.kt(), again.vt(), again.ot(), options, {},
                     Context({.threads = 3, .isa = isa}));
    EXPECT_EQ(again.out, p.out);
  }
}

TEST_P(Linear, GradientsEqualFiniteDifferences) {
  LinearCase c = GetParam();
  if (c.length > 100) c.length = 70, c.size = 1;  // the oracle runs for every slope
  LinearProblem<double> p(c);
  const LinearAttentionOptions options = c.options();
  std::vector<double> d_out(p.out.size());
  for (std::size_t i = 0; i < d_out.size(); ++i) d_out[i] = std::cos(static_cast<double>(i));
  std::vector<double> dq(p.q.size()), dk(p.k.size()), dv(p.v.size());
  linear_attention_backward(p.qt(), p.kt(), p.vt(), {d_out.data(), c.values()}, {dq.data(), c.qk()},
                            {dk.data(), c.qk()}, {dv.data(), c.values()}, options);
  const auto loss = [&] {
    reference::linear_attention(p.qt(), p.kt(), p.vt(), p.ot(), options);
    double sum = 0;
    for (std::size_t i = 0; i < d_out.size(); ++i) sum += d_out[i] * p.out[i];
    return sum;
  };
  const auto check = [&](const char* what, std::vector<double>& x, const std::vector<double>& d) {
    const std::size_t stride = std::max<std::size_t>(1, x.size() / 7);
    for (std::size_t i = 0; i < x.size(); i += stride) {
      constexpr double kStep = 1e-5;
      const double kept = x[i];
      x[i] = kept + kStep;
      const double above = loss();
      x[i] = kept - kStep;
      const double below = loss();
      x[i] = kept;
      const double expected = (above - below) / (2 * kStep);
      ASSERT_TRUE(std::abs(d[i] - expected) <= 1e-6 * (1 + std::abs(expected) + std::abs(above)))
          << what << " " << i << ": " << d[i] << ", finite difference " << expected;
    }
  };
  check("q", p.q, dq);
  check("k", p.k, dk);
  check("v", p.v, dv);
}

// Two parts in one state; and two states merged.
TEST_P(Linear, ContinuesAndMerges) {
  const LinearCase& c = GetParam();
  if (!c.causal || c.length < 2 || !c.offsets.empty()) return;
  const LinearAttentionOptions options = c.options();
  LinearProblem<double> whole(c);
  const Shape sums{c.batch, c.heads, c.map == FeatureMap::favor ? c.features : c.width,
                   c.v_width + (c.normalise ? 1 : 0)};
  const Shape scales{c.batch, c.heads, 1, 1};
  struct State {
    std::vector<double> sums, scale;
    LinearState view;
  };
  const auto make = [&] {
    State s;
    s.sums.assign(static_cast<std::size_t>(sums[0] * sums[1] * sums[2] * sums[3]), 0.0);
    s.scale.assign(static_cast<std::size_t>(scales[0] * scales[1]),
                   -std::numeric_limits<double>::infinity());
    s.view.sums = {s.sums.data(), sums};
    if (c.map == FeatureMap::favor) s.view.log_scale = {s.scale.data(), scales};
    return s;
  };
  State all = make(), first = make(), second = make(), both = make();
  linear_attention(whole.qt(), whole.kt(), whole.vt(), whole.ot(), options, all.view);
  const std::int64_t cut = c.length / 3;
  const auto part = [](auto x, std::int64_t begin, std::int64_t n) {
    x.data = static_cast<decltype(x.data)>(const_cast<double*>(static_cast<const double*>(x.data)) +
                                           begin * x.strides[2]);
    x.shape[2] = n;
    return x;
  };
  LinearProblem<double> parts(c);
  const auto run = [&](std::int64_t begin, std::int64_t n, const State& s) {
    linear_attention(part(parts.qt(), begin, n), part(parts.kt(), begin, n),
                     part(parts.vt(), begin, n), part(parts.ot(), begin, n), options, s.view);
  };
  run(cut, c.length - cut, second);  // alone
  run(0, cut, first);
  merge_linear_states(first.view, second.view, both.view);
  run(cut, c.length - cut, first);  // after the first
  expect_near(parts.out, whole.out, 1e-10);
  expect_near(first.sums, all.sums, 1e-10);
  expect_near(both.sums, all.sums, 1e-10);
}

// States too; a single token alone is a step, which rounds otherwise.
TEST_P(Linear, RaggedEqualsSeparate) {
  const LinearCase& c = GetParam();
  if (!c.causal || c.offsets.empty()) return;
  const auto sequences = static_cast<std::int64_t>(c.offsets.size()) - 1;
  const std::int64_t rows = c.map == FeatureMap::favor ? c.features : c.width;
  const std::int64_t columns = c.v_width + (c.normalise ? 1 : 0);
  struct State {
    std::vector<float> sums, scale;
    State(std::int64_t sums_count, std::int64_t scales)
        : sums(static_cast<std::size_t>(sums_count)),
          scale(static_cast<std::size_t>(scales), -std::numeric_limits<float>::infinity()) {}
  };
  const auto view = [&](State& s, std::int64_t first, std::int64_t count) {
    LinearState state;
    state.sums = {s.sums.data() + first * c.heads * rows * columns,
                  Shape{count, c.heads, rows, columns}};
    if (c.map == FeatureMap::favor)
      state.log_scale = {s.scale.data() + first * c.heads, Shape{count, c.heads, 1, 1}};
    return state;
  };
  State together(sequences * c.heads * rows * columns, sequences * c.heads), apart = together;
  LinearProblem<float> ragged(c), alone(c);
  linear_attention(ragged.qt(), ragged.kt(), ragged.vt(), ragged.ot(), c.options(),
                   view(together, 0, sequences));
  const auto part = [](auto x, std::int64_t begin, std::int64_t end) {
    x.data = static_cast<decltype(x.data)>(const_cast<float*>(static_cast<const float*>(x.data)) +
                                           begin * x.strides[2]);
    x.shape[2] = end - begin;
    return x;
  };
  LinearAttentionOptions options = c.options();
  options.offsets.clear();
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t begin = c.offsets[static_cast<std::size_t>(s)],
                       end = c.offsets[static_cast<std::size_t>(s) + 1];
    linear_attention(part(alone.qt(), begin, end), part(alone.kt(), begin, end),
                     part(alone.vt(), begin, end), part(alone.ot(), begin, end), options,
                     view(apart, s, 1));
  }
  expect_near(ragged.out, {alone.out.begin(), alone.out.end()}, 1e-6);
  expect_near(together.sums, {apart.sums.begin(), apart.sums.end()}, 1e-6);
  EXPECT_EQ(together.scale, apart.scale);
}

INSTANTIATE_TEST_SUITE_P(Cases, Linear, testing::ValuesIn(cases()),
                         [](const auto& given) { return given.param.name; });

// What a later key holds changes no earlier output, to the bit, though it moves the scale.
TEST(Favor, IsCausal) {
  LinearCase c;
  c.map = FeatureMap::favor, c.length = 100, c.width = 8, c.features = 32;
  LinearProblem<float> p(c), other(c);
  for (std::size_t i = 90 * 8; i < other.k.size(); ++i) other.k[i] *= 20;
  const LinearAttentionOptions options = c.options();
  for (LinearProblem<float>* x : {&p, &other})
    linear_attention(x->qt(), x->kt(), x->vt(), x->ot(), options);
  // Up to the last chunk, whose length a new scale may change.
  EXPECT_TRUE(std::equal(p.out.begin(), p.out.begin() + 64 * 3, other.out.begin()));
  for (std::size_t i = 0; i < 90 * 3; ++i) EXPECT_NEAR(p.out[i], other.out[i], 1e-5) << i;
}

// The estimate of exp(q . k / sqrt(D)) for one pair.
double estimate(const std::vector<double>& q, const std::vector<double>& k,
                const RandomFeatures& random) {
  double sum = 0, qq = 0, kk = 0;
  const double scale = std::pow(static_cast<double>(q.size()), -0.25);
  for (std::size_t c = 0; c < q.size(); ++c) {
    qq += scale * scale * q[c] * q[c];
    kk += scale * scale * k[c] * k[c];
  }
  for (std::int64_t m = 0; m < random.count(); ++m) {
    double along = 0;
    for (std::size_t c = 0; c < q.size(); ++c)
      along +=
          random.directions()[static_cast<std::size_t>(m) * q.size() + c] * scale * (q[c] + k[c]);
    sum += std::exp(along - qq / 2 - kk / 2);
  }
  return sum / static_cast<double>(random.count());
}

// What a state of one token holds are the features whose products that sums up.
TEST(Favor, StatesHoldTheFeaturesOfTheEstimate) {
  std::mt19937_64 random(12);
  std::normal_distribution<double> normal;
  for (const std::int64_t count : {1, 19, 64}) {
    LinearAttentionOptions options{.map = FeatureMap::favor};
    options.random = std::make_shared<RandomFeatures>(16, count, 5);
    const auto features = [&](const std::vector<double>& x) {
      const double one = 1;
      double out = 0, log_scale = -std::numeric_limits<double>::infinity();
      std::vector<double> sums(static_cast<std::size_t>(count) * 2), phi;
      const Shape wide{1, 1, 1, 16}, narrow{1, 1, 1, 1};
      linear_attention({x.data(), wide}, {x.data(), wide}, {&one, narrow}, {&out, narrow}, options,
                       {{sums.data(), {1, 1, count, 2}}, {&log_scale, narrow}});
      EXPECT_NEAR(out, 1, 1e-14);
      for (std::size_t m = 0; m < sums.size(); m += 2)
        phi.push_back(sums[m + 1] * std::exp(log_scale));
      return phi;
    };
    std::vector<double> q(16), k(16);
    for (double& x : q) x = normal(random);
    for (double& x : k) x = normal(random);
    const std::vector<double> of_q = features(q), of_k = features(k);
    double sum = 0;
    for (std::size_t m = 0; m < of_q.size(); ++m) sum += of_q[m] * of_k[m];
    const double expected = estimate(q, k, *options.random);
    EXPECT_NEAR(sum / expected, 1, 1e-12) << count;
  }
}

TEST(Favor, EstimateIsUnbiasedOverDraws) {
  std::mt19937_64 random(11);
  std::normal_distribution<double> normal;
  for (bool orthogonal : {true, false}) {
    for (int pair = 0; pair < 3; ++pair) {
      std::vector<double> q(16), k(16);
      double dot = 0;
      for (std::size_t c = 0; c < 16; ++c) {
        q[c] = normal(random);
        k[c] = normal(random);
        dot += q[c] * k[c];
      }
      const double exact = std::exp(dot / 4);
      double sum = 0, squares = 0;
      constexpr int kDraws = 4000;
      for (int i = 0; i < kDraws; ++i) {
        const double e = estimate(
            q, k, RandomFeatures(16, 32, static_cast<std::uint64_t>(i) * 3 + 1, orthogonal));
        sum += e;
        squares += e * e;
      }
      const double mean = sum / kDraws;
      const double error = std::sqrt((squares / kDraws - mean * mean) / kDraws);
      EXPECT_NEAR(mean, exact, 3 * error) << "orthogonal " << orthogonal;
    }
  }
}

// The mean error of the output falls as 1 / sqrt(features).
TEST(Favor, ErrorFallsWithFeatures) {
  LinearCase c;
  c.map = FeatureMap::favor, c.length = 96, c.width = 16, c.v_width = 8, c.causal = false;
  c.features = 16;
  // The variance grows as e^(|q + k|^2): larger ones need more features for the law to hold.
  c.size = 0.25;
  LinearProblem<double> p(c);
  AttentionOptions exact;
  std::vector<double> softmax(p.out.size());
  reference::attention(p.qt(), p.kt(), p.vt(), {softmax.data(), c.values()}, exact);
  std::vector<double> x, y;
  for (std::int64_t m = 16; m <= 1024; m *= 2) {
    double error = 0;
    constexpr int kDraws = 40;
    for (int i = 0; i < kDraws; ++i) {
      LinearAttentionOptions options = c.options();
      options.random = std::make_shared<RandomFeatures>(16, m, static_cast<std::uint64_t>(i) + 100);
      linear_attention(p.qt(), p.kt(), p.vt(), p.ot(), options);
      double square = 0;
      for (std::size_t j = 0; j < softmax.size(); ++j)
        square += (p.out[j] - softmax[j]) * (p.out[j] - softmax[j]);
      error += std::sqrt(square / static_cast<double>(softmax.size())) / kDraws;
    }
    x.push_back(std::log(static_cast<double>(m)));
    y.push_back(std::log(error));
  }
  const auto n = static_cast<double>(x.size());
  double sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sx += x[i], sy += y[i], sxx += x[i] * x[i], sxy += x[i] * y[i];
  }
  const double slope = (n * sxy - sx * sy) / (n * sxx - sx * sx);
  EXPECT_NEAR(slope, -0.5, 0.1);
}

TEST(Favor, DirectionsAreOrthogonalAndReproducible) {
  const RandomFeatures a(8, 20, 5), b(8, 20, 5), other(8, 20, 6);
  EXPECT_EQ(a.directions(), b.directions());
  EXPECT_NE(a.directions(), other.directions());
  for (std::size_t i = 0; i < 20; ++i) {
    for (std::size_t j = i / 8 * 8; j < i; ++j) {
      double dot = 0;
      for (std::size_t c = 0; c < 8; ++c)
        dot += a.directions()[i * 8 + c] * a.directions()[j * 8 + c];
      EXPECT_NEAR(dot, 0, 1e-12);
    }
  }
}

TEST(LinearErrors, SayWhatIsWrong) {
  LinearCase c;
  c.length = 3;
  LinearProblem<float> p(c);
  const auto refused = [&](const char* what, LinearAttentionOptions options,
                           LinearState state = {}) {
    try {
      linear_attention(p.qt(), p.kt(), p.vt(), p.ot(), options, state);
      FAIL() << what;
    } catch (const std::invalid_argument& e) {
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    }
  };
  LinearAttentionOptions favor;
  favor.map = FeatureMap::favor;
  refused("[linear_attention] favor needs random features", favor);
  favor.random = std::make_shared<RandomFeatures>(5, 8, 1);
  refused("the random features has width 5, q has 4", favor);
  favor.random = std::make_shared<RandomFeatures>(4, 8, 1);
  favor.normalise = false;
  refused("favor needs the normalisation", favor);
  LinearAttentionOptions all;
  all.causal = false;
  std::vector<float> sums(4 * 4);
  refused("a state is for causal attention", all, {{sums.data(), {1, 1, 4, 4}}, {}});
  refused("state.sums has shape", {}, {{sums.data(), {1, 1, 4, 3}}, {}});
  LinearAttentionOptions ragged;
  ragged.offsets = {0, 2};
  refused("offsets run from 0 to 2, must run from 0 to 3", ragged);
  ragged.offsets = {0, 1, 3};
  refused("state.sums has shape", ragged, {{sums.data(), {1, 1, 4, 4}}, {}});
  EXPECT_THROW(RandomFeatures(0, 8, 1), std::invalid_argument);
  EXPECT_THROW(RandomFeatures(8, 0, 1), std::invalid_argument);
}

}  // namespace
}  // namespace attn::test
