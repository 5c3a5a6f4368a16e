// Several sequences in one run, and texts that go past what a model remembers.
#include "model/window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "folder.h"
#include "made_transformer.h"
#include "model/generate.h"
#include "model/score.h"

namespace attn {
namespace {

using testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

Transformer made(const TransformerConfig& config) {
  return Transformer(config, made_transformer_weights(config));
}

const Transformer& model() {
  static const Transformer transformer = made(small_llama());
  return transformer;
}

TransformerConfig small_gpt2() {
  TransformerConfig c = small_llama();
  c.rope.reset();
  return c;
}

TransformerConfig small_bloom() {
  TransformerConfig c = small_llama();
  c.rope.reset();
  c.alibi = true;
  return c;
}

void expect_near(std::span<const float> got, std::span<const float> expected, double error) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_TRUE(std::abs(got[i] - expected[i]) <= error)
        << i << ": " << got[i] << " " << expected[i];
}

// Pieces of sequences in one pass.
using Pieces = std::vector<std::pair<SequenceId, std::span<const std::int32_t>>>;

std::vector<float> hidden_of_pieces(const Transformer& model, const Pieces& pieces,
                                    KvCache& cache) {
  Ids ids;
  NextTokens next{.ids = {}, .cache = cache, .sequences = {}};
  for (const auto& [sequence, piece] : pieces) {
    ids.insert(ids.end(), piece.begin(), piece.end());
    next.sequences.push_back(sequence);
    next.counts.push_back(static_cast<std::int64_t>(piece.size()));
  }
  next.ids = ids;
  return model.hidden(next, one_thread());
}

// To rounding: products of several rows are summed in another order than those of one.
TEST(Batch, SequencesDoNotSeeEachOther) {
  TransformerConfig dynamic = small_llama();
  dynamic.rope->scaling = RopeScaling::dynamic_ntk(2, 8);
  for (const TransformerConfig& config : {small_llama(), small_gpt2(), small_bloom(), dynamic}) {
    const Transformer model = made(config);
    const std::vector<Ids> texts = {made_ids(13, 1), made_ids(1, 7), made_ids(70, 3)};
    KvCache cache(model.cache_options(3 * 128), one_thread());
    Pieces batch;
    for (const Ids& text : texts) batch.push_back({cache.create(), text});
    const auto together = hidden_of_pieces(model, batch, cache);
    std::size_t at = 0;
    for (const Ids& text : texts) {
      expect_near(std::span(together).subspan(at, text.size() * 60),
                  hidden_of(model, text, one_thread()), 2e-5);
      at += text.size() * 60;
    }
    // And the next token of each, without one of them.
    const Ids next = {5, 6};
    const auto step = hidden_of_pieces(
        model,
        {{batch[2].first, std::span(next).first(1)}, {batch[0].first, std::span(next).last(1)}},
        cache);
    KvCache own(model.cache_options(128), one_thread());
    const SequenceId id = own.create();
    model.hidden(texts[2], own, id, one_thread());
    expect_near(std::span(step).first(60),
                model.hidden(std::span(next).first(1), own, id, one_thread()), 2e-5);
    EXPECT_EQ(cache.length(batch[0].first), 14);
    EXPECT_EQ(cache.length(batch[1].first), 1);
  }
}

TEST(Batch, AFailureLeavesAllAsTheyWere) {
  KvCache cache(model().cache_options(128), one_thread());  // two pages
  const SequenceId a = cache.create(), b = cache.create();
  const Ids some = made_ids(40), few = made_ids(2), many = made_ids(100), wrong = {1, 101};
  model().hidden(some, cache, a, one_thread());
  EXPECT_THROW(hidden_of_pieces(model(), {{a, some}, {b, many}}, cache), Error);
  EXPECT_THROW(hidden_of_pieces(model(), {{a, some}, {b, wrong}}, cache), std::invalid_argument);
  EXPECT_THROW(hidden_of_pieces(model(), {{b, few}, {b, few}}, cache), std::invalid_argument);
  EXPECT_EQ(cache.length(a), 40);
  EXPECT_EQ(cache.length(b), 0);
}

std::vector<Generation> run(const Transformer& model, const std::vector<Ids>& prompts,
                            const GenerationOptions& options, const Ids& ends = {},
                            std::vector<std::string>* shown = nullptr) {
  return generate_batch(
      model, prompts, [](std::int32_t id) { return std::to_string(id) + " "; }, ends, options,
      one_thread(),
      [&](std::size_t i, std::string_view text) {
        if (shown != nullptr) (*shown)[i] += text;
      });
}

TEST(Batch, PromptsGoOnAsTheyWouldAlone) {
  const std::vector<Ids> prompts = {made_ids(9, 2), made_ids(1, 3), made_ids(40, 5), made_ids(2, 8),
                                    made_ids(33, 13)};
  for (const GenerationOptions& options :
       {GenerationOptions{.max_tokens = 20}, GenerationOptions{.max_tokens = 20, .chunk = 7},
        GenerationOptions{.max_tokens = 20, .sampler = {.temperature = 0.8, .seed = 4}},
        GenerationOptions{.max_tokens = 20, .cache = DType::bf16},
        GenerationOptions{.max_tokens = 20, .side_by_side = 1},
        GenerationOptions{.max_tokens = 20, .chunk = 7, .side_by_side = 2},
        GenerationOptions{.max_tokens = 40, .side_by_side = 3, .window = 24, .sinks = 2},
        GenerationOptions{.max_tokens = 40, .window = 24, .sinks = 2}}) {
    std::vector<std::string> shown(prompts.size());
    const auto together = run(model(), prompts, options, {}, &shown);
    ASSERT_EQ(together.size(), prompts.size());
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const Generation alone = run(model(), {prompts[i]}, options).at(0);
      EXPECT_EQ(together[i].ids, alone.ids) << i;
      EXPECT_EQ(together[i].text, alone.text);
      EXPECT_EQ(together[i].text, shown[i]);
      EXPECT_EQ(together[i].prompt_tokens, static_cast<std::int64_t>(prompts[i].size()));
      EXPECT_GT(together[i].prompt_seconds, 0);
    }
  }
  // One ends, the others go on.
  const auto whole = run(model(), prompts, {.max_tokens = 20});
  const std::int32_t end = whole[2].ids[4];
  const auto ended = run(model(), prompts, {.max_tokens = 20}, {end});
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto at = std::find(whole[i].ids.begin(), whole[i].ids.end(), end);
    EXPECT_EQ(ended[i].ids, Ids(whole[i].ids.begin(), at)) << i;
    EXPECT_EQ(ended[i].end,
              at == whole[i].ids.end() ? GenerationEnd::max_tokens : GenerationEnd::end_token);
  }
  EXPECT_TRUE(run(model(), {}, {}).empty());
  EXPECT_EQ(run(model(), prompts, {.max_tokens = 0}).size(), prompts.size());
}

TEST(Batch, NoMoreRunAtATimeThanAsked) {
  const std::vector<Ids> prompts(7, made_ids(3));
  constexpr int kTokens = 4;
  for (const int at_a_time : {1, 2, 5, 7}) {
    std::vector<int> parts(prompts.size());
    std::int64_t most = 0;
    generate_batch(
        model(), prompts, [](std::int32_t) { return "x"; }, {},
        {.max_tokens = kTokens, .side_by_side = at_a_time}, one_thread(),
        [&](std::size_t i, std::string_view) {
          ++parts[i];
          most = std::max<std::int64_t>(most, std::count_if(parts.begin(), parts.end(), [](int n) {
                                          return n > 0 && n < kTokens;
                                        }));
        });
    EXPECT_EQ(most, at_a_time);
    EXPECT_EQ(parts, std::vector<int>(prompts.size(), kTokens));
  }
}

// In one layer keys depend on their tokens alone, so that what is kept is what a fresh call reads.
TEST(Window, SeesWhatAFreshCallOnTheKeptTokensSees) {
  TransformerConfig dynamic = small_llama(1);
  dynamic.rope->scaling = RopeScaling::dynamic_ntk(2, 8);
  TransformerConfig bloom = small_bloom();
  bloom.layers = 1;
  for (const TransformerConfig& config : {small_llama(1), dynamic, bloom}) {
    const Transformer model = made(config);
    const Ids ids = made_ids(90);
    const auto one_at_a_time = [&](const Ids& tokens, std::int64_t sinks, std::int64_t window) {
      KvCache cache(model.cache_options(256, DType::f32, true), one_thread());
      const SequenceId id = cache.create();
      std::vector<float> hidden;
      for (std::size_t t = 0; t < tokens.size(); ++t) {
        cache.evict(id, sinks, window - sinks - 1);
        hidden = model.hidden(std::span(tokens).subspan(t, 1), cache, id, one_thread());
        EXPECT_LE(cache.length(id), window);
      }
      return hidden;
    };
    for (const auto& [sinks, window] :
         {std::pair<std::int64_t, std::int64_t>{2, 9}, {0, 5}, {4, 5}, {3, 70}}) {
      Ids kept(ids.begin(), ids.begin() + sinks);
      kept.insert(kept.end(), ids.end() - (window - sinks), ids.end());
      EXPECT_EQ(one_at_a_time(ids, sinks, window), one_at_a_time(kept, 0, 1000))
          << sinks << " of " << window;
    }
  }
}

TEST(Window, LossesAreThoseOfTheKeptTokens) {
  const Transformer model = made(small_llama(1));
  const Ids ids = made_ids(60);
  const TextScore got = score(model, ids, {.window = 12, .step = 3, .sinks = 2}, one_thread());
  EXPECT_EQ(got.window, 12);
  EXPECT_EQ(got.step, 3);
  for (std::size_t target = 1; target < ids.size(); ++target) {
    // Before three tokens run, the cache is cut to 9; before the last two, to 10.
    const std::size_t ran = (target - 1) / 3 * 3, kept = 12 - std::min<std::size_t>(3, 59 - ran);
    Ids before(ids.begin(),
               ids.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(ran, 2)));
    const std::size_t last = ran > kept ? ran - (kept - 2) : std::min<std::size_t>(ran, 2);
    before.insert(before.end(), ids.begin() + static_cast<std::ptrdiff_t>(last),
                  ids.begin() + static_cast<std::ptrdiff_t>(target));
    const auto hidden = hidden_of(model, before, one_thread());
    const auto logits = model.logits(std::span(hidden).last(60), one_thread());
    double sum = 0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x));
    const double loss =
        std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(ids[target])]);
    EXPECT_NEAR(got.losses[target - 1], loss, 3e-5) << target;
  }
}

// A window that holds the text changes nothing but the place where keys turn.
TEST(Window, OfTheWholeTextIsNoWindow) {
  const Ids ids = made_ids(50);
  const TextScore whole = score(model(), ids, {.window = 64}, one_thread());
  for (const std::int64_t step : {1, 7, 60}) {
    const TextScore got =
        score(model(), ids, {.window = 64, .step = step, .sinks = 0}, one_thread());
    expect_near(got.losses, whole.losses, 3e-5);
    EXPECT_EQ(got.top, whole.top);
  }
  EXPECT_EQ(run(model(), {ids}, {.max_tokens = 20, .window = 80})[0].ids,
            run(model(), {ids}, {.max_tokens = 20})[0].ids);
}

TEST(Window, GoesOnPastTheContext) {
  const auto got = run(model(), {made_ids(300)}, {.max_tokens = 300, .window = 32, .sinks = 4});
  EXPECT_EQ(got[0].ids.size(), 300U);
  EXPECT_EQ(got[0].prompt_tokens, 300);
  EXPECT_EQ(run(made(small_bloom()), {made_ids(300)}, {.max_tokens = 9, .window = 5})[0].ids.size(),
            9U);
}

TEST(Window, WhatCannotBe) {
  const auto message = [&](const Transformer& model, const Ids& prompt,
                           const GenerationOptions& options) {
    return message_of<std::invalid_argument>([&] { run(model, {prompt}, options); });
  };
  EXPECT_EQ(message(model(), made_ids(250), {.max_tokens = 7}),
            "[generate] a prompt of 250 tokens and 7 to generate are more than the model's 256 "
            "positions: stretch them (rope_scaling), or keep a window of them (window, sinks)");
  EXPECT_EQ(message(model(), {1}, {.window = 257}),
            "[generate] a window of 257 tokens is more than the model's 256 positions");
  EXPECT_EQ(message(model(), {1}, {.window = 4, .sinks = 4}),
            "[generate] a window of 4 tokens has no room for 4 sinks and 1 token that run at a "
            "time");
  EXPECT_THAT(message(model(), {1}, {.window = 8, .sinks = -1}), HasSubstr("sinks is -1"));
  EXPECT_THAT(message(model(), {1}, {.window = -1}), HasSubstr("window is -1"));
  EXPECT_THAT(message(model(), {1}, {.top_keys = 2, .window = 8}),
              HasSubstr("top_keys does not go with a window"));
  EXPECT_THAT(message(made(small_gpt2()), {1}, {.window = 8}),
              HasSubstr("learned its 256 positions one by one"));
  TransformerConfig latent = small_llama();
  latent.latent = LatentConfig{.rank = 8, .rotated = 4};
  EXPECT_THAT(
      message_of<std::invalid_argument>([&] { require_window(latent, "[generate]", 8, 0, 1); }),
      HasSubstr("latent attention"));
  EXPECT_THAT(message_of<std::invalid_argument>([&] {
                run(model(), {{1}, {2}}, {.top_keys = 2});
              }),
              HasSubstr("top_keys takes one prompt"));
  const auto scored = [&](const Transformer& model, const ScoreOptions& options) {
    return message_of<std::invalid_argument>(
        [&] { score(model, made_ids(9), options, one_thread()); });
  };
  EXPECT_THAT(scored(model(), {.window = 8, .step = 5, .sinks = 4}),
              HasSubstr("[score] a window of 8 tokens has no room for 4 sinks and 5 tokens"));
  EXPECT_THAT(scored(model(), {.window = 300, .sinks = 4}), HasSubstr("model's 256 positions"));
  EXPECT_THAT(scored(model(), {.window = 8, .step = -1, .sinks = 4}), HasSubstr("step is -1"));
  EXPECT_THAT(scored(made(small_gpt2()), {.window = 8, .sinks = 0}), HasSubstr("one by one"));
}

}  // namespace
}  // namespace attn
