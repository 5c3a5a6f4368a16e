// Silenced heads against output projections that do not read them.
#include "model/ablation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "folder.h"
#include "made_transformer.h"

namespace attn {
namespace {

using testing::HasSubstr;

// The model whose output projection of a layer does not read a head, but adds what the projection
// makes of `mean` (empty: nothing).
Transformer without(const HeadAblation::Head& head, const std::vector<float>& mean = {}) {
  const TransformerConfig c = small_llama();
  TransformerWeights w = made_transformer_weights(c);
  TransformerWeights::Linear& output = w.layers[static_cast<std::size_t>(head.layer)].output;
  const std::int64_t in = c.heads * c.head_width;
  std::vector<float> weight(output.weight, output.weight + c.width * in);
  std::vector<float> bias(output.bias, output.bias + c.width);
  for (std::int64_t row = 0; row < c.width; ++row) {
    double added = 0;
    for (std::int64_t j = 0; j < c.head_width; ++j) {
      float& x = weight[static_cast<std::size_t>(row * in + head.head * c.head_width + j)];
      if (!mean.empty()) added += static_cast<double>(x) * mean[static_cast<std::size_t>(j)];
      x = 0;
    }
    bias[static_cast<std::size_t>(row)] += static_cast<float>(added);
  }
  output.weight = w.made.emplace_back(std::move(weight)).data();
  output.bias = w.made.emplace_back(std::move(bias)).data();
  return Transformer(c, std::move(w));
}

TEST(Ablation, ASilencedHeadIsOneThatNothingReads) {
  const TransformerConfig c = small_llama();
  const Transformer model(c, made_transformer_weights(c));
  const auto ids = made_ids(37);
  const auto whole = hidden_of(model, ids, one_thread());
  for (const HeadAblation::Head head : {HeadAblation::Head{0, 0}, {0, 2}, {1, 1}}) {
    const auto silenced = hidden_of(model, ids, one_thread(), ablate({.heads = {head}}, c));
    EXPECT_EQ(silenced, hidden_of(without(head), ids, one_thread()));
    EXPECT_NE(silenced, whole);
  }
  EXPECT_FALSE(ablate({}, c));
  // In another layer what it read changes too, so several are not the sum of each.
  const auto both = hidden_of(model, ids, one_thread(), ablate({.heads = {{0, 0}, {1, 1}}}, c));
  EXPECT_NE(both, hidden_of(without({0, 0}), ids, one_thread()));
}

TEST(Ablation, MeansStandInTheHeadsPlace) {
  const TransformerConfig c = small_llama();
  const Transformer model(c, made_transformer_weights(c));
  const auto ids = made_ids(37);
  std::vector<float> means;
  for (int i = 0; i < 40; ++i) means.push_back(static_cast<float>(std::sin(i)));
  const std::vector<float> second(means.begin() + 20, means.end());
  const auto got =
      hidden_of(model, ids, one_thread(), ablate({.heads = {{1, 2}}, .means = second}, c));
  const auto expected = hidden_of(without({1, 2}, second), ids, one_thread());
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 2e-5) << i;
  // Each head has its own: the order of the heads is that of the means.
  const std::vector<float> swapped = [&] {
    std::vector<float> x = second;
    x.insert(x.end(), means.begin(), means.begin() + 20);
    return x;
  }();
  EXPECT_EQ(
      hidden_of(model, ids, one_thread(), ablate({.heads = {{0, 1}, {1, 2}}, .means = means}, c)),
      hidden_of(model, ids, one_thread(),
                ablate({.heads = {{1, 2}, {0, 1}}, .means = swapped}, c)));
}

TEST(Ablation, MeansAreThoseOfTheTokensThatCount) {
  const TransformerConfig c = small_llama();
  const Transformer model(c, made_transformer_weights(c));
  const auto ids = made_ids(11);
  HeadMeans means(c);
  std::vector<std::vector<float>> seen(2);
  hidden_of(model, ids, one_thread(), [&](std::int64_t layer, std::int64_t tokens, float* x) {
    means.add(layer, tokens, 3, x);
    seen[static_cast<std::size_t>(layer)].assign(x, x + tokens * 60);
  });
  const auto got = means.means();
  ASSERT_EQ(got.size(), 2U * 60);
  for (std::size_t i = 0; i < got.size(); ++i) {
    double sum = 0;
    for (std::size_t t = 3; t < 11; ++t) sum += seen[i / 60][t * 60 + i % 60];
    EXPECT_NEAR(got[i], sum / 8, 1e-6) << i;
  }
}

TEST(Ablation, WhatCannotBe) {
  const TransformerConfig c = small_llama();
  const auto message = [&](const HeadAblation& ablation) {
    return message_of<std::invalid_argument>([&] { ablate(ablation, c); });
  };
  EXPECT_EQ(message({.heads = {{2, 0}}}),
            "[ablate] there is no head 2.0: the model has 2 layers of 3 heads, counted from 0");
  EXPECT_THAT(message({.heads = {{0, 3}}}), HasSubstr("no head 0.3"));
  EXPECT_THAT(message({.heads = {{-1, 0}}}), HasSubstr("no head -1.0"));
  EXPECT_THAT(message({.heads = {{0, -1}}}), HasSubstr("no head 0.-1"));
  EXPECT_EQ(message({.heads = {{0, 1}, {1, 1}, {0, 1}}}), "[ablate] head 0.1 is named twice");
  EXPECT_EQ(message({.heads = {{0, 1}}, .means = {1, 2}}),
            "[ablate] means has 2 numbers, must have 20, 20 a head");
  EXPECT_THAT(message({.means = {1}}), HasSubstr("must have 0"));
}

}  // namespace
}  // namespace attn
