// Beam search by hand: a model whose next token depends on the last one, searched exhaustively too.
#include "model/beam_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

namespace attn {
namespace {

using Ids = std::vector<std::int32_t>;

// Probabilities of the next token by the last; token 0 starts, token 3 ends.
const std::vector<std::vector<double>> kChain = {
    {0.00, 0.55, 0.44, 0.01}, {0.25, 0.25, 0.25, 0.25}, {0.00, 0.05, 0.05, 0.90}, {0, 0, 0, 1}};

std::vector<float> logits_of(const BeamSearch& search) {
  std::vector<float> logits;
  for (const BeamSearch::Beam& beam : search.running()) {
    for (const double p : kChain[static_cast<std::size_t>(beam.ids.back())])
      logits.push_back(static_cast<float>(std::log(p)) + 3);  // not normalised
  }
  return logits;
}

std::vector<FoundText> run(const SearchSettings& settings) {
  BeamSearch search(settings, 0);
  while (!search.done()) search.advance(logits_of(search));
  return search.found();
}

SearchSettings with_beams(std::int64_t beams) {
  SearchSettings settings;
  settings.beams = beams;
  settings.max_tokens = 6;
  settings.ends = {3};
  return settings;
}

TEST(BeamSearch, OneBeamIsGreedy) {
  const auto found = run(with_beams(1));
  ASSERT_EQ(found.size(), 1);
  // 1 is likelier than 2; from 1 all are alike, and the lowest goes first.
  EXPECT_EQ(found[0].ids, (Ids{1, 0, 1, 0, 1, 0}));
  EXPECT_FALSE(found[0].ended);
}

TEST(BeamSearch, TwoBeamsFindWhatGreedyMisses) {
  const auto found = run(with_beams(2));
  ASSERT_EQ(found.size(), 2);
  EXPECT_EQ(found[0].ids, (Ids{2}));
  EXPECT_TRUE(found[0].ended);
  EXPECT_NEAR(found[0].log_probability, std::log(0.44 * 0.9), 1e-6);
  EXPECT_NEAR(found[0].score, std::log(0.44 * 0.9) / 2, 1e-6);
}

// With as many beams as there are texts, it finds the best of all.
TEST(BeamSearch, ManyBeamsAreExhaustive) {
  for (const double penalty : {-1.0, 0.0, 0.7, 1.0, 3.0}) {
    SearchSettings settings = with_beams(300);
    settings.max_tokens = 4;
    settings.length_penalty = penalty;
    settings.early_stopping = EarlyStopping::never;
    std::vector<FoundText> all;
    const auto grow = [&](const auto& self, const FoundText& text, std::int32_t last) -> void {
      for (std::int32_t t = 0; t < 4; ++t) {
        const double p = kChain[static_cast<std::size_t>(last)][static_cast<std::size_t>(t)];
        if (p == 0) continue;
        FoundText next = text;
        next.log_probability += std::log(p);
        const auto tokens = static_cast<double>(text.ids.size() + 1);
        next.score = next.log_probability / std::pow(tokens, penalty);
        next.ended = t == 3;
        if (!next.ended) next.ids.push_back(t);
        if (next.ended || tokens == 4) {
          all.push_back(next);
        } else {
          self(self, next, t);
        }
      }
    };
    grow(grow, {}, 0);
    std::stable_sort(all.begin(), all.end(),
                     [](const FoundText& a, const FoundText& b) { return a.score > b.score; });
    const auto found = run(settings);
    ASSERT_EQ(found.size(), std::min<std::size_t>(300, all.size())) << penalty;
    for (std::size_t i = 0; i < found.size(); ++i)
      EXPECT_NEAR(found[i].score, all[i].score, 1e-5) << penalty << " " << i;
    EXPECT_EQ(found[0].ids, all[0].ids);
  }
}

TEST(BeamSearch, RulesHideTokens) {
  SearchSettings settings = with_beams(1);
  settings.first = 2;
  settings.min_tokens = 3;
  auto found = run(settings);
  EXPECT_EQ(found[0].ids.front(), 2);
  EXPECT_GE(found[0].ids.size(), 3);

  settings = with_beams(1);
  settings.no_repeat_ngram = 2;
  found = run(settings);
  // 0 1 0 would be followed by 1 again.
  EXPECT_EQ(found[0].ids, (Ids{1, 0, 2}));
  EXPECT_TRUE(found[0].ended);

  settings = with_beams(2);
  settings.banned = {3};
  settings.last = {3};
  found = run(settings);
  EXPECT_TRUE(found[0].ended);
  EXPECT_EQ(found[0].ids.size(), 5);

  settings = with_beams(1);
  settings.banned = {1};
  found = run(settings);
  EXPECT_NEAR(found[0].log_probability, std::log(0.44 * 0.9), 1e-6);
  settings.renormalize = true;
  found = run(settings);
  EXPECT_NEAR(found[0].log_probability, std::log(0.44 / 0.45 * 0.9 / 0.95), 1e-6);

  settings.banned = {0, 1, 2, 3};
  EXPECT_TRUE(run(settings).empty());
}

// Logits of a broken model end a search, they do not hang it.
TEST(BeamSearch, NaNIsNoToken) {
  BeamSearch search(with_beams(2), 0);
  search.advance(std::vector<float>(4, std::numeric_limits<float>::quiet_NaN()));
  EXPECT_TRUE(search.done());
  EXPECT_TRUE(search.found().empty());
  EXPECT_THROW(search.advance(std::vector<float>(4)), std::logic_error);
}

TEST(BeamSearch, SettingsWithoutMeaningAreRefused) {
  EXPECT_THROW(BeamSearch(with_beams(0), 0), std::invalid_argument);
  EXPECT_THROW(BeamSearch(with_beams(1025), 0), std::invalid_argument);
  SearchSettings settings = with_beams(1);
  settings.max_tokens = 0;
  EXPECT_THROW(BeamSearch(settings, 0), std::invalid_argument);
  settings = with_beams(1);
  settings.length_penalty = std::numeric_limits<double>::infinity();
  EXPECT_THROW(BeamSearch(settings, 0), std::invalid_argument);
}

}  // namespace
}  // namespace attn
