// Recognised masks show exactly the pairs of the bytes, and are structure where the bytes are.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "attn/mask.h"

namespace attn {
namespace {

struct Bytes {
  std::int64_t shape[4];
  std::vector<std::uint8_t> visible;
  std::int64_t strides[4] = {shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1};
};

template <class Rule>
Bytes bytes(std::int64_t batch, std::int64_t q_len, std::int64_t k_len, Rule rule) {
  Bytes out{.shape = {batch, 1, q_len, k_len}, .visible = {}};
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t q = 0; q < q_len; ++q) {
      for (std::int64_t k = 0; k < k_len; ++k) out.visible.push_back(rule(b, q, k));
    }
  }
  return out;
}

// Checks every pair; returns "mask @ query_start".
std::string recognized(const Bytes& in) {
  const RecognizedMask found = recognize(in.visible.data(), in.shape, in.strides);
  const Geometry g{.batch = in.shape[0],
                   .heads = 2,
                   .q_len = in.shape[2],
                   .k_len = in.shape[3],
                   .query_start = found.query_start};
  std::size_t i = 0;
  for (std::int64_t b = 0; b < g.batch; ++b) {
    for (std::int64_t q = 0; q < g.q_len; ++q) {
      for (std::int64_t k = 0; k < g.k_len; ++k, ++i) {
        EXPECT_EQ(found.mask.visible(g, b, 1, q, k), in.visible[i] != 0)
            << found.mask.to_string() << " @ " << found.query_start << ": " << b << ", " << q
            << ", " << k;
      }
    }
  }
  return found.mask.to_string() + " @ " + std::to_string(found.query_start);
}

// "dense" for "dense[1, 1, 5, 9] @ 0".
std::string kind(const Bytes& in) {
  const std::string name = recognized(in);
  return name.substr(0, name.find('['));
}

TEST(Recognize, NamesStructure) {
  const auto all = [](auto...) { return true; };
  const auto none = [](auto...) { return false; };
  const auto causal = [](auto, auto q, auto k) { return k <= q; };
  EXPECT_EQ(recognized(bytes(2, 5, 7, all)), "full @ 0");
  EXPECT_EQ(recognized(bytes(1, 5, 7, none)), "padding(0) @ 0");
  EXPECT_EQ(recognized(bytes(1, 9, 9, causal)), "causal @ 0");
  EXPECT_EQ(recognized(bytes(2, 5, 9, causal)), "causal @ 0");
  EXPECT_EQ(recognized(bytes(1, 9, 5, causal)), "causal @ 0");
  EXPECT_EQ(recognized(bytes(1, 5, 9, [](auto, auto q, auto k) { return k <= q + 4; })),
            "causal @ 4");
  EXPECT_EQ(recognized(bytes(1, 7, 7, [](auto, auto q, auto k) { return k < q; })), "causal @ -1");
  EXPECT_EQ(recognized(bytes(1, 9, 9, [](auto, auto q, auto k) { return k <= q && k > q - 3; })),
            "window(2, 0) @ 0");
  EXPECT_EQ(
      recognized(bytes(1, 4, 20, [](auto, auto q, auto k) { return k <= q + 16 && k > q + 13; })),
      "window(2, 0) @ 16");
  EXPECT_EQ(recognized(bytes(1, 9, 9, [](auto, auto q, auto k) { return k >= q - 2; })),
            "window(2, -1) @ 0");
  EXPECT_EQ(recognized(bytes(1, 9, 9, [](auto, auto q, auto k) { return k >= q + 2; })),
            "window(0, -1) @ 2");
}

TEST(Recognize, NamesPadding) {
  const std::int64_t lengths[] = {9, 4, 1, 0};
  const auto right = [&](auto b, auto, auto k) { return k < lengths[b]; };
  const auto left = [&](auto b, auto, auto k) { return k >= 9 - lengths[b]; };
  const auto causal = [](auto q, auto k) { return k <= q; };
  EXPECT_EQ(recognized(bytes(4, 9, 9, right)), "padding(9, 4, 1, 0) @ 0");
  EXPECT_EQ(recognized(bytes(4, 1, 9, left)), "padding_left(9, 4, 1, 0) @ 0");
  EXPECT_EQ(recognized(bytes(
                4, 9, 9, [&](auto b, auto q, auto k) { return right(b, q, k) && causal(q, k); })),
            "causal & padding(9, 4, 1, 0) @ 0");
  EXPECT_EQ(recognized(bytes(
                3, 9, 9, [&](auto b, auto q, auto k) { return left(b, q, k) && causal(q, k); })),
            "causal & padding_left(9, 4, 1) @ 0");
  EXPECT_EQ(recognized(bytes(3, 9, 9,
                             [&](auto b, auto q, auto k) {
                               return left(b, q, k) && causal(q, k) && k > q - 3;
                             })),
            "window(2, 0) & padding_left(9, 4, 1) @ 0");
}

TEST(Recognize, BroadcastsWhatRepeats) {
  Bytes in = bytes(1, 6, 6, [](auto, auto q, auto k) { return k <= q; });
  in.shape[0] = 3;
  in.shape[1] = 5;
  in.strides[0] = in.strides[1] = 0;
  EXPECT_EQ(recognize(in.visible.data(), in.shape, in.strides).mask.to_string(), "causal");
  in.strides[2] = 0;  // row 0 for every query
  EXPECT_EQ(recognize(in.visible.data(), in.shape, in.strides).mask.to_string(), "padding(1)");
}

TEST(Recognize, KeepsTheRestDense) {
  EXPECT_EQ(kind(bytes(1, 5, 9, [](auto, auto, auto k) { return k % 2 == 0; })), "dense");
  EXPECT_EQ(kind(bytes(1, 5, 9, [](auto, auto q, auto k) { return k <= 2 * q; })), "dense");
  EXPECT_EQ(kind(bytes(2, 6, 6, [](auto b, auto q, auto k) { return k <= q + b; })), "dense");
  // One row that breaks the pattern.
  EXPECT_EQ(kind(bytes(1, 8, 8, [](auto, auto q, auto k) { return k <= q && q != 5; })), "dense");
  EXPECT_EQ(kind(bytes(1, 1, 9, [](auto, auto, auto k) { return k > 1 && k < 5; })), "dense");
}

TEST(Recognize, ShowsTheSamePairsWhateverTheBytes) {
  std::mt19937 random(1);
  const auto upto = [&](int n) {
    return std::uniform_int_distribution<std::int64_t>(0, n)(random);
  };
  for (int trial = 0; trial < 2000; ++trial) {
    const std::int64_t batch = 1 + upto(2), q_len = 1 + upto(8), k_len = 1 + upto(19);
    const std::int64_t first = upto(30) - 15, last = upto(30) - 15;
    std::vector<std::int64_t> begin, end;
    for (std::int64_t b = 0; b < batch; ++b) {
      begin.push_back(upto(2) == 0 ? upto(static_cast<int>(k_len)) : 0);
      end.push_back(upto(2) == 0 ? upto(static_cast<int>(k_len)) : k_len);
    }
    Bytes in = bytes(batch, q_len, k_len, [&](auto b, auto q, auto k) {
      const auto i = static_cast<std::size_t>(b);
      return k >= begin[i] && k < end[i] && k >= q + first && k <= q + last;
    });
    if (upto(3) == 0) {
      in.visible[static_cast<std::size_t>(upto(static_cast<int>(in.visible.size()) - 1))] ^= 1;
    }
    recognized(in);
  }
}

}  // namespace
}  // namespace attn
