#include "attn/score.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace attn {
namespace {

TEST(Score, ParsesWhatItKnows) {
  const Score none = Score::parse("none");
  EXPECT_FALSE(none.scale || none.alibi_slopes || none.t5 || none.custom);
  EXPECT_EQ(none.soft_cap, 0);

  EXPECT_EQ(Score::parse("softcap:30").soft_cap, 30);
  EXPECT_EQ(Score::parse("scale:0.1").scale, 0.1);
  EXPECT_EQ(Score::parse("scale:-2e-3").scale, -2e-3);
  ASSERT_TRUE(Score::parse("alibi").alibi_slopes);
  EXPECT_TRUE(Score::parse("alibi").alibi_slopes->empty());

  const Score all = Score::parse("scale:0.125 + softcap:50+ alibi ");
  EXPECT_EQ(all.scale, 0.125);
  EXPECT_EQ(all.soft_cap, 50);
  EXPECT_TRUE(all.alibi_slopes);
}

TEST(Score, SaysWhatItDoesNotKnow) {
  const auto error = [](const std::string& words) -> std::string {
    try {
      Score::parse(words);
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "nothing thrown";
  };
  const std::string known = "; known are none, alibi, softcap:NUMBER, scale:NUMBER, joined by '+'";
  EXPECT_EQ(error("rotary"), "[score] 'rotary' is no score" + known);
  EXPECT_EQ(error(""), "[score] '' is no score" + known);
  EXPECT_EQ(error("alibi+"), "[score] '' is no score" + known);
  EXPECT_EQ(error("alibi:3"), "[score] 'alibi:3': alibi takes no value" + known);
  EXPECT_EQ(error("softcap"), "[score] 'softcap' needs a number, '' is none" + known);
  EXPECT_EQ(error("softcap:x"), "[score] 'softcap:x' needs a number, 'x' is none" + known);
  EXPECT_EQ(error("scale:0.1x"), "[score] 'scale:0.1x' needs a number, '0.1x' is none" + known);
  EXPECT_EQ(error("scale:inf"), "[score] 'scale:inf' needs a number, 'inf' is none" + known);
  EXPECT_EQ(error("softcap:0"), "[score] 'softcap:0': the cap must be above 0" + known);
  EXPECT_EQ(error("alibi+alibi"), "[score] 'alibi' stands twice in 'alibi+alibi'" + known);
  EXPECT_EQ(error("none+alibi"), "[score] 'none' stands alone, not in 'none+alibi'" + known);
}

TEST(Score, TellsWhatItIs) {
  EXPECT_EQ(Score().to_string(), "none");
  EXPECT_EQ(Score::parse("scale:0.125+softcap:50+alibi").to_string(),
            "scale 0.125, soft cap 50, ALiBi");
  const std::vector<float> bias(6);
  Score other = {.bias = ConstTensor(bias.data(), {1, 1, 2, 3}),
                 .alibi_slopes = std::vector<float>{0.5f},
                 .t5 = T5Bias{},
                 .sinks = {1.0f}};
  other.custom = [](const ScoreTile&) {};
  EXPECT_EQ(other.to_string(),
            "bias [1, 1, 2, 3], ALiBi with given slopes, T5 bias of 32 buckets, sinks, custom");
}

}  // namespace
}  // namespace attn
