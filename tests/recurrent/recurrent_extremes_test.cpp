// A million tokens with gates at both extremes, for every gate and rule: nothing overflows, nothing
// becomes NaN, and the results are those of the oracle. Gradients are finite, of fewer tokens.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "attn/linear_attention.h"
#include "peak_memory.h"
#include "recurrent/problem.h"

namespace attn::test {
namespace {

constexpr std::int64_t kMillion = 1'000'000;
constexpr float kInf = std::numeric_limits<float>::infinity();

template <class T>
bool finite(const std::vector<T>& x) {
  return std::all_of(x.begin(), x.end(), [](T v) { return std::isfinite(v); });
}

// Stretches of 500 tokens that hardly forget, and of 500 where any gate may come.
RecurrentProblem<float> problem_of(const RecurrentCase& c) {
  RecurrentProblem<float> p(c);
  const float gates[] = {0, -1e-30f, -1e-3f, -0.5f, -20, -1e4f, -3e38f, -kInf};
  const std::size_t width = p.log_decay.size() / static_cast<std::size_t>(c.length);
  std::mt19937 random(9);
  for (std::size_t i = 0; i < p.log_decay.size(); ++i)
    p.log_decay[i] = gates[random() % (i / width % 1000 < 500 ? 3 : 8)];
  return p;
}

std::vector<RecurrentCase> cases() {
  std::vector<RecurrentCase> all;
  RecurrentCase c;
  c.length = kMillion, c.width = 3, c.v_width = 2, c.decay = Decay::token;
  c.beta = c.normalise = true, c.name = "token_normalised";
  all.push_back(c);
  c.normalise = false, c.rule = StateRule::delta, c.name = "token_delta";
  all.push_back(c);
  c.decay = Decay::channel_and_token, c.name = "channel_delta";
  all.push_back(c);
  c.rule = StateRule::add, c.name = "channel_beta";
  all.push_back(c);
  c.beta = false, c.bonus = true, c.name = "channel_bonus";
  all.push_back(c);
  c.bonus = false, c.rank_one = true, c.name = "channel_rank_one";
  all.push_back(c);
  return all;
}

class RecurrentExtremes : public testing::TestWithParam<RecurrentCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, RecurrentExtremes, testing::ValuesIn(cases()),
                         [](const auto& given) { return given.param.name; });

TEST_P(RecurrentExtremes, AMillionTokens) {
  RecurrentProblem<float> p = problem_of(GetParam());
  const RecurrentProblem<double> e = exact(p);
  // What was more than a stretch of 1000 tokens ago is forgotten, and so are its errors.
  const double bound = recurrent_bound(p) * (1000 + 128) / static_cast<double>(kMillion);
  p.run(Context({.threads = 2}));
  for (std::size_t i = 0; i < p.out.size(); ++i)
    ASSERT_TRUE(std::abs(static_cast<double>(p.out[i]) - e.out[i]) <= bound)
        << i << ": " << p.out[i] << " " << e.out[i] << " bound " << bound;
  EXPECT_TRUE(finite(p.after));
}

TEST_P(RecurrentExtremes, GradientsAreFinite) {
  RecurrentCase c = GetParam();
  c.length = kMillion / 10;
  const RecurrentProblem<float> p = problem_of(c);
  const RecurrentInputs in = p.inputs();
  std::vector<std::vector<float>> made;
  const auto like = [&](const ConstTensor& x) {
    if (x.empty()) return Tensor();
    return Tensor(made.emplace_back(test::size_of(x.shape), 7.0f).data(), x.shape);
  };
  made.reserve(8);
  RecurrentGradients to;
  to.q = like(in.q), to.k = like(in.k), to.v = like(in.v), to.log_decay = like(in.log_decay);
  to.beta = like(in.beta), to.bonus = like(in.bonus), to.a = like(in.a), to.b = like(in.b);
  const std::vector<float> ones(p.out.size(), 1.0f);
  recurrent_backward(in, {ones.data(), p.c.values()}, {}, to, p.c.options(),
                     Context({.threads = 2}));
  for (std::size_t i = 0; i < made.size(); ++i) EXPECT_TRUE(finite(made[i])) << i;
}

// States at every 64th token, and the gradient of log_decay by heads: one for every token would be
// 1 GiB.
TEST(RecurrentMemory, GradientsKeepSomeStates) {
  RecurrentCase c;
  c.length = 65536, c.width = c.v_width = 64, c.decay = Decay::channel_and_token;
  const RecurrentProblem<float> p(c);
  std::vector<float> q(p.q.size(), 7), k(q), v(q), log_decay(q);
  const std::int64_t before = peak_kb();
  if (before == 0) GTEST_SKIP() << "no /proc/self/status";
  recurrent_backward(p.inputs(), {p.v.data(), c.values()}, {},
                     {.q = {q.data(), c.qk()},
                      .k = {k.data(), c.qk()},
                      .v = {v.data(), c.values()},
                      .log_decay = {log_decay.data(), c.qk()}},
                     {}, Context({.threads = 1}));
  constexpr std::int64_t kOfTokens = 65536 * 64 * 4, kStates = 65536 / 64 * 64 * 64 * 4;
  EXPECT_LT(peak_kb() - before, (kOfTokens + kStates) / 1024 + 4 * 1024);
}

// A weighted mean stays between the values, whatever the weights.
TEST(LinearExtremes, AMillionTokensOfSmallAndHugeKeys) {
  const Shape wide{1, 1, kMillion, 2}, narrow{1, 1, kMillion, 1};
  std::mt19937 random(4);
  std::uniform_real_distribution<float> unit(-1, 1);
  std::vector<float> q(2 * kMillion), k(q.size()), v(kMillion), out(v.size());
  const float sizes[] = {0, 1e-20f, 1e-3f, 1, 30};
  for (float& x : q) x = unit(random) * sizes[random() % 5];
  for (float& x : k) x = unit(random) * sizes[random() % 5];
  for (float& x : v) x = unit(random);
  for (const FeatureMap map : {FeatureMap::relu, FeatureMap::elu_plus_one, FeatureMap::favor}) {
    LinearAttentionOptions options{.map = map};
    if (map == FeatureMap::favor) options.random = std::make_shared<RandomFeatures>(2, 8, 1);
    std::fill(out.begin(), out.end(), 7.0f);
    linear_attention({q.data(), wide}, {k.data(), wide}, {v.data(), narrow}, {out.data(), narrow},
                     options);
    const auto [low, high] = std::minmax_element(out.begin(), out.end());
    EXPECT_TRUE(finite(out));
    EXPECT_GE(*low, -1.001f) << static_cast<int>(map);
    EXPECT_LE(*high, 1.001f) << static_cast<int>(map);
  }
}

}  // namespace
}  // namespace attn::test
