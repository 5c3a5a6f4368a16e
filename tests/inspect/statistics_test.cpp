#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "attn/inspect.h"
#include "attn/reference.h"
#include "inspect/synthetic.h"

namespace attn {
namespace {

// Every probability of a layer, from the oracle: [heads][tokens][tokens].
std::vector<double> oracle(const AttentionRecord& record, std::size_t layer) {
  const auto n = static_cast<std::int64_t>(record.tokens.size());
  const LayerRecord& l = record.layers[layer];
  std::vector<double> q(l.q.begin(), l.q.end()), k(l.k.begin(), l.k.end());
  std::vector<double> bias;
  AttentionOptions options{.mask = l.mask, .score = l.score};
  if (!l.score.bias.empty()) {  // of the queries' type
    const float* source = static_cast<const float*>(l.score.bias.data);
    bias.assign(source, source + l.score.bias.size());
    options.score.bias = ConstTensor(bias.data(), l.score.bias.shape);
  }
  std::vector<double> p(static_cast<std::size_t>(record.heads * n * n));
  reference::weights(ConstTensor(q.data(), Shape{1, record.heads, n, record.width}),
                     ConstTensor(k.data(), Shape{1, record.kv_heads, n, record.width}), options,
                     Tensor(p.data(), Shape{1, record.heads, n, n}));
  return p;
}

// One case a layer: everything that a mask or a score can do.
AttentionRecord varied(std::size_t n, std::vector<float>& bias) {
  AttentionRecord r = synthetic::record(n, 8, 6, 10, 3);
  const auto length = static_cast<std::int64_t>(n);
  r.layers[1].mask = Mask::causal();
  r.layers[1].score = Score::alibi();
  r.layers[2].mask = Mask::window(3, 2) | Mask::global_tokens({0});
  r.layers[2].score.soft_cap = 2;
  r.layers[3].score.sinks = {0.5f, 1, -1, 2, 0, 3};
  r.layers[3].score.scale = 0.7;
  std::vector<Mask> masks;
  for (std::int64_t h = 0; h < 6; ++h) {
    masks.push_back(h % 2 == 0 ? Mask::causal() : Mask::window(h, 0));
  }
  r.layers[4].mask = Mask::per_head(masks);
  T5Bias t5{.table = {}, .buckets = 8, .max_distance = 16, .bidirectional = true};
  for (int i = 0; i < 8 * 6; ++i) t5.table.push_back(0.1f * static_cast<float>(i % 7) - 0.3f);
  r.layers[5].score.t5 = t5;
  bias.resize(6 * n * n);
  for (std::size_t i = 0; i < bias.size(); ++i) {
    bias[i] = i % 11 == 0 ? -std::numeric_limits<float>::infinity()
                          : 0.01f * static_cast<float>(i * 37 % 101);
  }
  for (std::size_t k = 0; k < n; ++k) bias[k] = -std::numeric_limits<float>::infinity();
  r.layers[6].score.bias = ConstTensor(bias.data(), Shape{1, 6, length, length});
  r.layers[7].mask = Mask::documents({length / 2, length / 4});  // the last rows see nothing
  return r;
}

TEST(AttentionRow, AgreesWithTheOracleUnderEveryMaskAndScore) {
  std::vector<float> bias;
  const std::size_t n = 24;
  const AttentionRecord record = varied(n, bias);
  for (std::size_t l = 0; l < record.layers.size(); ++l) {
    const std::vector<double> p = oracle(record, l);
    for (int h = 0; h < record.heads; ++h) {
      for (std::size_t q = 0; q < n; ++q) {
        const auto row =
            attention_row(record, static_cast<int>(l), h, static_cast<std::int64_t>(q));
        for (std::size_t k = 0; k < n; ++k) {
          // Scores stay below 100 here: rounding of a score times its exponential's slope.
          const double want = p[(static_cast<std::size_t>(h) * n + q) * n + k];
          ASSERT_LE(std::abs(row[k] - want), 100 * 64 * 2.3e-16)
              << l << "." << h << " " << q << " " << k;
        }
      }
    }
  }
}

TEST(AttentionRow, IgnoresWhatIsHidden) {
  AttentionRecord record = synthetic::record(9, 1, 2, 4);
  record.layers[0].mask = Mask::causal();
  const auto before = attention_row(record, 0, 1, 3);
  record.layers[0].k[(1 * 9 + 7) * 4] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(before, attention_row(record, 0, 1, 3));
  EXPECT_TRUE(std::isnan(attention_row(record, 0, 1, 8)[0]));
}

TEST(AttentionRow, RefusesWhatIsNotThere) {
  const AttentionRecord record = synthetic::record(9, 2, 2, 4);
  EXPECT_THROW(attention_row(record, 2, 0, 0), std::invalid_argument);
  EXPECT_THROW(attention_row(record, 0, -1, 0), std::invalid_argument);
  EXPECT_THROW(attention_row(record, 0, 0, 9), std::invalid_argument);
}

// The definitions once more, over the oracle's whole matrices.
HeadStatistics brute_force(const AttentionRecord& record, const std::vector<double>& p, int layer,
                           int head) {
  const std::size_t n = record.tokens.size();
  HeadStatistics s{.layer = layer, .head = head};
  const Geometry geometry{.batch = 1,
                          .heads = record.heads,
                          .q_len = static_cast<std::int64_t>(n),
                          .k_len = static_cast<std::int64_t>(n)};
  const LayerRecord& l = record.layers[static_cast<std::size_t>(layer)];
  double rows = 0, previous = 0, next = 0;
  for (std::size_t q = 0; q < n; ++q) {
    const double* row = p.data() + (static_cast<std::size_t>(head) * n + q) * n;
    double entropy = 0, sum = 0, entries = 0, most = 0;
    const auto add = [&](double x) {
      if (x > 0) entropy -= x * std::log(x);
    };
    for (std::size_t k = 0; k < n; ++k) {
      const auto at = [](std::size_t i) { return static_cast<std::int64_t>(i); };
      bool seen = reference::visible(l.mask, geometry, 0, head, at(q), at(k));
      if (!l.score.bias.empty()) {
        seen = seen && std::isfinite(l.score.bias.row<float>(0, head, at(q))[k]);
      }
      entries += seen ? 1 : 0;
      add(row[k]);
      sum += row[k];
      most = std::max(most, row[k]);
    }
    if (entries == 0) continue;
    if (!l.score.sinks.empty()) {
      add(1 - sum);
      entries += 1;
    }
    rows += 1;
    s.entropy += entropy;
    if (entries > 1) s.relative_entropy += entropy / std::log(entries);
    previous += q > 0 ? 1 : 0;
    next += q + 1 < n ? 1 : 0;
    s.previous += q > 0 ? row[q - 1] : 0;
    s.next += q + 1 < n ? row[q + 1] : 0;
    s.self += row[q];
    s.first += row[0];
    for (std::size_t k = 0; k < n; ++k) {
      s.special += record.tokens[k].special ? row[k] : 0;
      s.distance += row[k] * std::abs(static_cast<double>(q) - static_cast<double>(k));
    }
    s.max_probability += most;
  }
  for (double* sum : {&s.entropy, &s.relative_entropy, &s.self, &s.first, &s.special, &s.distance,
                      &s.max_probability}) {
    *sum /= rows;
  }
  s.previous /= previous;
  s.next /= next;
  return s;
}

void expect_near(const HeadStatistics& a, const HeadStatistics& b, double tolerance) {
  const std::string where = "head " + std::to_string(b.layer) + "." + std::to_string(b.head);
  EXPECT_EQ(a.layer, b.layer);
  EXPECT_EQ(a.head, b.head);
  EXPECT_NEAR(a.entropy, b.entropy, tolerance) << where;
  EXPECT_NEAR(a.relative_entropy, b.relative_entropy, tolerance) << where;
  EXPECT_NEAR(a.previous, b.previous, tolerance) << where;
  EXPECT_NEAR(a.next, b.next, tolerance) << where;
  EXPECT_NEAR(a.self, b.self, tolerance) << where;
  EXPECT_NEAR(a.first, b.first, tolerance) << where;
  EXPECT_NEAR(a.special, b.special, tolerance) << where;
  EXPECT_NEAR(a.distance, b.distance, tolerance * 24) << where;
  EXPECT_NEAR(a.max_probability, b.max_probability, tolerance) << where;
}

TEST(HeadStatistics, AgreeWithBruteForce) {
  std::vector<float> bias;
  const AttentionRecord record = varied(24, bias);
  const auto statistics = head_statistics(record);
  ASSERT_EQ(statistics.size(), 8u * 6u);
  for (int l = 0; l < 7; ++l) {
    const std::vector<double> p = oracle(record, static_cast<std::size_t>(l));
    for (int h = 0; h < 6; ++h) {
      expect_near(statistics[static_cast<std::size_t>(l * 6 + h)], brute_force(record, p, l, h),
                  1e-10);
    }
  }
}

TEST(HeadStatistics, SameBitsForAnyThreads) {
  const AttentionRecord record = synthetic::record(40);
  const auto one = head_statistics(record, Context({.threads = 1}));
  const auto three = head_statistics(record, Context({.threads = 3}));
  for (std::size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].entropy, three[i].entropy);
    EXPECT_EQ(one[i].distance, three[i].distance);
  }
}

// A bias whose keys are not next to each other is the same bias.
TEST(AttentionRow, ReadsABiasByItsStrides) {
  AttentionRecord record = synthetic::record(6, 1, 2, 4);
  std::vector<float> dense(36), wide(72, 99.0f), turned(36);
  for (std::size_t q = 0; q < 6; ++q) {
    for (std::size_t k = 0; k < 6; ++k) {
      const auto value = static_cast<float>(static_cast<double>((5 * q + 7 * k) % 11) * 0.3);
      dense[q * 6 + k] = wide[(q * 6 + k) * 2] = turned[k * 6 + q] = value;
    }
  }
  const Shape shape{1, 1, 6, 6};
  record.layers[0].score.bias = {dense.data(), shape};
  const std::vector<double> expected = attention_row(record, 0, 1, 3);
  const std::string expected_page = page(record, "t");
  record.layers[0].score.bias = {wide.data(), DType::f32, shape, {72, 72, 12, 2}};
  EXPECT_EQ(attention_row(record, 0, 1, 3), expected);
  EXPECT_EQ(page(record, "t"), expected_page);
  record.layers[0].score.bias = {turned.data(), DType::f32, shape, {36, 36, 1, 6}};
  EXPECT_EQ(attention_row(record, 0, 1, 3), expected);
}

TEST(HeadStatistics, HugeLogitsKeepTheirEntropy) {
  AttentionRecord record;
  record.tokens.resize(3);
  record.heads = record.kv_heads = record.width = 1;
  record.layers.push_back({.q = {1e4f, 1e4f, 1e4f}, .k = {1.0f, 1.0f, -1.0f}});
  const auto s = head_statistics(record)[0];
  EXPECT_NEAR(s.entropy, std::log(2.0), 1e-15);
  EXPECT_NEAR(s.relative_entropy, std::log(2.0) / std::log(3.0), 1e-15);
}

TEST(HeadStatistics, OneTokenAndNoKey) {
  AttentionRecord record = synthetic::record(3, 1, 1, 4);
  record.layers[0].mask = Mask::documents({});
  const auto s = head_statistics(record)[0];
  EXPECT_EQ(s.entropy, 0);
  EXPECT_EQ(s.self, 0);
  record = synthetic::record(1, 1, 1, 4);
  const auto one = head_statistics(record)[0];
  EXPECT_EQ(one.self, 1);
  EXPECT_EQ(one.relative_entropy, 0);
  EXPECT_EQ(one.previous, 0);
}

TEST(HeadStatistics, RefuseARecordThatDoesNotFit) {
  AttentionRecord record = synthetic::record(9, 2, 2, 4);
  record.layers[1].k.pop_back();
  try {
    head_statistics(record);
    FAIL() << "nothing thrown";
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), "[head_statistics] layer 1 has 71 values in k, needs 72");
  }
  record = synthetic::record(9, 2, 2, 4);
  record.kv_heads = 3;
  EXPECT_THROW(head_statistics(record), std::invalid_argument);
  EXPECT_THROW(head_statistics(AttentionRecord{}), std::invalid_argument);
}

TEST(UniformStatistics, CountsWhatIsVisible) {
  // A sum over queries is in units of 2^-38, each of its terms rounded.
  const double unit = 0x1p-38;
  AttentionRecord record = synthetic::record(10, 1, 1, 4);
  auto u = uniform_statistics(record)[0];
  EXPECT_NEAR(u.previous, 0.1, unit);
  EXPECT_NEAR(u.special, 0.2, 1e-15);
  EXPECT_NEAR(u.relative_entropy, 1, 1e-15);
  record.layers[0].mask = Mask::causal();
  u = uniform_statistics(record)[0];
  double harmonic = 0;
  for (int i = 1; i <= 10; ++i) harmonic += 1.0 / i;
  EXPECT_NEAR(u.first, harmonic / 10, 1e-15);  // DEFINITIONS: H_T / T
  EXPECT_NEAR(u.previous, (harmonic - 1) / 9, unit);
  EXPECT_EQ(u.next, 0);
}

TEST(Findings, NameTheHabitsWithTheirNull) {
  const AttentionRecord record = synthetic::record(60);
  const auto found = findings(record, head_statistics(record), 3);
  ASSERT_EQ(found.size(), 3u);
  std::vector<std::string> heads, kinds;
  for (const std::string& text : found) {
    EXPECT_EQ(text.rfind("Head ", 0), 0u) << text;
    EXPECT_NE(text.find("uniform: "), std::string::npos) << text;
    heads.push_back(text.substr(0, text.find(' ', 5)));
    kinds.push_back(text.substr(text.find(' ', 5), 22));
  }
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_NE(heads[i], heads[j]);
      EXPECT_NE(kinds[i], kinds[j]);
    }
  }
}

// Causal heads are compared with causal ones: an even head is no finding, and neither is a next
// token that nobody may see.
TEST(Findings, OfCausalHeadsHaveCausalNulls) {
  AttentionRecord record = synthetic::record(20, 1, 2, 4);
  for (RecordToken& token : record.tokens) token.special = false;
  record.layers[0].mask = Mask::causal();
  std::fill(record.layers[0].q.begin(), record.layers[0].q.end(), 0.0f);
  record.layer_numbers = {9};
  const auto found = findings(record, head_statistics(record), 10);
  ASSERT_EQ(found.size(), 1u) << testing::PrintToString(found);
  EXPECT_EQ(
      found[0],
      "Head 9.0 spreads widely: its entropy is 0.95 of the largest possible (uniform: 0.95, mean "
      "of all heads: 0.95)");
}

TEST(Findings, SaySharesThatAreTrue) {
  // One head that looks at the token before and at nothing else.
  AttentionRecord record;
  const std::size_t n = 20;
  record.tokens.resize(n);
  record.heads = record.kv_heads = 1;
  record.width = static_cast<std::int64_t>(n);
  LayerRecord layer;
  layer.q.assign(n * n, 0);
  layer.k.assign(n * n, 0);
  for (std::size_t i = 0; i < n; ++i) {
    layer.k[i * n + i] = 1;
    layer.q[i * n + (i > 0 ? i - 1 : 0)] = 1000;
  }
  record.layers.push_back(layer);
  const auto found = findings(record, head_statistics(record), 1);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0], "Head 0.0 looks at the previous token: 100 % of its mass (uniform: 5.0 %)");
  EXPECT_THROW(findings(record, {}, 1), std::invalid_argument);
}

}  // namespace
}  // namespace attn
