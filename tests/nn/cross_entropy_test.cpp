// Losses against sums in double.
#include "nn/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

namespace attn::nn {
namespace {

struct Answer {
  std::vector<float> losses;
  std::vector<std::int32_t> top;
};

Answer run(const std::vector<float>& logits, const std::vector<std::int32_t>& targets,
           int threads = 1) {
  const auto rows = static_cast<std::int64_t>(targets.size());
  Answer a{std::vector<float>(targets.size()), std::vector<std::int32_t>(targets.size())};
  cross_entropy({.rows = rows,
                 .classes = static_cast<std::int64_t>(logits.size()) / rows,
                 .logits = logits.data(),
                 .targets = targets.data(),
                 .losses = a.losses.data(),
                 .top = a.top.data()},
                Context({.threads = threads}));
  return a;
}

TEST(CrossEntropy, MatchesSumsInDouble) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(3, 5);
  for (const std::size_t classes : {1, 2, 7, 16, 33, 1023, 1024, 1025, 5003}) {
    std::vector<float> logits(3 * classes);
    for (float& x : logits) x = normal(generator);
    const std::vector<std::int32_t> targets = {0, static_cast<std::int32_t>(classes / 2),
                                               static_cast<std::int32_t>(classes - 1)};
    const Answer got = run(logits, targets);
    for (std::size_t r = 0; r < 3; ++r) {
      const float* const x = logits.data() + r * classes;
      std::size_t top = 0;
      for (std::size_t i = 1; i < classes; ++i) top = x[i] > x[top] ? i : top;
      double sum = 0;
      for (std::size_t i = 0; i < classes; ++i)
        sum += std::exp(static_cast<double>(x[i]) - static_cast<double>(x[top]));
      const double loss = std::log(sum) + static_cast<double>(x[top]) -
                          static_cast<double>(x[static_cast<std::size_t>(targets[r])]);
      EXPECT_NEAR(got.losses[r], loss, 1e-6 * (1 + loss)) << classes << " row " << r;
      EXPECT_EQ(got.top[r], static_cast<std::int32_t>(top));
    }
    EXPECT_EQ(run(logits, targets, 3).losses, got.losses) << classes;
  }
}

TEST(CrossEntropy, Edges) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(),
                  kNan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(run({5}, {0}).losses[0], 0);
  EXPECT_FLOAT_EQ(run({2, 2}, {1}).losses[0], std::log(2.0F));
  EXPECT_EQ(run({2, 2}, {1}).top[0], 0);
  // Huge logits neither overflow nor vanish.
  EXPECT_EQ(run({-1e38F, 3e38F}, {1}).losses[0], 0);
  EXPECT_FLOAT_EQ(run({1000, 1010}, {0}).losses[0], 10.0000454F);
  EXPECT_EQ(run({-kInfinity, 1}, {1}).losses[0], 0);
  EXPECT_EQ(run({-kInfinity, 1}, {0}).losses[0], kInfinity);
  for (std::size_t at = 0; at < 40; ++at) {
    std::vector<float> x(40, 1);
    x[at] = kNan;
    EXPECT_TRUE(std::isnan(run(x, {39}).losses[0])) << at;
  }
  EXPECT_THROW(run({1, 2}, {2}), std::invalid_argument);
  EXPECT_THROW(run({1, 2}, {-1}), std::invalid_argument);
}

}  // namespace
}  // namespace attn::nn
