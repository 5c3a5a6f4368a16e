// What runs report of the softmax, against the oracle; its bits; and that asking changes nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <numeric>

#include "attention/cases.h"
#include "attention/questions.h"
#include "peak_memory.h"

namespace attn::test {
namespace {

class Observers : public testing::TestWithParam<Case> {};

// A probability is off by its share of the score's rounding (as the log-sum-exp in
// agreement_test.cpp), a sum over queries by half a unit of its fixed point a term beside.
template <class T>
void check_agreement(const Case& c, double unit) {
  Problem<T> p(c.shape, 17, c.q_size);
  Problem<double> oracle(c.shape, 17);
  oracle.q.assign(p.q.begin(), p.q.end());
  oracle.k.assign(p.k.begin(), p.k.end());
  oracle.v.assign(p.v.begin(), p.v.end());
  Answers<double> truth(c.shape);
  Observed asked = truth.observed();
  asked.lse = oracle.lt();
  reference::attention(oracle.qt(), oracle.kt(), oracle.vt(), oracle.ot(), c.options, asked);
  double size = 4 + c.q_size * std::sqrt(static_cast<double>(c.shape.width));
  for (double lse : oracle.lse) size += std::isinf(lse) ? 0 : std::abs(lse) / oracle.lse.size();
  const double relative = 2 * unit * size;
  const double fixed = 0x1p-39 * static_cast<double>(c.shape.q_len * c.shape.k_len);
  for (const Isa isa : supported_isas()) {
    Answers<T> got(c.shape);
    plan(p.shape, c.options, Context({.threads = 2, .isa = isa}))
        .run(p.qt(), p.kt(), p.vt(), p.ot(), got.observed());
    const auto compare = [&](const char* what, const auto& a, const auto& b, double absolute) {
      ASSERT_EQ(a.size(), b.size());
      for (std::size_t i = 0; i < a.size(); ++i) {
        const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
        ASSERT_TRUE(std::abs(x - y) <= relative * std::abs(y) + absolute)
            << name(isa) << ": " << what << "[" << i << "] is " << x << ", not " << y;
      }
    };
    const double tiny = sizeof(T) == 4 ? 1e-37 : 1e-300;  // denormals are 0
    compare("column mass", got.column_mass, truth.column_mass, fixed);
    compare("distances", got.distances, truth.distances, fixed);
    compare("offset mass", got.offset_mass, truth.offset_mass, fixed);
    compare("offset queries", got.offset_queries, truth.offset_queries, 0);
    compare("key sets", got.in_sets, truth.in_sets, tiny);
    compare("largest", got.largest, truth.largest, tiny);
    compare("mean", got.mean, truth.mean, fixed);
    compare("exact rows", got.exact, truth.exact, tiny);
    compare("value weighted", got.value_weighted, truth.value_weighted, tiny);
    compare("top weights", got.top_weights, truth.top_weights, tiny);
    // Keys whose weights are within rounding may change places; each is one that the row sees, with
    // its weight, once.
    const Geometry geometry = geometry_of(c.shape, c.options);
    std::vector<double> weights(
        static_cast<std::size_t>(c.shape.batch * c.shape.q_heads * c.shape.q_len * c.shape.k_len));
    reference::weights(oracle.qt(), oracle.kt(), c.options,
                       Tensor(weights.data(),
                              Shape{c.shape.batch, c.shape.q_heads, c.shape.q_len, c.shape.k_len}));
    for (std::size_t i = 0; i < got.top_keys.size(); ++i) {
      const std::int32_t key = got.top_keys[i];
      ASSERT_EQ(key < 0, truth.top_keys[i] < 0) << name(isa) << " top key " << i;
      if (key < 0) continue;
      const std::size_t row = i / static_cast<std::size_t>(got.k);
      const auto r = static_cast<std::int64_t>(row);
      const double weight =
          weights[row * static_cast<std::size_t>(c.shape.k_len) + static_cast<std::size_t>(key)];
      ASSERT_TRUE(std::abs(weight - truth.top_weights[i]) <= 2 * relative * weight + tiny)
          << name(isa) << " top key " << i;
      ASSERT_TRUE(reference::visible(c.options.mask, geometry, r / c.shape.q_len / c.shape.q_heads,
                                     r / c.shape.q_len % c.shape.q_heads, r % c.shape.q_len, key));
      for (std::size_t j = row * static_cast<std::size_t>(got.k); j < i; ++j) {
        ASSERT_NE(got.top_keys[j], key) << name(isa) << " top key " << i;
        if (got.top_weights[j] == got.top_weights[i]) {
          ASSERT_LT(got.top_keys[j], key) << name(isa) << " top key " << i;
        }
      }
    }
  }
}

TEST_P(Observers, AgreeInFloat32) { check_agreement<float>(GetParam(), 1e-6); }
TEST_P(Observers, AgreeInFloat64) { check_agreement<double>(GetParam(), 2e-14); }

// No answer moves a bit with the threads, and asking moves none of the output.
TEST_P(Observers, BitsOfAnyThreadCount) {
  const Case& c = GetParam();
  for (const Isa isa : supported_isas()) {
    Problem<float> p(c.shape, 31, c.q_size), plain = p;
    plain.run(c.options, Context({.threads = 2, .isa = isa}));
    Answers<float> one(c.shape);
    for (int threads : {1, 2, 3, 8}) {
      Answers<float> more(c.shape);
      Observed asked = more.observed();
      asked.lse = p.lt();
      p.clear();
      plan(p.shape, c.options, Context({.threads = threads, .isa = isa}))
          .run(p.qt(), p.kt(), p.vt(), p.ot(), asked);
      EXPECT_TRUE(same_bits(p.out, plain.out)) << name(isa) << ", " << threads << " threads";
      EXPECT_TRUE(same_bits(p.lse, plain.lse)) << name(isa) << ", " << threads << " threads";
      if (threads == 1) one = more;
      EXPECT_EQ(one.difference(more), "") << name(isa) << ", " << threads << " threads";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Observers, testing::ValuesIn(standard_cases()),
                         [](const auto& test) { return test.param.label; });

// Queries in chunks: rows have the same bits, sums over queries add up to the same.
TEST(ObserversOfChunks, AddUp) {
  const AttentionShape shape = make_shape(1, 4, 2, 300, 700, 24);
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> p(shape, 3);
    AttentionOptions options{.mask = Mask::causal() & Mask::window(450, 0), .query_start = 400};
    Answers<float> whole(shape);
    plan(shape, options, context).run(p.qt(), p.kt(), p.vt(), p.ot(), whole.observed());
    std::vector<double> columns(whole.column_mass.size()), bins(whole.distances.size());
    std::int64_t begin = 0;
    for (std::int64_t count : {1, 130, 7, 162}) {
      AttentionShape part = shape;
      part.q_len = count;
      const auto rows = [&](Tensor t) {
        t.data = t.row<float>(0, 0, begin);
        t.shape[2] = count;
        return t;
      };
      Answers<float> some(part);
      options.query_start = 400 + begin;
      plan(part, options, context).run(rows(p.qt()), p.kt(), p.vt(), rows(p.ot()), some.observed());
      for (std::size_t i = 0; i < columns.size(); ++i) columns[i] += some.column_mass[i];
      for (std::size_t i = 0; i < bins.size(); ++i) bins[i] += some.distances[i];
      for (std::int64_t h = 0; h < 4; ++h) {
        const auto same_rows = [&](const auto& a, const auto& b, std::int64_t width) {
          return std::equal(a.begin() + (h * 300 + begin) * width,
                            a.begin() + (h * 300 + begin + count) * width,
                            b.begin() + h * count * width);
        };
        EXPECT_TRUE(same_rows(whole.top_keys, some.top_keys, whole.k)) << name(isa);
        EXPECT_TRUE(same_rows(whole.top_weights, some.top_weights, whole.k)) << name(isa);
        EXPECT_TRUE(same_rows(whole.in_sets, some.in_sets, std::ssize(whole.sets))) << name(isa);
        EXPECT_TRUE(same_rows(whole.value_weighted, some.value_weighted, 1)) << name(isa);
      }
      begin += count;
    }
    EXPECT_EQ(columns, whole.column_mass) << name(isa);
    EXPECT_EQ(bins, whole.distances) << name(isa);
  }
}

// Each question alone gives what it gives among the others.
TEST(ObserversAlone, GiveTheSame) {
  const AttentionShape shape = make_shape(2, 6, 2, 300, 700, 24);
  const AttentionOptions options{
      .mask = Mask::causal() & Mask::window(450, 0), .score = Score::alibi(), .query_start = 400};
  for (const Isa isa : supported_isas()) {
    const Plan planned = plan(shape, options, Context({.threads = 2, .isa = isa}));
    Problem<float> p(shape, 3);
    Answers<float> together(shape), alone(shape);
    planned.run(p.qt(), p.kt(), p.vt(), p.ot(), together.observed());
    for (const Observed& question : alone.one_by_one())
      planned.run(p.qt(), p.kt(), p.vt(), p.ot(), question);
    EXPECT_EQ(together.difference(alone), "") << name(isa);
  }
}

// A poisoned key, value or query: only what sees it changes, and that is not finite.
TEST(ObserversOfPoison, StaysWhereItIsSeen) {
  const AttentionShape shape = make_shape(1, 2, 1, 300, 300, 16);
  const AttentionOptions options{.mask = Mask::causal() & Mask::window(100, 0)};
  const Geometry geometry = geometry_of(shape, options);
  for (const Isa isa : supported_isas()) {
    const Plan planned = plan(shape, options, Context({.threads = 2, .isa = isa}));
    Problem<float> p(shape, 3);
    Answers<float> clean(shape);
    planned.run(p.qt(), p.kt(), p.vt(), p.ot(), clean.observed());
    for (const float poison :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      constexpr std::int64_t kKey = 120;
      for (const bool in_key : {true, false}) {
        if (in_key && std::isinf(poison)) continue;  // -infinity is a score of weight 0
        Problem<float> bad = p;
        (in_key ? bad.kt() : bad.vt()).row<float>(0, 0, kKey)[3] = poison;
        Answers<float> got(shape);
        planned.run(bad.qt(), bad.kt(), bad.vt(), bad.ot(), got.observed());
        std::vector<bool> column_touched(300);
        for (std::int64_t h = 0; h < 2; ++h) {
          for (std::int64_t i = 0; i < 300; ++i) {
            const auto row = static_cast<std::size_t>(h * 300 + i);
            const bool sees = reference::visible(options.mask, geometry, 0, h, i, kKey);
            if (!sees) {
              ASSERT_EQ(got.value_weighted[row], clean.value_weighted[row]) << i;
            } else {
              ASSERT_FALSE(std::isfinite(got.value_weighted[row])) << name(isa) << " " << i;
            }
            for (std::size_t t = 0; t < static_cast<std::size_t>(got.k); ++t) {
              const std::size_t at = row * static_cast<std::size_t>(got.k) + t;
              if (!sees || !in_key) {
                ASSERT_EQ(got.top_weights[at], clean.top_weights[at]) << name(isa) << " " << i;
                ASSERT_EQ(got.top_keys[at], clean.top_keys[at]) << name(isa) << " " << i;
              } else if (got.top_keys[at] >= 0) {
                ASSERT_TRUE(std::isnan(got.top_weights[at])) << name(isa) << " " << i;
              }
            }
          }
          for (std::int64_t j = 0; j < 300; ++j) {
            bool touched = false;  // some row sees this key and the poisoned one
            for (std::int64_t i = 0; i < 300 && in_key; ++i) {
              touched = touched || (reference::visible(options.mask, geometry, 0, h, i, j) &&
                                    reference::visible(options.mask, geometry, 0, h, i, kKey));
            }
            const auto at = static_cast<std::size_t>(h * 300 + j);
            if (touched) {
              ASSERT_TRUE(std::isnan(got.column_mass[at])) << name(isa) << " " << j;
            } else {
              ASSERT_EQ(got.column_mass[at], clean.column_mass[at]) << name(isa) << " " << j;
            }
          }
        }
        if (!in_key) {
          EXPECT_EQ(got.distances, clean.distances);
          EXPECT_EQ(got.offset_mass, clean.offset_mass);
          EXPECT_EQ(got.largest, clean.largest);
          EXPECT_EQ(got.mean, clean.mean);
          EXPECT_EQ(got.exact, clean.exact);
        } else {
          EXPECT_TRUE(std::isnan(got.offset_mass[0]));
          EXPECT_EQ(std::isnan(got.mean[0]), std::isnan(got.largest[0]));
          EXPECT_EQ(got.offset_queries, clean.offset_queries);
        }
      }
    }
  }
}

// Questions about few tiles look at few tiles: counted by a custom score, which is called for what
// is looked at.
TEST(ObserversWork, OnlyWhereAsked) {
  const AttentionShape shape = make_shape(1, 1, 1, 2048, 2048, 8);
  std::atomic<std::int64_t> pairs{0};
  const AttentionOptions options{.score = {.custom = [&pairs](const ScoreTile& tile) {
                                   pairs += std::ssize(tile.q) * tile.k_count;
                                 }}};
  const Plan planned = plan(shape, options, Context({.threads = 2}));
  Problem<float> p(shape, 3);
  const auto second_pass = [&](const Observed& asked) {
    pairs = 0;
    planned.run(p.qt(), p.kt(), p.vt(), p.ot(), asked);
    return pairs - shape.q_len * shape.k_len;
  };
  EXPECT_EQ(second_pass({.lse = p.lt()}), 0);
  std::vector<float> row(2048), cells(16), mass(2048);
  std::vector<double> columns(2048), at_offset(1);
  EXPECT_EQ(second_pass({.column_mass = Tensor(columns.data(), Shape{1, 1, 1, 2048})}),
            shape.q_len * shape.k_len);
  // One strip of rows.
  EXPECT_LE(second_pass({.rows = {{1000}, Tensor(row.data(), Shape{1, 1, 1, 2048})}}), 16 * 2048);
  // 64 x 64 pairs, in strips of tiles.
  EXPECT_LE(second_pass(
                {.picture = {1024, 1088, 512, 576, 4, 4, Tensor(cells.data(), Shape{1, 1, 4, 4})}}),
            (64 + 32) * 256);
  // The first tile of keys.
  EXPECT_EQ(second_pass({.key_sets = {{{0, 1}}, Tensor(mass.data(), Shape{1, 1, 2048, 1})}}),
            2048 * 256);
  // One diagonal: tiles along it.
  EXPECT_LE(second_pass({.offsets = {{1}, Tensor(at_offset.data(), Shape{1, 1, 1, 1})}}),
            2048 * 1024);
}

TEST(ObserversPlan, IsExplained) {
  const AttentionShape shape = make_shape(1, 1, 1, 16, 16, 8);
  const Plan planned = plan(shape, {}, Context({.threads = 1}));
  EXPECT_EQ(planned.explain().find("observed"), std::string::npos);
  Problem<float> p(shape, 3);
  Observed asked = Answers<float>(shape).observed();
  asked.lse = p.lt();
  const std::string text = planned.explain(asked);
  EXPECT_NE(text.find("observed   log-sum-exp on the way; second pass for column mass, top 5 keys"),
            std::string::npos)
      << text;
}

// Memory grows with the length, not with its square.
TEST(ObserversMemory, StaysSmallAtLength131072) {
  const std::int64_t before = peak_kb();
  if (before == 0) GTEST_SKIP() << "no /proc/self/status";
  const AttentionShape shape = make_shape(1, 1, 1, 131072, 131072, 64);
  Problem<float> p(shape, 3);
  Answers<float> got(shape);
  plan(shape, {.mask = Mask::causal() & Mask::window(255, 0)}, Context({.threads = 2}))
      .run(p.qt(), p.kt(), p.vt(), p.ot(), got.observed());
  const double total = std::accumulate(got.column_mass.begin(), got.column_mass.end(), 0.0);
  EXPECT_NEAR(total, 131072, 0.1);
  // Inputs and output are 128 MiB of it.
  EXPECT_LT(peak_kb() - before, (128 + 200) * 1024);
}

}  // namespace
}  // namespace attn::test
