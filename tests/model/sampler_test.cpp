// Which tokens may follow, how often, and that a seed decides.
#include "model/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <vector>

#include "folder.h"

namespace attn {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

// Frequencies of tokens over many draws.
std::map<std::int32_t, double> frequencies(const SamplerOptions& options,
                                           const std::vector<float>& logits, int draws = 20000) {
  Sampler sampler(options);
  std::map<std::int32_t, double> seen;
  for (int i = 0; i < draws; ++i) seen[sampler.next(logits, {})] += 1.0 / draws;
  return seen;
}

TEST(Sampler, ZeroTemperatureTakesTheLargest) {
  Sampler greedy({});
  EXPECT_EQ(greedy.next(std::vector<float>{1, 3, 3, 2}, {}), 1);
  EXPECT_EQ(greedy.next(std::vector<float>{kNan, -kInf, -5}, {}), 2);
  EXPECT_EQ(greedy.next(std::vector<float>{1, kInf}, {}), 1);
}

TEST(Sampler, DrawsInProportion) {
  const std::vector<float> logits = {std::log(5.0F), std::log(3.0F), -kInf, std::log(2.0F), kNan};
  const auto seen = frequencies({.temperature = 1, .seed = 7}, logits);
  EXPECT_EQ(seen.size(), 3U);
  EXPECT_NEAR(seen.at(0), 0.5, 0.02);
  EXPECT_NEAR(seen.at(1), 0.3, 0.02);
  EXPECT_NEAR(seen.at(3), 0.2, 0.02);
  // Twice the temperature: roots of the weights.
  const double roots = std::sqrt(5) + std::sqrt(3) + std::sqrt(2);
  EXPECT_NEAR(frequencies({.temperature = 2}, logits).at(0), std::sqrt(5) / roots, 0.02);
}

TEST(Sampler, CutsTheTail) {
  const std::vector<float> logits = {std::log(4.0F), std::log(3.0F), std::log(2.0F),
                                     std::log(1.0F)};
  const auto kept = [&](const SamplerOptions& options) {
    std::vector<std::int32_t> tokens;
    for (const auto& seen : frequencies(options, logits)) tokens.push_back(seen.first);
    return tokens;
  };
  using Tokens = std::vector<std::int32_t>;
  EXPECT_EQ(kept({.temperature = 1, .top_k = 2}), (Tokens{0, 1}));
  EXPECT_EQ(kept({.temperature = 1, .top_k = 9}), (Tokens{0, 1, 2, 3}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.41}), (Tokens{0, 1}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.39}), (Tokens{0}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 1e-9}), (Tokens{0}));
  EXPECT_EQ(kept({.temperature = 1, .min_p = 0.49}), (Tokens{0, 1, 2}));
  EXPECT_EQ(kept({.temperature = 1, .min_p = 1}), (Tokens{0}));
  // The share is of what top-k left, 4/7 and 3/7.
  EXPECT_EQ(kept({.temperature = 1, .top_k = 2, .top_p = 0.57}), (Tokens{0}));
  EXPECT_NEAR(frequencies({.temperature = 1, .top_k = 2}, logits).at(0), 4.0 / 7, 0.02);
}

TEST(Sampler, PenaltyOfWhatIsThere) {
  const std::vector<std::int32_t> before = {0, 0, 1, 99, -1};
  Sampler sampler({.repetition_penalty = 2});
  EXPECT_EQ(sampler.next(std::vector<float>{3, -1, 2}, before), 2);          // 1.5, -2, 2
  EXPECT_EQ(sampler.next(std::vector<float>{-1, -1.5F, -1.9F}, before), 2);  // -2, -3, -1.9
  EXPECT_EQ(sampler.next(std::vector<float>{5, -1, 2}, before), 0);          // once, not twice: 2.5
}

TEST(Sampler, TheSeedDecides) {
  const std::vector<float> logits(100, 0.0F);
  const auto drawn = [&](std::uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 50; ++i) tokens.push_back(sampler.next(logits, {}));
    return tokens;
  };
  EXPECT_EQ(drawn(3), drawn(3));
  EXPECT_NE(drawn(3), drawn(4));
  EXPECT_NE(drawn(3), drawn(3 + (std::uint64_t{1} << 32)));
}

TEST(Sampler, InfiniteLogitsShareEverything) {
  const auto seen = frequencies({.temperature = 1}, {kInf, 2, kInf});
  EXPECT_EQ(seen.count(1), 0U);
  EXPECT_NEAR(seen.at(0), 0.5, 0.02);
}

TEST(Sampler, SettingsWithoutMeaning) {
  const auto message = [](const SamplerOptions& options) {
    return message_of<std::invalid_argument>([&] { Sampler sampler(options); });
  };
  EXPECT_EQ(message({.temperature = -1}), "[sampler] temperature is -1.000000, must be 0 or more");
  EXPECT_NE(message({.temperature = std::nan("")}), "");
  EXPECT_NE(message({.top_k = -1}), "");
  EXPECT_NE(message({.top_p = 0}), "");
  EXPECT_NE(message({.top_p = 1.1}), "");
  EXPECT_NE(message({.min_p = 1.1}), "");
  EXPECT_NE(message({.repetition_penalty = 0}), "");
  Sampler sampler({});
  EXPECT_THROW(sampler.next(std::vector<float>{-kInf, kNan}, {}), std::invalid_argument);
  EXPECT_THROW(sampler.next({}, {}), std::invalid_argument);
}

}  // namespace
}  // namespace attn
