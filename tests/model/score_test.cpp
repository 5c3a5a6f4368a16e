// Perplexity by windows, each token's loss against the definition; means of heads.
#include "model/score.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "folder.h"
#include "made_transformer.h"
#include "model/families.h"
#include "model/file.h"
#include "model/json.h"
#include "model/weights.h"

namespace attn {
namespace {

using testing::HasSubstr;

const Transformer& model() {
  static const Transformer made(small_llama(), made_transformer_weights(small_llama()));
  return made;
}

TEST(Score, WindowsAndTheirChunks) {
  using Chunks = std::vector<TextChunk>;
  // One window: the last token need not run.
  EXPECT_EQ(text_chunks(5, 8, 4), (Chunks{{0, 4, 0, true}}));
  EXPECT_EQ(text_chunks(8, 8, 4), (Chunks{{0, 7, 0, true}}));
  EXPECT_EQ(text_chunks(2, 8, 4), (Chunks{{0, 1, 0, true}}));
  // Token 8 is foreseen from 4 ... 7; what runs for that is 4 ... 7, and 7 alone counts.
  EXPECT_EQ(text_chunks(9, 8, 4), (Chunks{{0, 7, 0, true}, {4, 4, 3, true}}));
  EXPECT_EQ(text_chunks(12, 8, 4), (Chunks{{0, 7, 0, true}, {4, 7, 3, true}}));
  EXPECT_EQ(text_chunks(7, 3, 2), (Chunks{{0, 2, 0, true}, {2, 2, 0, true}, {4, 2, 0, true}}));
  // A window in pieces.
  EXPECT_EQ(text_chunks(12, 8, 4, 4),
            (Chunks{{0, 4, 0, true}, {4, 3, 0, false}, {4, 4, 3, true}, {8, 3, 0, false}}));
  // Whatever the sizes: each token but the last counts once, in order.
  for (std::int64_t tokens = 2; tokens < 40; ++tokens) {
    for (std::int64_t window = 2; window < 12; ++window) {
      for (std::int64_t step = 1; step < window; ++step) {
        std::int64_t next = 0;
        for (const TextChunk& c : text_chunks(tokens, window, step, 5)) {
          EXPECT_LE(c.skip, c.count);
          if (c.skip == c.count) continue;
          EXPECT_EQ(c.first + c.skip, next);
          next = c.first + c.count;
        }
        EXPECT_EQ(next, tokens - 1) << tokens << " " << window << " " << step;
      }
    }
  }
}

// Of token `target` after those from `begin` on, in double.
double loss_of(const std::vector<std::int32_t>& ids, std::size_t begin, std::size_t target,
               std::int32_t* top = nullptr) {
  const std::span<const std::int32_t> before(ids.data() + begin, target - begin);
  const auto hidden = hidden_of(model(), before, one_thread());
  const auto logits = model().logits(std::span(hidden).last(60), one_thread());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x));
  if (top != nullptr) {
    *top =
        static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  return std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(ids[target])]);
}

TEST(Score, EachTokenIsForeseenFromItsWindow) {
  const auto ids = made_ids(71);
  for (const auto& [window, step] :
       {std::pair<std::size_t, std::size_t>{16, 8}, {16, 15}, {10, 3}, {2, 1}, {100, 50}}) {
    const TextScore got = score(
        model(), ids,
        {.window = static_cast<std::int64_t>(window), .step = static_cast<std::int64_t>(step)},
        one_thread());
    ASSERT_EQ(got.losses.size(), 70U);
    double sum = 0;
    for (std::size_t target = 1; target < ids.size(); ++target) {
      std::size_t begin = 0;
      while (target >= begin + window) begin += step;
      std::int32_t top = -1;
      const double loss = loss_of(ids, begin, target, &top);
      EXPECT_NEAR(got.losses[target - 1], loss, 2e-5) << window << " " << step << " " << target;
      EXPECT_EQ(got.top[target - 1], top);
      sum += loss;
    }
    EXPECT_NEAR(got.mean_loss, sum / 70, 1e-5);
    EXPECT_NEAR(got.perplexity, std::exp(sum / 70), 1e-3);
  }
}

// The loop of Transformers' guide to perplexity, on weights by formula (tools/golden_score.py).
TEST(Score, AgreesWithTransformers) {
  const std::string path = std::string(ATTN_TEST_DATA) + "/score.json";
  const Json golden = Json::parse(read_file(path), path);
  TensorShapes shapes;
  const Json& tensors = *golden.find("tensors");
  for (std::size_t t = 0; t < tensors.names.size(); ++t) {
    for (const Json& n : tensors.items[t].items) shapes[tensors.names[t]].push_back(n.integer);
  }
  const TestFolder folder;
  Weights weights(folder.write("model.safetensors", made_weights(shapes)));
  DescribedModel loaded = load_described(golden.find("config")->text, "config.json", weights);
  const Transformer model(loaded.config, std::move(loaded.weights));
  std::vector<std::int32_t> ids;
  for (const Json& id : golden.find("ids")->items)
    ids.push_back(static_cast<std::int32_t>(id.integer));
  const TextScore got = score(
      model, ids, {.window = golden.find("window")->integer, .step = golden.find("step")->integer},
      one_thread());
  const auto& losses = golden.find("losses")->items;
  ASSERT_EQ(got.losses.size(), losses.size());
  for (std::size_t i = 0; i < losses.size(); ++i)
    EXPECT_NEAR(got.losses[i], losses[i].real, 1e-4 * losses[i].real) << i;
}

TEST(Score, ShortTextsProgressAndCaches) {
  const auto ids = made_ids(40);
  const auto two = std::span(ids).first(2);
  EXPECT_NEAR(score(model(), two, {}, one_thread()).losses.at(0), loss_of(ids, 0, 1), 1e-5);
  std::vector<std::int64_t> done;
  const TextScore got = score(model(), ids,
                              {.window = 16,
                               .step = 8,
                               .progress =
                                   [&](std::int64_t n, std::int64_t all) {
                                     EXPECT_EQ(all, 40);
                                     done.push_back(n);
                                   }},
                              one_thread());
  EXPECT_EQ(done, (std::vector<std::int64_t>{16, 24, 32, 40}));
  const TextScore small =
      score(model(), ids, {.window = 16, .step = 8, .cache = DType::bf16}, one_thread());
  EXPECT_NEAR(small.mean_loss, got.mean_loss, 0.05);
  EXPECT_NE(small.losses, got.losses);
}

TEST(Score, AblationAndTheMeansOfHeads) {
  const auto ids = made_ids(50);
  const TransformerConfig& c = model().config();
  const ScoreOptions plain = {.window = 16, .step = 8};
  const auto with = [&](HeadAblation ablation) {
    ScoreOptions options = plain;
    options.ablation = std::move(ablation);
    return score(model(), ids, options, one_thread());
  };
  const TextScore whole = with({}), silenced = with({.heads = {{1, 2}}});
  EXPECT_NE(silenced.losses, whole.losses);

  const auto means = head_means(model(), ids, plain, one_thread());
  ASSERT_EQ(means.size(), 2U * 60);
  // By hand: each token in the window where its successor counts.
  std::vector<double> sums(means.size());
  for (std::size_t token = 0; token + 1 < ids.size(); ++token) {
    std::size_t begin = 0;
    while (token + 1 >= begin + 16) begin += 8;
    hidden_of(model(), std::span(ids).subspan(begin, token + 1 - begin), one_thread(),
              [&](std::int64_t layer, std::int64_t tokens, float* x) {
                for (std::int64_t j = 0; j < 60; ++j)
                  sums[static_cast<std::size_t>(layer * 60 + j)] += x[(tokens - 1) * 60 + j];
              });
  }
  for (std::size_t i = 0; i < means.size(); ++i) EXPECT_NEAR(means[i], sums[i] / 49, 1e-5) << i;

  const auto first = means.begin() + 60 + 2 * c.head_width;
  const TextScore replaced = with({.heads = {{1, 2}}, .means = {first, first + c.head_width}});
  EXPECT_NE(replaced.losses, silenced.losses);
  EXPECT_NE(replaced.losses, whole.losses);
  // A silenced head's mean is zero.
  ScoreOptions options = plain;
  options.ablation = {.heads = {{1, 2}}};
  const auto without = head_means(model(), ids, options, one_thread());
  for (std::int64_t j = 0; j < c.head_width; ++j)
    EXPECT_EQ(without[static_cast<std::size_t>(60 + 2 * c.head_width + j)], 0);
}

TEST(Score, WhatCannotBe) {
  const auto message = [&](const std::vector<std::int32_t>& ids, const ScoreOptions& options) {
    return message_of<std::invalid_argument>([&] { score(model(), ids, options, one_thread()); });
  };
  EXPECT_EQ(message({}, {}),
            "[score] a text of 0 tokens has none that follows another: it takes two or more");
  EXPECT_THAT(message({5}, {}), HasSubstr("a text of 1 token has none"));
  EXPECT_EQ(message({1, 2}, {.window = 257}),
            "[score] a window of 257 tokens is more than the model's 256 positions: take a smaller "
            "one, stretch them (rope_scaling), or run once with sinks");
  EXPECT_THAT(message({1, 2}, {.window = 1}), HasSubstr("window is 1, must be 2 or more"));
  EXPECT_THAT(message({1, 2}, {.window = 8, .step = 8}), HasSubstr("step is 8, must be 1 to 7"));
  EXPECT_THAT(message({1, 2}, {.step = -1}), HasSubstr("step is -1"));
  EXPECT_THAT(message({1, 101}, {}), HasSubstr("token 101 is outside [0, 101)"));
  EXPECT_THAT(message({1, 2}, {.ablation = {.heads = {{5, 0}}}}), HasSubstr("no head 5.0"));
}

}  // namespace
}  // namespace attn
