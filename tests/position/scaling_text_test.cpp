// Scalings of RoPE as people write them.
#include <gtest/gtest.h>

#include <stdexcept>

#include "attn/position.h"

namespace attn {
namespace {

TEST(ScalingText, KindAndFactor) {
  const RopeScaling yarn = RopeScaling::from_text("yarn:4");
  EXPECT_EQ(yarn.kind, RopeScaling::Kind::yarn);
  EXPECT_EQ(yarn.factor, 4);
  EXPECT_EQ(yarn.original_length, 0);
  EXPECT_EQ(RopeScaling::from_text("linear:2.5").factor, 2.5);
  EXPECT_EQ(RopeScaling::from_text("ntk:1").kind, RopeScaling::Kind::ntk);
  EXPECT_EQ(RopeScaling::from_text("dynamic:8").kind, RopeScaling::Kind::dynamic_ntk);
  EXPECT_EQ(RopeScaling::from_text("none:2").kind, RopeScaling::Kind::none);
}

TEST(ScalingText, NothingElse) {
  for (const char* text : {"", "yarn", "yarn:", ":4", "yarn:0.5", "yarn:-4", "yarn:4x", "yarn: 4",
                           "yarn:inf", "yarn:nan", "Yarn:4", "longrope:4", "yarn:4:8", "4"})
    EXPECT_THROW(RopeScaling::from_text(text), std::invalid_argument) << text;
}

}  // namespace
}  // namespace attn
