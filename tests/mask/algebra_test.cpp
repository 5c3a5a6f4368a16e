// Known numbers, errors and the factories' own data.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/mask.h"

namespace attn {
namespace {

using testing::HasSubstr;

Geometry square(std::int64_t length) {
  Geometry g;
  g.q_len = g.k_len = length;
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

TEST(Mask, CountsPairsByKnownFormulas) {
  for (const std::int64_t n : {1, 2, 63, 64, 65, 1000}) {
    EXPECT_EQ(Mask::full().pairs(square(n)), n * n);
    EXPECT_EQ(Mask().pairs(square(n)), n * n);
    EXPECT_EQ(Mask::causal().pairs(square(n)), n * (n + 1) / 2);
    EXPECT_EQ((Mask::causal() | Mask::window(0, -1)).pairs(square(n)), n * n);
    EXPECT_EQ((Mask::causal() & Mask::window(0, -1)).pairs(square(n)), n);
    const std::int64_t w = std::min<std::int64_t>(n, 16);  // Mistral's sliding_window
    EXPECT_EQ((Mask::causal() & Mask::window(15, 0)).pairs(square(n)), w * n - w * (w - 1) / 2);
    EXPECT_EQ(Mask::window(15, 0).pairs(square(n)), w * n - w * (w - 1) / 2);
    // Every second key: the diagonals 0, 2, 4.
    EXPECT_EQ(Mask::dilated_window(2, 0, 2).pairs(square(n)),
              n + std::max<std::int64_t>(0, n - 2) + std::max<std::int64_t>(0, n - 4));
    EXPECT_EQ(Mask::global_tokens({0}).pairs(square(n)), 2 * n - 1);
  }
  EXPECT_EQ(Mask::documents({10, 20, 30}).pairs(square(60)), 100 + 400 + 900);
  EXPECT_EQ(Mask::blocks(16, {{0, 0}, {1, 0}, {3, 3}}).pairs(square(64)), 3 * 256);
  EXPECT_EQ((Mask::causal() | Mask::prefix(10)).pairs(square(60)), 60 * 61 / 2 + 45);
}

TEST(Mask, CountsEveryBatchEntryAndHead) {
  Geometry g = square(8);
  g.batch = 2;
  g.heads = 3;
  EXPECT_EQ(Mask::causal().pairs(g), 6 * 36);
  EXPECT_EQ(Mask::padding({8, 5}).pairs(g), 3 * 8 * (8 + 5));
  EXPECT_EQ(Mask::per_head({Mask::full(), Mask::causal(), Mask::prefix(0)}).pairs(g),
            2 * (64 + 36));
}

// 131,072 rows in well under the time that pairs would take one by one.
TEST(Mask, LongMasksAreCounted) {
  const std::int64_t n = 131072;
  EXPECT_EQ(Mask::causal().pairs(square(n)), n * (n + 1) / 2);
  EXPECT_EQ((Mask::causal() & (Mask::window(255, 0) | Mask::global_tokens({0}))).pairs(square(n)),
            256 * n - 256 * 255 / 2 + (n - 256));
}

TEST(Mask, CausalFollowsPositionsNotIndices) {
  Geometry g;
  g.q_len = 2;
  g.k_len = 10;
  g.query_start = 8;
  EXPECT_EQ(Mask::causal().row(g, 0, 0, 0), (std::vector<Interval>{{0, 9, 1}}));
  EXPECT_EQ(Mask::causal().row(g, 0, 0, 1), (std::vector<Interval>{{0, 10, 1}}));
  g.query_start = 0;
  EXPECT_EQ(Mask::causal().row(g, 0, 0, 0), (std::vector<Interval>{{0, 1, 1}}));
  g.k_positions = {0, 5, 6, 7, 8, 9, 10, 20, 30, 40};
  g.q_positions = {9, -1};
  EXPECT_EQ(Mask::causal().row(g, 0, 0, 0), (std::vector<Interval>{{0, 6, 1}}));
  EXPECT_EQ(Mask::causal().empty_rows(g), (std::vector<std::int64_t>{1}));
}

TEST(Mask, FindsFutureLeaks) {
  EXPECT_FALSE(Mask::causal().sees_future(square(9)));
  EXPECT_TRUE(Mask::full().sees_future(square(9)));
  EXPECT_FALSE(Mask::full().sees_future(square(1)));
  EXPECT_TRUE((Mask::causal() | Mask::prefix(2)).sees_future(square(9)));
  EXPECT_FALSE((Mask::causal() | Mask::prefix(1)).sees_future(square(9)));
  Geometry decode = square(9);
  decode.q_len = 1;
  decode.query_start = 8;
  EXPECT_FALSE(Mask::full().sees_future(decode));
  Geometry heads = square(9);
  heads.heads = 2;
  EXPECT_TRUE(Mask::per_head({Mask::causal(), Mask::window(0, 1)}).sees_future(heads));
}

TEST(Mask, DenseTakesStridesAndBytes) {
  // A [1, 1, 3, 5] mask inside a transposed, reversed layout.
  const std::vector<std::uint8_t> bytes = {0, 9, 0, 255, 1, 0, 0, 2, 128, 0, 0, 4, 7, 0, 8};
  const std::int64_t shape[4] = {1, 1, 3, 5};
  const std::int64_t strides[4] = {0, 0, 1, 3};
  const std::int64_t reversed[4] = {0, 0, -1, -3};
  const Mask transposed = Mask::dense(bytes.data(), shape, strides);
  const Mask mirrored = Mask::dense(bytes.data() + 14, shape, reversed);
  Geometry g;
  g.q_len = 3;
  g.k_len = 5;
  for (std::int64_t q = 0; q < 3; ++q) {
    for (std::int64_t k = 0; k < 5; ++k) {
      EXPECT_EQ(transposed.visible(g, 0, 0, q, k), bytes[static_cast<std::size_t>(q + 3 * k)] != 0);
      EXPECT_EQ(mirrored.visible(g, 0, 0, q, k),
                bytes[static_cast<std::size_t>(14 - q - 3 * k)] != 0);
    }
  }
}

TEST(Mask, EveryByteValueOfDenseIsReadRight) {
  std::vector<std::uint8_t> bytes(256);
  for (std::size_t i = 0; i < 256; ++i) bytes[i] = static_cast<std::uint8_t>(i);
  Geometry g;
  g.q_len = 1;
  g.k_len = 256;
  EXPECT_EQ(Mask::dense(bytes.data(), {1, 1, 1, 256}).row(g, 0, 0, 0),
            (std::vector<Interval>{{1, 256, 1}}));
}

TEST(Mask, RefusesBadArguments) {
  EXPECT_THAT(error_of([] { Mask::dilated_window(1, 1, 0); }), HasSubstr("[mask] dilated_window"));
  EXPECT_THAT(error_of([] { Mask::blocks(0, {}); }), HasSubstr("size 0"));
  EXPECT_THAT(error_of([] { Mask::documents({3, -1}); }), HasSubstr("document 1 has length -1"));
  EXPECT_THAT(error_of([] {
                Mask::documents({std::numeric_limits<std::int64_t>::max(), 1});
              }),
              HasSubstr("document 1"));
  EXPECT_THAT(error_of([] { Mask::padding({}); }), HasSubstr("at least one length"));
  EXPECT_THAT(error_of([] { Mask::padding({4, -2}); }), HasSubstr("padding length 1 is -2"));
  EXPECT_THAT(error_of([] { Mask::predicate(nullptr); }), HasSubstr("empty function"));
  EXPECT_THAT(error_of([] { Mask::per_head({}); }), HasSubstr("at least one mask"));
  EXPECT_THAT(error_of([] { Mask::dense(nullptr, {1, 1, 2, 2}); }), HasSubstr("[1, 1, 2, 2]"));
  const std::uint8_t cell = 1;
  EXPECT_THAT(error_of([&] { Mask::dense(&cell, {1, 1, -2, 2}); }), HasSubstr("-2"));
  const std::int64_t huge = std::int64_t{1} << 40;
  EXPECT_THAT(error_of([&] { Mask::dense(&cell, {huge, 1, huge, 2}); }), HasSubstr("[mask] dense"));
  const Mask heads = Mask::per_head({Mask::causal()});
  EXPECT_THAT(error_of([&] {
                Mask::per_head({Mask::full(), Mask::full() & heads});
              }),
              HasSubstr("mask 1 of per_head"));
  const Mask batch = Mask::per_batch({heads});
  EXPECT_THAT(error_of([&] { Mask::per_batch({batch}); }), HasSubstr("per_batch"));
  EXPECT_THAT(error_of([&] { Mask::per_head({batch}); }), HasSubstr("per_head"));
}

TEST(Mask, RefusesGeometriesThatDoNotFit) {
  const auto with = [](const Mask& mask, Geometry g) { return error_of([&] { mask.pairs(g); }); };
  Geometry g = square(4);
  g.heads = 2;
  EXPECT_THAT(with(Mask::per_head({Mask::full()}), g), HasSubstr("1 masks for heads 2"));
  EXPECT_THAT(with(Mask::per_batch({Mask::full(), Mask::full()}), g), HasSubstr("for batch 1"));
  EXPECT_THAT(with(Mask::padding({1, 2, 3}), g), HasSubstr("3 lengths for batch 1"));
  EXPECT_THAT(with(Mask::padding({5}), g), HasSubstr("padding length 5 is above k_len 4"));
  // Checked even where another part already decides every row.
  EXPECT_THAT(with(Mask::full() | Mask::padding({5}), g), HasSubstr("padding length 5"));
  const std::vector<std::uint8_t> cells(64, 1);
  EXPECT_THAT(with(Mask::dense(cells.data(), {1, 3, 4, 4}), g), HasSubstr("3 on axis 1"));
  Geometry bad = square(4);
  bad.q_len = -1;
  EXPECT_THAT(with(Mask::full(), bad), HasSubstr("q_len -1"));
  bad = square(4);
  bad.k_positions = {1, 2};
  EXPECT_THAT(with(Mask::full(), bad), HasSubstr("2 k_positions for k_len 4"));
  bad = square(4);
  bad.query_start = std::numeric_limits<std::int64_t>::max() - 2;
  EXPECT_THAT(with(Mask::full(), bad), HasSubstr("query_start"));
}

TEST(Mask, CausalWindowAndDilatedNeedIncreasingKeys) {
  Geometry g = square(4);
  g.k_positions = {0, 3, 3, 4};
  for (const Mask& mask : {Mask::causal(), Mask::window(1, 1), Mask::dilated_window(1, 1, 2),
                           Mask::full() | Mask::causal()}) {
    const std::string error = error_of([&] { mask.pairs(g); });
    EXPECT_THAT(error, HasSubstr("key 2 at 3 follows 3"));
    EXPECT_THAT(error, HasSubstr("predicate"));
  }
  EXPECT_EQ(Mask::prefix(4).pairs(g), 12);
}

TEST(Mask, RefusesIndicesOutside) {
  const Geometry g = square(4);
  const Mask mask = Mask::causal();
  EXPECT_THAT(error_of([&] { mask.row(g, 1, 0, 0); }), HasSubstr("batch 1"));
  EXPECT_THAT(error_of([&] { mask.row(g, 0, -1, 0); }), HasSubstr("head -1"));
  EXPECT_THAT(error_of([&] { mask.row(g, 0, 0, 4); }), HasSubstr("q 4"));
  EXPECT_THAT(error_of([&] { mask.visible(g, 0, 0, 0, 4); }), HasSubstr("k 4"));
  EXPECT_THAT(error_of([&] { mask.empty_rows(g, 0, 1); }), HasSubstr("head 1"));
  EXPECT_THAT(error_of([&] { mask.ascii(g, 0); }), HasSubstr("0 cells"));
  EXPECT_THAT(error_of([&] { mask.svg(g, 8, 2); }), HasSubstr("batch 2"));
}

}  // namespace
}  // namespace attn
