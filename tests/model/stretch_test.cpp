// Another scaling of RoPE than the one that a model's description gives.
#include "model/stretch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "folder.h"
#include "made_transformer.h"

namespace attn {
namespace {

using testing::HasSubstr;

TEST(Stretch, PositionsAndScalingAreReplaced) {
  for (const auto& [text, kind] : {std::pair("linear:2", RopeScaling::Kind::linear),
                                   std::pair("ntk:2", RopeScaling::Kind::ntk),
                                   std::pair("dynamic:2", RopeScaling::Kind::dynamic_ntk),
                                   std::pair("yarn:2", RopeScaling::Kind::yarn),
                                   std::pair("none:2", RopeScaling::Kind::none)}) {
    TransformerConfig c = small_llama();
    stretch(c, RopeScaling::from_text(text));
    EXPECT_EQ(c.positions, 512) << text;
    EXPECT_EQ(c.rope->scaling.kind, kind);
    EXPECT_EQ(c.rope->scaling.original_length, 256);
    EXPECT_EQ(c.rope->base, small_llama().rope->base);
  }
  TransformerConfig c = small_llama();
  stretch(c, RopeScaling::from_text("yarn:1.5"));
  EXPECT_EQ(c.positions, 384);
  // Not of what was stretched already.
  stretch(c, RopeScaling::from_text("linear:4"));
  EXPECT_EQ(c.positions, 1024);
  stretch(c, RopeScaling::yarn(2, 100));
  EXPECT_EQ(c.positions, 200);
}

// Halving positions is what linear scaling by 2 is, and no scaling changes nothing.
TEST(Stretch, ChangesWhatTheModelSees) {
  const Context context({.threads = 1});
  const auto ids = made_ids(30);
  const auto hidden = [&](const char* text) {
    TransformerConfig c = small_llama();
    if (text != nullptr) stretch(c, RopeScaling::from_text(text));
    return hidden_of(Transformer(c, made_transformer_weights(c)), ids, context);
  };
  const auto plain = hidden(nullptr);
  EXPECT_EQ(hidden("none:2"), plain);
  EXPECT_EQ(hidden("linear:1"), plain);
  EXPECT_NE(hidden("linear:2"), plain);
  EXPECT_NE(hidden("ntk:2"), plain);
  EXPECT_NE(hidden("yarn:2"), plain);
}

TEST(Stretch, WhatCannotBe) {
  TransformerConfig c = small_llama();
  c.rope.reset();
  const auto message = [&](const RopeScaling& scaling) {
    return message_of<std::invalid_argument>([&] { stretch(c, scaling); });
  };
  EXPECT_EQ(message(RopeScaling::linear(2)),
            "[rope_scaling] the model has no rotary positions (RoPE) to stretch");
  c = small_llama();
  EXPECT_THAT(message(RopeScaling::linear(0.5)), HasSubstr("factor"));
  EXPECT_THAT(message(RopeScaling::linear(1e300)), HasSubstr("2^30 positions"));
  EXPECT_EQ(c.positions, 256);
  c.latent = LatentConfig{.rank = 8, .rotated = 4};
  EXPECT_THAT(message(RopeScaling::linear(2)), HasSubstr("latent attention"));
}

}  // namespace
}  // namespace attn
