// The oracle's own visibility rule against each mask's definition, written once more as a lambda.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <stdexcept>
#include <vector>

#include "attn/reference.h"

namespace attn {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

// (q_pos, k_pos)
using Rule = std::function<bool(std::int64_t, std::int64_t)>;

void expect_rule(const Mask& mask, const Geometry& g, const Rule& rule) {
  std::int64_t seen = 0;
  for (std::int64_t q = 0; q < g.q_len; ++q) {
    for (std::int64_t k = 0; k < g.k_len; ++k) {
      const bool expected = rule(g.q_position(q), g.k_position(k));
      EXPECT_EQ(reference::visible(mask, g, 0, 0, q, k), expected) << "q " << q << " k " << k;
      seen += expected;
    }
  }
  EXPECT_GT(seen, 0) << "a rule that never shows tests nothing";
}

const Geometry kPlain = {.q_len = 13, .k_len = 13};
const Geometry kOffset = {.q_len = 9, .k_len = 14, .query_start = 5};
const Geometry kListed = {.q_len = 6,
                          .k_len = 7,
                          .q_positions = {-7, -1, 0, 3, 8, 40},
                          .k_positions = {-8, -7, -3, 0, 1, 8, 39}};

TEST(Visible, ByPosition) {
  for (const Geometry& g : {kPlain, kOffset, kListed}) {
    expect_rule(Mask(), g, [](auto, auto) { return true; });
    expect_rule(Mask::full(), g, [](auto, auto) { return true; });
    expect_rule(Mask::causal(), g, [](auto q, auto k) { return k <= q; });
    expect_rule(Mask::window(2, 0), g, [](auto q, auto k) { return q - 2 <= k && k <= q; });
    expect_rule(Mask::window(1, 3), g, [](auto q, auto k) { return q - 1 <= k && k <= q + 3; });
    expect_rule(Mask::window(-1, 0), g, [](auto q, auto k) { return k <= q; });
    expect_rule(Mask::window(4, -1), g, [](auto q, auto k) { return q - 4 <= k; });
    expect_rule(Mask::dilated_window(2, 1, 3), g,
                [](auto q, auto k) { return k == q - 6 || k == q - 3 || k == q || k == q + 3; });
    expect_rule(Mask::dilated_window(-1, 0, 2), g,
                [](auto q, auto k) { return k <= q && (q - k) % 2 == 0; });
    expect_rule(Mask::global_tokens({8, 0}), g,
                [](auto q, auto k) { return q == 0 || k == 0 || q == 8 || k == 8; });
    expect_rule(Mask::documents({4, 0, 6}), g, [](auto q, auto k) {
      return (0 <= q && q < 4 && 0 <= k && k < 4) || (4 <= q && q < 10 && 4 <= k && k < 10);
    });
    expect_rule(Mask::prefix(3), g, [](auto, auto k) { return k < 3; });
  }
}

TEST(Visible, BlocksHaveFloors) {
  const auto block = [](std::int64_t p) { return p < 0 ? -((3 - p) / 4) : p / 4; };
  for (const Geometry& g : {kPlain, kListed}) {
    expect_rule(Mask::blocks(4, {{0, 0}, {2, 0}, {-2, -2}, {-1, 0}}), g, [&](auto q, auto k) {
      const auto a = block(q), b = block(k);
      return (a == 0 && b == 0) || (a == 2 && b == 0) || (a == -2 && b == -2) ||
             (a == -1 && b == 0);
    });
  }
}

TEST(Visible, Combinations) {
  expect_rule(Mask::causal() & Mask::window(3, 3), kPlain,
              [](auto q, auto k) { return k <= q && q - 3 <= k; });
  expect_rule(Mask::causal() | Mask::prefix(5), kPlain,
              [](auto q, auto k) { return k <= q || k < 5; });
  expect_rule(Mask::causal() & (Mask::window(1, 1) | Mask::global_tokens({0})), kPlain,
              [](auto q, auto k) { return k <= q && (q - 1 <= k || k == 0 || q == 0); });
}

TEST(Visible, FarPositionsDoNotOverflow) {
  constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  const Geometry g = {
      .q_len = 2, .k_len = 2, .q_positions = {kMin, kMax}, .k_positions = {kMin, kMax}};
  const Mask near = Mask::window(1, 1), wide = Mask::window(kMax, kMax);
  for (std::int64_t q : {0, 1}) {
    for (std::int64_t k : {0, 1}) {
      EXPECT_EQ(reference::visible(near, g, 0, 0, q, k), q == k);
      EXPECT_EQ(reference::visible(wide, g, 0, 0, q, k), q == k);  // 2^64 - 1 apart
    }
  }
}

TEST(Visible, PaddingReadsIndicesAndBatch) {
  Geometry g = {.batch = 3, .q_len = 1, .k_len = 5, .k_positions = {7, 8, 9, 10, 11}};
  const std::vector<std::int64_t> lengths = {5, 2, 0};
  for (std::int64_t b = 0; b < 3; ++b) {
    for (std::int64_t k = 0; k < 5; ++k) {
      const std::int64_t n = lengths[static_cast<std::size_t>(b)];
      EXPECT_EQ(reference::visible(Mask::padding(lengths), g, b, 0, 0, k), k < n);
      EXPECT_EQ(reference::visible(Mask::padding(lengths, PaddingSide::left), g, b, 0, 0, k),
                k >= 5 - n);
      EXPECT_EQ(reference::visible(Mask::padding({2}), g, b, 0, 0, k), k < 2);
    }
  }
  EXPECT_THROW(reference::visible(Mask::padding({1, 2}), g, 0, 0, 0, 0), std::invalid_argument);
  EXPECT_THROW(reference::visible(Mask::padding({6}), g, 0, 0, 0, 0), std::invalid_argument);
}

TEST(Visible, DenseBroadcasts) {
  const Geometry g = {.batch = 2, .heads = 3, .q_len = 4, .k_len = 70};
  const std::int64_t full[4] = {2, 3, 4, 70};
  for (int axes = 0; axes < 16; ++axes) {  // which axes are given in full
    std::int64_t shape[4];
    for (int i = 0; i < 4; ++i) shape[i] = (axes >> i & 1) ? full[i] : 1;
    const auto size = static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]);
    std::vector<std::uint8_t> bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = (i * 2654435761u >> 7) % 3 == 0 ? 255 : 0;
    const Mask mask = Mask::dense(bytes.data(), shape);
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t h = 0; h < 3; ++h) {
        for (std::int64_t q = 0; q < 4; ++q) {
          for (std::int64_t k = 0; k < 70; ++k) {
            const std::int64_t index =
                (((axes & 1 ? b : 0) * shape[1] + (axes & 2 ? h : 0)) * shape[2] +
                 (axes & 4 ? q : 0)) *
                    shape[3] +
                (axes & 8 ? k : 0);
            ASSERT_EQ(reference::visible(mask, g, b, h, q, k),
                      bytes[static_cast<std::size_t>(index)] != 0)
                << "axes " << axes << " at " << b << " " << h << " " << q << " " << k;
          }
        }
      }
    }
  }
  const std::vector<std::uint8_t> wrong(69, 1);
  const std::int64_t shape[4] = {1, 1, 1, 69};
  EXPECT_THROW(reference::visible(Mask::dense(wrong.data(), shape), g, 0, 0, 0, 0),
               std::invalid_argument);
}

TEST(Visible, PredicateAndLists) {
  const Geometry g = {.batch = 2, .heads = 2, .q_len = 3, .k_len = 3};
  const Mask odd = Mask::predicate([](std::int64_t b, std::int64_t h, std::int64_t q, auto row) {
    for (std::size_t k = 0; k < row.size(); ++k) {
      row[k] = (static_cast<std::size_t>(b + 2 * h + q) + k) % 2 == 1 ? 7 : 0;
    }
  });
  const Mask heads = Mask::per_head({Mask::causal(), odd});
  const Mask batches = Mask::per_batch({Mask::prefix(1), odd});
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t h = 0; h < 2; ++h) {
      for (std::int64_t q = 0; q < 3; ++q) {
        for (std::int64_t k = 0; k < 3; ++k) {
          const bool is_odd = (b + 2 * h + q + k) % 2 == 1;
          EXPECT_EQ(reference::visible(odd, g, b, h, q, k), is_odd);
          EXPECT_EQ(reference::visible(heads, g, b, h, q, k), h == 0 ? k <= q : is_odd);
          EXPECT_EQ(reference::visible(batches, g, b, h, q, k), b == 0 ? k < 1 : is_odd);
        }
      }
    }
  }
  const Mask three = Mask::per_head({Mask::causal(), odd, odd});
  EXPECT_THAT([&] { reference::visible(three, g, 0, 0, 0, 0); },
              ThrowsMessage<std::invalid_argument>(HasSubstr("per_head has 3 entries")));
}

}  // namespace
}  // namespace attn
