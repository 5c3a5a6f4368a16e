#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/position.h"
#include "golden.h"

namespace attn {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

void expect_slopes(const std::vector<float>& slopes, const std::vector<double>& golden) {
  ASSERT_EQ(slopes.size(), golden.size());
  for (std::size_t i = 0; i < slopes.size(); ++i) {
    // Bloom raises a rounded float to the power i + 1.
    EXPECT_NEAR(slopes[i], golden[i], golden[i] * 6e-8 * static_cast<double>(i + 2)) << i;
  }
}

TEST(Alibi, AgreesWithBloomAndMpt) {
  const test::Golden golden("golden_positions.txt");
  for (int heads : {1, 2, 7, 8, 12, 16, 20, 71, 112}) {
    SCOPED_TRACE(heads);
    expect_slopes(alibi_slopes(heads), golden["alibi_bloom_" + std::to_string(heads)]);
  }
  for (const auto& [heads, bias_max] : {std::pair{8, 8}, {12, 8}, {24, 16}, {40, 4}}) {
    SCOPED_TRACE(heads);
    expect_slopes(alibi_slopes(heads, bias_max),
                  golden["alibi_mpt_" + std::to_string(heads) + "_" + std::to_string(bias_max)]);
  }
}

TEST(Alibi, PublishedValues) {
  EXPECT_EQ(alibi_slopes(8), (std::vector<float>{1 / 2.f, 1 / 4.f, 1 / 8.f, 1 / 16.f, 1 / 32.f,
                                                 1 / 64.f, 1 / 128.f, 1 / 256.f}));
  // Three heads: two of 2^-4, 2^-8, then the first of four heads, 2^-2.
  EXPECT_EQ(alibi_slopes(3), (std::vector<float>{0.0625f, 0.00390625f, 0.25f}));
  EXPECT_THAT([] { alibi_slopes(0); },
              ThrowsMessage<std::invalid_argument>(HasSubstr("[alibi_slopes] heads is 0")));
  EXPECT_THROW(alibi_slopes(8, -1), std::invalid_argument);
}

TEST(T5, AgreesWithTransformers) {
  const test::Golden golden("golden_positions.txt");
  struct Case {
    bool bidirectional;
    int buckets, distance;
  };
  for (const Case& c : {Case{true, 32, 128}, {false, 32, 128}, {true, 64, 256}, {false, 12, 20}}) {
    const std::string name = "t5_" + std::to_string(c.bidirectional) + "_" +
                             std::to_string(c.buckets) + "_" + std::to_string(c.distance);
    const std::vector<double>& expected = golden[name];
    ASSERT_EQ(expected.size(), 601u);
    for (int relative = -300; relative <= 300; ++relative) {
      EXPECT_EQ(t5_bucket(relative, c.bidirectional, c.buckets, c.distance),
                static_cast<int>(expected[static_cast<std::size_t>(relative + 300)]))
          << name << " at " << relative;
    }
  }
}

TEST(T5, PublishedValuesAndFarEnds) {
  EXPECT_EQ(t5_bucket(0), 0);
  EXPECT_EQ(t5_bucket(-7), 7);
  EXPECT_EQ(t5_bucket(7), 23);
  EXPECT_EQ(t5_bucket(-8), 8);
  EXPECT_EQ(t5_bucket(-16), 10);
  EXPECT_EQ(t5_bucket(-128), 15);
  EXPECT_EQ(t5_bucket(std::numeric_limits<std::int64_t>::min()), 15);
  EXPECT_EQ(t5_bucket(std::numeric_limits<std::int64_t>::max()), 31);
  EXPECT_EQ(t5_bucket(std::numeric_limits<std::int64_t>::min(), false), 31);
  EXPECT_EQ(t5_bucket(std::numeric_limits<std::int64_t>::max(), false), 0);
  EXPECT_THROW(t5_bucket(1, true, 2), std::invalid_argument);
  EXPECT_THROW(t5_bucket(1, true, 31), std::invalid_argument);
  EXPECT_THROW(t5_bucket(1, false, 32, 16), std::invalid_argument);
}

}  // namespace
}  // namespace attn
