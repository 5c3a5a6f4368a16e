// Hundreds of random masks in random geometries against their rules, pair by pair.
#include "mask/bound.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/mask.h"
#include "mask/rules.h"

namespace attn {
namespace {

using test::Random;
using test::Ruled;

std::string describe(const Mask& mask, const Geometry& g) {
  return mask.to_string() + " with batch " + std::to_string(g.batch) + ", heads " +
         std::to_string(g.heads) + ", q_len " + std::to_string(g.q_len) + ", k_len " +
         std::to_string(g.k_len) + ", query_start " + std::to_string(g.query_start) +
         (g.q_positions.empty() ? "" : ", q_positions") +
         (g.k_positions.empty() ? "" : ", k_positions");
}

// Empty when the row is in normal form.
std::string abnormal(const std::vector<Interval>& row, std::int64_t k_len) {
  std::int64_t end = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const Interval& interval = row[i];
    const std::string where = "interval " + std::to_string(i) + " ";
    if (interval.begin < 0 || interval.end > k_len) return where + "leaves the keys";
    if (interval.begin >= interval.end || interval.step < 1) return where + "is empty";
    if (i > 0 && interval.begin < end) return where + "overlaps the last";
    if (i > 0 && interval.begin == end) return where + "touches the last";
    if ((interval.end - 1 - interval.begin) % interval.step != 0) return where + "has a loose end";
    if (interval.end - interval.begin == 1 && interval.step != 1) return where + "steps nowhere";
    end = interval.end;
  }
  return "";
}

std::vector<bool> keys_of(const std::vector<Interval>& row, std::int64_t k_len) {
  std::vector<bool> keys(static_cast<std::size_t>(k_len), false);
  for (const Interval& interval : row) {
    for (std::int64_t j = interval.begin; j < interval.end; j += interval.step) {
      keys[static_cast<std::size_t>(j)] = true;
    }
  }
  return keys;
}

// Every answer about the mask against its rule.
void expect_rule(const Ruled& ruled, const Geometry& g, Random& random) {
  SCOPED_TRACE(describe(ruled.mask, g));
  const BoundMask bound(ruled.mask, g);
  std::int64_t pairs = 0;
  bool future = false;
  std::map<int, std::vector<bool>> rows_of_variant;
  std::vector<std::uint64_t> words(static_cast<std::size_t>((g.k_len + 63) / 64) + 1);
  for (std::int64_t b = 0; b < g.batch; ++b) {
    for (std::int64_t h = 0; h < g.heads; ++h) {
      const int variant = bound.variant(b, h);
      ASSERT_GE(variant, 0);
      ASSERT_LT(variant, bound.variants());
      if (ruled.structured) {
        ASSERT_TRUE(bound.structured(variant));
      }
      std::vector<std::int64_t> empty;
      std::vector<bool> rows;
      for (std::int64_t q = 0; q < g.q_len; ++q) {
        std::vector<bool> expected;
        bool any = false;
        for (std::int64_t k = 0; k < g.k_len; ++k) {
          const bool sees = ruled.rule(g, b, h, q, k);
          expected.push_back(sees);
          any |= sees;
          pairs += sees;
          future |= sees && g.k_position(k) > g.q_position(q);
        }
        if (!any) empty.push_back(q);
        rows.insert(rows.end(), expected.begin(), expected.end());

        std::vector<Interval> row;
        bound.row(variant, q, row);
        ASSERT_EQ(abnormal(row, g.k_len), "") << "q " << q;
        ASSERT_EQ(keys_of(row, g.k_len), expected) << "q " << q;
        if (bound.structured(variant)) {
          // What stands in front of the row stays, and does not merge with it.
          std::vector<Interval> appended = {{-5, 0, 1}};
          bound.row_intervals(variant, q, appended);
          ASSERT_EQ(appended.front(), (Interval{-5, 0, 1}));
          appended.erase(appended.begin());
          ASSERT_EQ(appended, row);
        }
        std::fill(words.begin(), words.end(), 0xdeadbeefdeadbeef);
        bound.row_bits(variant, q, words.data());
        ASSERT_EQ(words.back(), 0xdeadbeefdeadbeef) << "written past the row";
        for (std::int64_t j = 0; j < static_cast<std::int64_t>(words.size() - 1) * 64; ++j) {
          const bool bit = (words[static_cast<std::size_t>(j / 64)] >> (j % 64) & 1) != 0;
          ASSERT_EQ(bit, j < g.k_len && expected[static_cast<std::size_t>(j)]) << "key " << j;
        }
      }
      ASSERT_EQ(ruled.mask.empty_rows(g, b, h), empty);
      const bool all = std::find(rows.begin(), rows.end(), false) == rows.end();
      if (ruled.structured) {
        ASSERT_EQ(bound.full(variant), all);
      } else if (bound.full(variant)) {
        ASSERT_TRUE(all);
      }
      const auto [it, added] = rows_of_variant.emplace(variant, rows);
      if (!added) {
        ASSERT_EQ(it->second, rows) << "variant " << variant << " has two meanings";
      }
    }
  }
  ASSERT_EQ(static_cast<int>(rows_of_variant.size()), bound.variants());
  ASSERT_EQ(ruled.mask.pairs(g), pairs);
  ASSERT_EQ(ruled.mask.sees_future(g), future);
  for (int i = 0; i < 8 && g.q_len > 0 && g.k_len > 0; ++i) {
    const std::int64_t b = random.integer(0, g.batch - 1), h = random.integer(0, g.heads - 1);
    const std::int64_t q = random.integer(0, g.q_len - 1), k = random.integer(0, g.k_len - 1);
    ASSERT_EQ(ruled.mask.visible(g, b, h, q, k), ruled.rule(g, b, h, q, k));
    std::vector<Interval> row;
    bound.row(bound.variant(b, h), q, row);
    ASSERT_EQ(ruled.mask.row(g, b, h, q), row);
  }
}

TEST(BoundMask, EveryLeafMeansItsRule) {
  Random random(1);
  for (int i = 0; i < 300; ++i) {
    const bool ordered = random.chance(80);
    const Geometry g = random.geometry(ordered);
    expect_rule(random.leaf(g, ordered), g, random);
    if (HasFatalFailure()) return;
  }
}

TEST(BoundMask, EveryExpressionMeansItsRule) {
  Random random(2);
  for (int i = 0; i < 600; ++i) {
    const bool ordered = random.chance(80);
    const Geometry g = random.geometry(ordered);
    expect_rule(random.mask(g, ordered, static_cast<int>(random.integer(1, 4))), g, random);
    if (HasFatalFailure()) return;
  }
}

// The set operations on progressions, which random masks reach too rarely.
TEST(BoundMask, DilatedWindowsCombineExactly) {
  Random random(3);
  for (int i = 0; i < 400; ++i) {
    const Geometry g = random.geometry(true);
    const auto leaf = [&] {
      return random.chance(75) ? test::dilated(random.integer(-1, 30), random.integer(-1, 30),
                                               random.integer(2, 9))
                               : random.leaf(g, true);
    };
    Ruled ruled = leaf();
    for (std::int64_t links = random.integer(1, 3); links > 0; --links) {
      ruled = test::combine(ruled, leaf(), random.chance(40));
    }
    expect_rule(ruled, g, random);
    if (HasFatalFailure()) return;
  }
}

TEST(BoundMask, ExtremeSidesAndPositionsDoNotOverflow) {
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
  Random random(4);
  std::vector<Geometry> geometries(5);
  for (Geometry& g : geometries) g.q_len = g.k_len = 7;
  geometries[1].query_start = kMax - 7;
  geometries[2].query_start = kMin;
  geometries[3].q_positions = {kMin, kMin + 1, -1, 0, 1, kMax - 1, kMax};
  geometries[3].k_positions = {kMin, kMin + 2, -2, 0, 3, kMax - 1, kMax};
  geometries[4].q_positions = {kMin, kMin + 1, -1, 0, 1, kMax - 1, kMax};
  geometries[4].k_positions = {kMax - 6, kMax - 5, kMax - 4, kMax - 3, kMax - 2, kMax - 1, kMax};
  const std::vector<std::int64_t> sides = {kMin, -1, 0, 1, 2, kMax / 2, kMax - 1, kMax};
  for (const Geometry& g : geometries) {
    for (const std::int64_t left : sides) {
      for (const std::int64_t right : sides) {
        expect_rule(test::window(left, right), g, random);
        for (const std::int64_t step : {std::int64_t{1}, std::int64_t{2}, kMax / 2, kMax}) {
          expect_rule(test::dilated(left, right, step), g, random);
          if (HasFatalFailure()) return;
        }
      }
      expect_rule(test::prefix(left), g, random);
      expect_rule(test::global_tokens({left, kMin, kMax}), g, random);
    }
    expect_rule(test::causal(), g, random);
    expect_rule(test::documents({0, 3, kMax - 3}), g, random);
    for (const std::int64_t size :
         {std::int64_t{1}, std::int64_t{2}, std::int64_t{3}, kMax - 1, kMax}) {
      expect_rule(test::blocks(size, {{0, -1},
                                      {-1, 0},
                                      {0, 0},
                                      {-2, -2},
                                      {kMax, kMax},
                                      {kMin, kMin},
                                      {kMin / 2 - 1, kMin / 2 - 1},
                                      {-1, -2},
                                      {1, 1}}),
                  g, random);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(BoundMask, OneVariantServesEqualRows) {
  Geometry g;
  g.batch = 4;
  g.heads = 6;
  g.q_len = g.k_len = 32;
  const auto variants = [&](const Mask& mask) { return BoundMask(mask, g).variants(); };
  const Mask a = Mask::causal(), b = Mask::window(3, 0);
  EXPECT_EQ(variants(a & b), 1);
  EXPECT_EQ(variants(Mask::per_head({a, b, a, b, a, Mask::causal()})), 2);
  EXPECT_EQ(variants(Mask::per_head({a & b, b & a, b, b, b, b})), 1);
  EXPECT_EQ(variants(Mask::padding({32, 7, 9, 7})), 3);
  EXPECT_EQ(variants(a & Mask::padding({32, 7, 9, 7})), 3);
  EXPECT_EQ(variants(Mask::padding({5})), 1);
  EXPECT_EQ(variants(Mask::per_batch({a, a, b, Mask::full()})), 3);
  EXPECT_EQ(variants(Mask::per_batch({a, a, b, Mask::full()}) & Mask::per_head({a, b, a, b, a, b})),
            2);
  EXPECT_EQ(variants(Mask::predicate([](auto, auto, auto, auto) {})), 24);
  EXPECT_EQ(variants(Mask::predicate([](auto, auto, auto, auto) {}) | Mask::full()), 1);
  const std::vector<std::uint8_t> ones(4 * 6 * 32 * 32, 1);
  EXPECT_EQ(variants(Mask::dense(ones.data(), {1, 6, 32, 32})), 6);
  EXPECT_EQ(variants(Mask::dense(ones.data(), {4, 1, 32, 32})), 4);
  EXPECT_EQ(variants(Mask::dense(ones.data(), {1, 1, 32, 32})), 1);
  const BoundMask bound(Mask::padding({32, 7, 9, 7}), g);
  EXPECT_EQ(bound.uses(bound.variant(1, 0)), 12);
  EXPECT_EQ(bound.uses(bound.variant(2, 5)), 6);
}

TEST(BoundMask, FullIsSeenThroughOtherWordings) {
  Geometry g;
  g.q_len = 1;
  g.k_len = 100;
  g.query_start = 99;
  EXPECT_TRUE(BoundMask(Mask::causal(), g).full(0));  // decode
  EXPECT_TRUE(BoundMask(Mask::causal() & Mask::window(99, 0), g).full(0));
  EXPECT_FALSE(BoundMask(Mask::window(98, 0), g).full(0));
  EXPECT_TRUE(BoundMask(Mask::padding({100}), g).full(0));
  EXPECT_TRUE(BoundMask(Mask::documents({100}), g).full(0));
  EXPECT_TRUE(BoundMask(Mask::prefix(50) | Mask::window(50, 0), g).full(0));
  const std::vector<std::uint8_t> ones(100, 1);
  EXPECT_TRUE(BoundMask(Mask::dense(ones.data(), {1, 1, 1, 100}), g).full(0));
  g.q_len = 2;
  g.query_start = 98;
  EXPECT_FALSE(BoundMask(Mask::causal(), g).full(0));
  EXPECT_TRUE(BoundMask(Mask::causal() | Mask::global_tokens({98}), g).full(0));
}

TEST(BoundMask, DensePaddingMaskBindsToIntervals) {
  Geometry g;
  g.batch = 2;
  g.q_len = g.k_len = 70;
  std::vector<std::uint8_t> visible(140, 1);
  for (std::size_t j = 50; j < 70; ++j) visible[j] = 0;
  const BoundMask bound(Mask::causal() & Mask::dense(visible.data(), {2, 1, 1, 70}), g);
  EXPECT_EQ(bound.variants(), 2);
  ASSERT_TRUE(bound.structured(0));
  std::vector<Interval> row;
  bound.row_intervals(bound.variant(0, 0), 60, row);
  EXPECT_EQ(row, (std::vector<Interval>{{0, 50, 1}}));
  const BoundMask whole(Mask::dense(visible.data(), {1, 1, 2, 70}), [] {
    Geometry two;
    two.q_len = 2;
    two.k_len = 70;
    return two;
  }());
  EXPECT_FALSE(whole.structured(0));
}

TEST(BoundMask, DilatedRowsStayStepped) {
  Geometry g;
  g.q_len = g.k_len = 100;
  std::vector<Interval> row;
  BoundMask(Mask::dilated_window(3, 2, 4) & Mask::causal(), g).row_intervals(0, 50, row);
  EXPECT_EQ(row, (std::vector<Interval>{{38, 51, 4}}));
  row.clear();
  BoundMask(Mask::dilated_window(5, 0, 4) & Mask::dilated_window(5, 0, 6), g)
      .row_intervals(0, 50, row);
  EXPECT_EQ(row, (std::vector<Interval>{{38, 51, 12}}));
  row.clear();
  BoundMask(Mask::dilated_window(2, 0, 3) | Mask::window(1, 0), g).row_intervals(0, 50, row);
  EXPECT_EQ(row, (std::vector<Interval>{{44, 48, 3}, {49, 51, 1}}));
}

TEST(BoundMask, APredicateIsCalledOnceARow) {
  Geometry g;
  g.batch = 2;
  g.heads = 2;
  g.q_len = 5;
  g.k_len = 9;
  int calls = 0;
  std::set<std::vector<std::int64_t>> seen;
  const Mask mask =
      Mask::causal() & Mask::predicate([&](std::int64_t b, std::int64_t h, std::int64_t q,
                                           std::span<std::uint8_t> visible) {
        ++calls;
        seen.insert({b, h, q, static_cast<std::int64_t>(visible.size())});
        for (const std::uint8_t cell : visible) EXPECT_EQ(cell, 0);
        visible[0] = 1;
      });
  EXPECT_EQ(mask.pairs(g), 20);
  EXPECT_EQ(calls, 20);
  EXPECT_EQ(seen.size(), 20u);
}

TEST(BoundMask, APredicateMayAskMasksAndMayThrow) {
  Geometry g;
  g.q_len = g.k_len = 70;
  const Mask inner = Mask::causal() & Mask::predicate([](auto, auto, auto q, auto visible) {
                       visible[static_cast<std::size_t>(q)] = 1;
                     });
  const Mask outer = (Mask::predicate([&](std::int64_t b, std::int64_t h, std::int64_t q,
                                          std::span<std::uint8_t> visible) {
                        for (const Interval& i : inner.row(g, b, h, q)) {
                          for (std::int64_t j = i.begin; j < i.end; ++j) {
                            visible[static_cast<std::size_t>(j)] = 1;
                          }
                        }
                      }) |
                      Mask::prefix(1)) &
                     Mask::window(40, 0);
  EXPECT_EQ(outer.pairs(g), 70 + 40);
  const Mask bad = Mask::predicate([](auto, auto, auto, auto) { throw std::runtime_error("no"); });
  EXPECT_THROW((Mask::causal() & bad).pairs(g), std::runtime_error);
  EXPECT_EQ(outer.pairs(g), 70 + 40);
}

TEST(BoundMask, SurvivesItsMask) {
  Geometry g;
  g.q_len = g.k_len = 70;
  auto mask = std::make_unique<Mask>(Mask::global_tokens({3}) | Mask::documents({10, 20}));
  auto bound = std::make_unique<BoundMask>(*mask, g);
  const BoundMask copy = *bound;
  mask.reset();
  bound.reset();
  std::vector<Interval> row;
  copy.row_intervals(0, 15, row);
  EXPECT_EQ(row, (std::vector<Interval>{{3, 4, 1}, {10, 30, 1}}));
}

}  // namespace
}  // namespace attn
