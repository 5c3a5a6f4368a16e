// Patterns of blocks and whole sparse patterns: what they hold, what random blocks promise.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attn/mask.h"

namespace attn {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kHighest = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kLowest = std::numeric_limits<std::int64_t>::min();

Geometry square(std::int64_t length, std::int64_t heads = 1) {
  Geometry g;
  g.q_len = g.k_len = length;
  g.heads = heads;
  return g;
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

bool same_rows(const Mask& a, const Mask& b, const Geometry& g) {
  for (std::int64_t h = 0; h < g.heads; ++h) {
    for (std::int64_t q = 0; q < g.q_len; ++q) {
      if (a.row(g, 0, h, q) != b.row(g, 0, h, q)) return false;
    }
  }
  return true;
}

// The blocks of which a row sees all keys; the row sees nothing else.
std::set<std::int64_t> blocks_of(const std::vector<Interval>& row, std::int64_t size,
                                 std::int64_t length) {
  std::set<std::int64_t> blocks;
  for (const Interval& i : row) {
    EXPECT_EQ(i.step, 1);
    EXPECT_EQ(i.begin % size, 0);
    EXPECT_TRUE(i.end % size == 0 || i.end == length);
    for (std::int64_t k = i.begin; k < i.end; k += size) blocks.insert(k / size);
  }
  return blocks;
}

TEST(BlockMasks, BlockWindowIsItsListOfBlocks) {
  for (const std::int64_t n : {1, 15, 16, 17, 100, 113}) {
    std::vector<std::pair<std::int64_t, std::int64_t>> list;
    for (std::int64_t b = 0; b < 8; ++b) {
      for (std::int64_t c = b - 2; c <= b + 1; ++c) list.emplace_back(b, c);
    }
    EXPECT_TRUE(same_rows(Mask::block_window(16, 2, 1), Mask::blocks(16, list), square(n))) << n;
  }
  EXPECT_TRUE(same_rows(Mask::block_window(1, 3, 2), Mask::window(3, 2), square(50)));
  EXPECT_EQ(Mask::block_window(16, -1, -1).pairs(square(50)), 2500);
}

TEST(BlockMasks, GlobalBlocksReachBothEnds) {
  // 100 tokens are 7 blocks of 16, the last of 4.
  EXPECT_EQ(Mask::global_blocks(16, 1, 0).pairs(square(100)), 2 * 1600 - 256);
  EXPECT_EQ(Mask::global_blocks(16, 0, 1).pairs(square(100)), 2 * 400 - 16);
  EXPECT_EQ(Mask::global_blocks(16, 1, 1).pairs(square(100)), 10000 - 80 * 80);
  EXPECT_EQ(Mask::global_blocks(16, 0, 0).pairs(square(100)), 0);
  EXPECT_EQ(Mask::global_blocks(16, 0, 7).pairs(square(100)), 10000);
  EXPECT_EQ(Mask::global_blocks(16, kHighest, kHighest).pairs(square(100)), 10000);
  EXPECT_EQ(Mask::global_blocks(kHighest, 0, 1).pairs(square(100)), 10000);
  EXPECT_TRUE(same_rows(Mask::global_blocks(1, 2, 0), Mask::global_tokens({0, 1}), square(20)));
  EXPECT_TRUE(same_rows(Mask::global_blocks(1, 0, 1), Mask::global_tokens({19}), square(20)));
}

TEST(RandomBlocks, DrawSoManyAndNothingThatOthersHold) {
  constexpr std::int64_t kHeads = 5;
  for (const std::int64_t n : {15 * 8, 15 * 8 - 3, 40 * 8 + 1}) {
    const Geometry g = square(n, kHeads);
    const std::int64_t blocks = (n + 7) / 8;
    const Mask drawn = Mask::random_blocks({.size = 8, .count = 3, .seed = 7});
    for (std::int64_t h = 0; h < kHeads; ++h) {
      for (std::int64_t q = 0; q < n; ++q) {
        const auto seen = blocks_of(drawn.row(g, 0, h, q), 8, n);
        const std::int64_t own = q / 8;
        if (own == 0 || own == blocks - 1) {
          ASSERT_TRUE(seen.empty());
          continue;
        }
        ASSERT_EQ(seen.size(), 3U);
        for (const std::int64_t c : seen) {
          ASSERT_GT(std::abs(c - own), 1);
          ASSERT_NE(c, 0);
          ASSERT_NE(c, blocks - 1);
        }
        ASSERT_EQ(drawn.row(g, 0, h, q), drawn.row(g, 0, h, own * 8));
      }
    }
  }
}

// Written down once: a change of these is a change of everybody's masks.
TEST(RandomBlocks, AreThoseOfTheSeed) {
  const Geometry g = square(32 * 4, 2);
  const Mask drawn = Mask::random_blocks({.size = 4, .count = 3, .seed = 0x123456789ABCDEF0});
  std::map<std::pair<std::int64_t, std::int64_t>, std::set<std::int64_t>> rows;
  for (const std::int64_t h : {0, 1}) {
    for (const std::int64_t block : {1, 16, 30}) {
      rows[{h, block}] = blocks_of(drawn.row(g, 0, h, block * 4), 4, 128);
    }
  }
  using Set = std::set<std::int64_t>;
  EXPECT_EQ((rows[{0, 1}]), (Set{10, 12, 18}));
  EXPECT_EQ((rows[{0, 16}]), (Set{11, 22, 25}));
  EXPECT_EQ((rows[{0, 30}]), (Set{1, 16, 27}));
  EXPECT_EQ((rows[{1, 1}]), (Set{11, 13, 26}));
  EXPECT_EQ((rows[{1, 16}]), (Set{9, 24, 26}));
  EXPECT_EQ((rows[{1, 30}]), (Set{6, 11, 15}));
}

TEST(RandomBlocks, DependOnSeedAndHeadAloneNotOnBatchOrQueries) {
  Geometry g = square(64 * 4, 3);
  g.batch = 2;
  const Mask a = Mask::random_blocks({.size = 4, .seed = 1});
  const Mask b = Mask::random_blocks({.size = 4, .seed = 2});
  EXPECT_FALSE(same_rows(a, b, g));
  EXPECT_NE(a.row(g, 0, 0, 100), a.row(g, 0, 1, 100));
  for (std::int64_t h = 0; h < 3; ++h) EXPECT_EQ(a.row(g, 0, h, 100), a.row(g, 1, h, 100));
  Geometry chunk = g;  // queries 96...103 alone
  chunk.q_len = 8;
  chunk.query_start = 96;
  for (std::int64_t h = 0; h < 3; ++h) EXPECT_EQ(a.row(g, 0, h, 100), a.row(chunk, 0, h, 4));
}

// Each of the 20 candidates of a row with probability 3/20, over 4,000 seeds.
TEST(RandomBlocks, EveryBlockIsAsLikely) {
  const Geometry g = square(25);
  std::map<std::int64_t, int> times;
  constexpr int kSeeds = 4000;
  for (int seed = 0; seed < kSeeds; ++seed) {
    const Mask drawn =
        Mask::random_blocks({.size = 1, .count = 3, .seed = static_cast<std::uint64_t>(seed)});
    for (const std::int64_t c : blocks_of(drawn.row(g, 0, 0, 9), 1, 25)) ++times[c];
  }
  EXPECT_EQ(times.size(), 20U);
  const double p = 3.0 / 20, deviation = std::sqrt(kSeeds * p * (1 - p));
  for (const auto& [block, count] : times) EXPECT_NEAR(count, kSeeds * p, 4 * deviation) << block;
}

TEST(RandomBlocks, TakeAllWhereThereAreNoMore) {
  // Blocks 1...5 of 7; row 3 may draw 1 and 5 only.
  const Geometry g = square(70);
  const auto seen = [&](std::int64_t count) {
    const Mask m = Mask::random_blocks({.size = 10, .count = count});
    return blocks_of(m.row(g, 0, 0, 35), 10, 70);
  };
  EXPECT_EQ(seen(0), (std::set<std::int64_t>{}));
  EXPECT_EQ(seen(1).size(), 1U);
  EXPECT_EQ(seen(2), (std::set<std::int64_t>{1, 5}));
  EXPECT_EQ(seen(65536), (std::set<std::int64_t>{1, 5}));
  // Too short for any.
  for (const std::int64_t n : {0, 1, 10, 11, 20, 30}) {
    EXPECT_EQ(Mask::random_blocks({.size = 10}).pairs(square(n)), 0) << n;
  }
  EXPECT_EQ(Mask::random_blocks({.size = 10, .band = kHighest}).pairs(g), 0);
  EXPECT_EQ(Mask::random_blocks({.size = 10, .first = kHighest}).pairs(g), 0);
  EXPECT_EQ(Mask::random_blocks({.size = 10, .last = kHighest}).pairs(g), 0);
  EXPECT_EQ(Mask::random_blocks({.size = kHighest, .band = 0, .first = 0, .last = 0}).pairs(g), 0);
}

TEST(RandomBlocks, PositionsAtTheEndsOfTheTypeAreBlocksToo) {
  Geometry g;
  g.q_len = g.k_len = 3;
  g.q_positions = g.k_positions = {kLowest, 0, kHighest};
  const Mask masks[] = {Mask::block_window(16, 1, 1),
                        Mask::block_window(kHighest, 0, kHighest),
                        Mask::global_blocks(16, 1, 1),
                        Mask::random_blocks({.size = 3, .count = 2, .first = 0, .last = 0}),
                        Mask::bigbird(1, 3, 1),
                        Mask::bigbird_extended(kHighest)};
  for (const Mask& mask : masks) {
    EXPECT_GE(mask.pairs(g), 0) << mask.to_string();
    EXPECT_LE(mask.pairs(g), 9) << mask.to_string();
  }
  EXPECT_EQ(Mask::block_window(16, 1, 1).pairs(g), 3);
}

TEST(RandomBlocks, NamesWhatIsWrong) {
  EXPECT_THAT(error_of([] { Mask::random_blocks({.size = 0}); }), HasSubstr("size 0"));
  EXPECT_THAT(error_of([] { Mask::random_blocks({.count = -1}); }), HasSubstr("count -1"));
  EXPECT_THAT(error_of([] { Mask::random_blocks({.count = 65537}); }),
              HasSubstr("count 65537, which must be at most 65536"));
  EXPECT_THAT(error_of([] { Mask::random_blocks({.band = -1}); }), HasSubstr("band -1"));
  EXPECT_THAT(error_of([] { Mask::random_blocks({.first = -1}); }), HasSubstr("first -1"));
  EXPECT_THAT(error_of([] { Mask::random_blocks({.last = kLowest}); }), HasSubstr("last -92"));
  EXPECT_THAT(error_of([] { Mask::global_blocks(8, -1, 0); }), HasSubstr("first -1"));
  EXPECT_THAT(error_of([] { Mask::block_window(-8, 1, 1); }), HasSubstr("size -8"));
  EXPECT_THAT(error_of([] { Mask::longformer(-1, {}); }), HasSubstr("w -1"));
  EXPECT_THAT(error_of([] { Mask::bigbird_extended(-1); }), HasSubstr("global_tokens -1"));
}

TEST(BigBird, EachRowOfBlocksSeesItsEightBlocks) {
  const std::int64_t n = 20 * 16 - 5;
  const Mask mask = Mask::bigbird(16, 3, 9);
  const Geometry g = square(n, 4);
  for (std::int64_t h = 0; h < 4; ++h) {
    for (std::int64_t block = 0; block < 20; ++block) {
      const std::size_t wanted = block == 0 || block == 19   ? 20  // global
                                 : block == 1 || block == 18 ? 7   // the band holds a global one
                                                             : 8;
      EXPECT_EQ(blocks_of(mask.row(g, 0, h, block * 16), 16, n).size(), wanted) << block;
    }
  }
}

// Where every block can be drawn, nothing is left out: attention is full.
TEST(BigBird, ShortTextsAreFull) {
  for (const std::int64_t n : {1, 16, 17, 80, 7 * 16}) {
    EXPECT_EQ(Mask::bigbird(16, 3).pairs(square(n)), n * n) << n;
  }
  EXPECT_LT(Mask::bigbird(16, 3).pairs(square(8 * 16)), 128 * 128);
}

TEST(BigBird, ExtendedHasGlobalTokensAndNoLastBlock) {
  const std::int64_t n = 320;
  const Mask mask = Mask::bigbird_extended(3, 16, 2, 5);
  const Geometry g = square(n);
  EXPECT_EQ(mask.row(g, 0, 0, 2), (std::vector<Interval>{{0, n, 1}}));
  EXPECT_TRUE(mask.visible(g, 0, 0, 200, 2));
  EXPECT_LT(mask.row(g, 0, 0, n - 1).size(), 6U);
  // Global tokens, its own block and the one before, two blocks at random.
  std::int64_t seen = 0;
  for (const Interval& i : mask.row(g, 0, 0, n - 1)) seen += i.end - i.begin;
  EXPECT_TRUE(seen == 3 + 4 * 16 || seen == 4 * 16) << seen;  // block 0 may be drawn
}

TEST(Longformer, IsAWindowWithGlobalTokens) {
  const Geometry g = square(300);
  EXPECT_TRUE(same_rows(Mask::longformer(5, {0, 17}),
                        Mask::window(5, 5) | Mask::global_tokens({0, 17}), g));
  EXPECT_TRUE(same_rows(Mask::longformer(5, {}), Mask::window(5, 5), g));
  // A global key inside the window counts once: 2 w + 1 and the one outside.
  std::int64_t seen = 0;
  for (const Interval& i : Mask::longformer(5, {0, 17}).row(g, 0, 0, 20)) seen += i.end - i.begin;
  EXPECT_EQ(seen, 12);
}

TEST(Longformer, DilationMayDifferByHead) {
  const Geometry g = square(100, 3);
  const Mask mask = Mask::per_head(
      {Mask::longformer(2, {0}), Mask::longformer(2, {0}, 3), Mask::longformer(2, {0}, 40)});
  EXPECT_EQ(mask.row(g, 0, 0, 50), (std::vector<Interval>{{0, 1, 1}, {48, 53, 1}}));
  EXPECT_EQ(mask.row(g, 0, 1, 50), (std::vector<Interval>{{0, 1, 1}, {44, 57, 3}}));
  EXPECT_EQ(mask.row(g, 0, 2, 50), (std::vector<Interval>{{0, 1, 1}, {10, 91, 40}}));
  EXPECT_EQ(mask.row(g, 0, 2, 0), (std::vector<Interval>{{0, 100, 1}}));
}

// StreamingLLM (arXiv 2309.17453): the first tokens and the last ones.
TEST(SlidingWindow, KeepsItsSinks) {
  const Mask mask = Mask::causal() & (Mask::window(255, 0) | Mask::prefix(4));
  const Geometry g = square(4096);
  EXPECT_EQ(mask.row(g, 0, 0, 3), (std::vector<Interval>{{0, 4, 1}}));
  EXPECT_EQ(mask.row(g, 0, 0, 256), (std::vector<Interval>{{0, 257, 1}}));
  EXPECT_EQ(mask.row(g, 0, 0, 3000), (std::vector<Interval>{{0, 4, 1}, {2745, 3001, 1}}));
  // Under causal, global tokens are the same: their rows have nothing more to see.
  EXPECT_TRUE(same_rows(mask,
                        Mask::causal() & (Mask::window(255, 0) | Mask::global_tokens({0, 1, 2, 3})),
                        square(600)));
}

}  // namespace
}  // namespace attn
