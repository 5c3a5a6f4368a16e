// Records whose keys are of another text: an encoder-decoder's cross-attention.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/inspect.h"
#include "attn/reference.h"
#include "inspect/synthetic.h"

namespace attn {
namespace {

using testing::HasSubstr;
using testing::Not;

struct Size {
  std::size_t queries = 0, keys = 0;
};
constexpr Size kSizes[] = {{1, 1}, {1, 7}, {7, 1}, {5, 13}, {13, 5}, {33, 17}};

// A layer for each thing that a mask or a score can do between two texts.
AttentionRecord varied(Size size, std::vector<float>& bias) {
  AttentionRecord r = synthetic::cross(size.queries, size.keys, 6, 6, 10, 3);
  const auto queries = static_cast<std::int64_t>(size.queries),
             keys = static_cast<std::int64_t>(size.keys);
  r.layers[1].mask = Mask::padding({(keys + 1) / 2});
  r.layers[1].score.soft_cap = 2;
  r.layers[2].mask = Mask::causal();  // later queries see every key, or later keys are never seen
  r.layers[2].score = Score::alibi();
  r.layers[3].score.sinks = {0.5f, 1, -1, 2, 0, 3};
  r.layers[3].score.scale = 0.7;
  T5Bias t5{.table = {}, .buckets = 8, .max_distance = 16, .bidirectional = true};
  for (int i = 0; i < 8 * 6; ++i) t5.table.push_back(0.1f * static_cast<float>(i % 7) - 0.3f);
  r.layers[4].score.t5 = t5;
  bias.resize(6 * size.queries * size.keys);
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = 0.01f * static_cast<float>(i * 37 % 101);
  r.layers[5].score.bias = ConstTensor(bias.data(), Shape{1, 6, queries, keys});
  return r;
}

// Every probability of a layer, from the oracle: [heads][queries][keys].
std::vector<double> oracle(const AttentionRecord& record, std::size_t layer) {
  const auto queries = static_cast<std::int64_t>(record.tokens.size()),
             keys = static_cast<std::int64_t>(record.keys.size());
  const LayerRecord& l = record.layers[layer];
  const std::vector<double> q(l.q.begin(), l.q.end()), k(l.k.begin(), l.k.end());
  std::vector<double> bias;
  AttentionOptions options{.mask = l.mask, .score = l.score};
  if (!l.score.bias.empty()) {  // of the queries' type
    const float* const source = static_cast<const float*>(l.score.bias.data);
    bias.assign(source, source + l.score.bias.size());
    options.score.bias = ConstTensor(bias.data(), l.score.bias.shape);
  }
  std::vector<double> p(static_cast<std::size_t>(record.heads * queries * keys));
  reference::weights(ConstTensor(q.data(), Shape{1, record.heads, queries, record.width}),
                     ConstTensor(k.data(), Shape{1, record.kv_heads, keys, record.width}), options,
                     Tensor(p.data(), Shape{1, record.heads, queries, keys}));
  return p;
}

TEST(CrossRow, AgreesWithTheOracleUnderEveryMaskAndScore) {
  for (const Size size : kSizes) {
    std::vector<float> bias;
    const AttentionRecord record = varied(size, bias);
    for (std::size_t l = 0; l < record.layers.size(); ++l) {
      const std::vector<double> p = oracle(record, l);
      for (int h = 0; h < record.heads; ++h) {
        for (std::size_t q = 0; q < size.queries; ++q) {
          const auto row =
              attention_row(record, static_cast<int>(l), h, static_cast<std::int64_t>(q));
          ASSERT_EQ(row.size(), size.keys);
          for (std::size_t k = 0; k < size.keys; ++k) {
            // Scores stay below 100 here: rounding of a score times its exponential's slope.
            const double want = p[(static_cast<std::size_t>(h) * size.queries + q) * size.keys + k];
            ASSERT_LE(std::abs(row[k] - want), 100 * 64 * 2.3e-16)
                << l << "." << h << " " << q << " " << k;
          }
        }
      }
    }
    EXPECT_THROW(attention_row(record, 0, 0, static_cast<std::int64_t>(size.queries)),
                 std::invalid_argument);
  }
}

// Means of the oracle's rows; nothing that needs both places in one text.
TEST(CrossStatistics, AreMeansOfTheOraclesRows) {
  for (const Size size : kSizes) {
    std::vector<float> bias;
    const AttentionRecord record = varied(size, bias);
    const auto all = head_statistics(record), even = uniform_statistics(record);
    ASSERT_EQ(all.size(), record.layers.size() * static_cast<std::size_t>(record.heads));
    ASSERT_EQ(even.size(), all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const HeadStatistics& got = all[i];
      const std::vector<double> p = oracle(record, static_cast<std::size_t>(got.layer));
      HeadStatistics want;
      for (std::size_t q = 0; q < size.queries; ++q) {
        const double* const row =
            p.data() + (static_cast<std::size_t>(got.head) * size.queries + q) * size.keys;
        double largest = 0, seen = 0;
        for (std::size_t k = 0; k < size.keys; ++k) {
          if (row[k] > 0) want.entropy -= row[k] * std::log(row[k]);
          if (record.keys[k].special) want.special += row[k];
          largest = std::max(largest, row[k]);
          seen += row[k];
        }
        if (!record.layers[static_cast<std::size_t>(got.layer)].score.sinks.empty() && seen < 1)
          want.entropy -= (1 - seen) * std::log(1 - seen);
        want.first += row[0];
        want.max_probability += largest;
      }
      const auto n = static_cast<double>(size.queries);
      EXPECT_NEAR(got.entropy, want.entropy / n, 1e-9) << got.layer << "." << got.head;
      EXPECT_NEAR(got.first, want.first / n, 1e-9);
      EXPECT_NEAR(got.special, want.special / n, 1e-9);
      EXPECT_NEAR(got.max_probability, want.max_probability / n, 1e-9);
      for (const HeadStatistics& s : {got, even[i]}) {
        EXPECT_TRUE(std::isnan(s.previous) && std::isnan(s.next) && std::isnan(s.self) &&
                    std::isnan(s.distance));
        EXPECT_FALSE(std::isnan(s.relative_entropy));
      }
      if (got.layer == 0) {
        EXPECT_NEAR(even[i].first, 1 / static_cast<double>(size.keys), 1e-12);
      }
    }
  }
}

TEST(CrossFindings, SayNothingOfNeighboursAndNameTheKeysTokens) {
  AttentionRecord record = synthetic::cross(9, 14);
  record.tokens[0].text = "<start>";
  record.keys.front().special = false;
  record.keys.back().text = "</s>";
  const auto found = findings(record, head_statistics(record), 20);
  std::string all;
  for (const std::string& text : found) all += text + "\n";
  EXPECT_THAT(all, HasSubstr("special tokens (</s>)"));
  EXPECT_THAT(all, HasSubstr("looks at the first token"));
  EXPECT_THAT(all, HasSubstr("spreads widely"));
  for (const char* never : {"previous", "next", "itself", "nearby", "nan", "<start>"})
    EXPECT_THAT(all, Not(HasSubstr(never)));
}

TEST(CrossRecord, SizesHaveToFit) {
  const auto refused = [](AttentionRecord record) {
    try {
      head_statistics(record);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const AttentionRecord good = synthetic::cross(5, 8, 1, 2, 4);
  EXPECT_EQ(refused(good), "");
  AttentionRecord record = good;
  record.keys.pop_back();
  EXPECT_THAT(refused(record), HasSubstr("layer 0 has 64 values in k, needs 56"));
  record = good;
  record.tokens.pop_back();
  EXPECT_THAT(refused(record), HasSubstr("layer 0 has 40 values in q, needs 32"));
  record = good;
  record.layers[0].value_norm.resize(2 * 5);
  EXPECT_THAT(refused(record), HasSubstr("10 values in value_norm, needs 16"));
  record = good;
  const std::vector<float> bias(64);
  record.layers[0].score.bias = ConstTensor(bias.data(), Shape{1, 1, 8, 8});
  EXPECT_THAT(refused(record), HasSubstr("1 or 5, 1 or 8]"));
}

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size())
    ++found;
  return found;
}

TEST(TranslationPage, HasThreeTabs) {
  const TranslationRecord record = synthetic::translation(7, 11);
  const std::string html = page(record, "t");
  for (const char* const name : {"Encoder", "Decoder", "Cross"})
    EXPECT_EQ(count(html, "\"name\":\"" + std::string(name) + "\""), 1U);
  for (const char* const id : {"attn-layer-0-0", "attn-layer-1-2", "attn-layer-2-2"})
    EXPECT_EQ(count(html, "id=\"" + std::string(id) + "\""), 1U);
  EXPECT_EQ(count(html, "\"keys\":{"), 1U);
  // Twelve heads of cross-attention, and twelve even ones, have no number for neighbours.
  for (const char* const name : {"previous", "next", "self", "distance"})
    EXPECT_EQ(count(html, "\"" + std::string(name) + "\":null"), 24U);
  EXPECT_EQ(count(page(record.cross), "\"name\":\"\""), 1U);
}

TEST(TranslationPage, HostileSourcesStayText) {
  TranslationRecord record = synthetic::translation(7, 11, 1, 1, 4);
  const std::string clean = page(record, "t");
  record.cross.keys[1].text = record.encoder.tokens[1].text = "</script><script>alert(1)</script>";
  record.cross.keys[2].text = std::string("\xff\x00", 2);
  const std::string html = page(record, "t");
  EXPECT_EQ(count(html, "</script>"), count(clean, "</script>"));
  EXPECT_THAT(html, HasSubstr("\\ufffd\\u0000"));
}

// All three records share what a page has room for, in their order.
TEST(TranslationPage, KeepsToItsLimit) {
  const TranslationRecord record = synthetic::translation(530, 600, 1, 4, 64);
  std::size_t before = 4;
  for (const double limit : {2e6, 1.4e6}) {
    const std::string html = page(record, "", Context(), limit);
    EXPECT_LE(static_cast<double>(html.size()), limit + 250e3) << limit;
    const std::size_t whole = count(html, "\"q_exponent\"");
    EXPECT_LT(whole, before) << limit;
    before = whole;
    EXPECT_EQ(count(html, "id=\"attn-sketch-"), 3U);
  }
  // Fewer queries than rows that would be kept.
  EXPECT_THAT(page(synthetic::cross(2, 200, 1, 1, 64), "", Context(), 1),
              HasSubstr("\"queries\":[0,1]"));
}

TEST(TranslationPage, RefusesWhatDoesNotFit) {
  TranslationRecord record = synthetic::translation(7, 11, 1, 1, 4);
  record.cross.keys.pop_back();
  EXPECT_THROW(page(record), std::invalid_argument);
  EXPECT_THROW(page(TranslationRecord{}), std::invalid_argument);
}

}  // namespace
}  // namespace attn
