// Philox against Random123's published answers, and what dropout makes of it.
#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace attn {
namespace {

using Words = std::array<std::uint32_t, 4>;

// Random123, tests/kat_vectors: philox4x32, 10 rounds.
TEST(Philox, KnownAnswers) {
  constexpr std::uint32_t kAll = 0xffffffff;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({kAll, kAll, kAll, kAll}, {kAll, kAll}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(DropoutRule, ReadsFieldsInOrder) {
  const DropoutRule rule({.p = 0.5, .seed = 0x299f31d0a4093822});
  const auto fields = rule.fields(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344);
  EXPECT_EQ(fields, (std::array<std::uint16_t, 8>{0xfe09, 0xd16c, 0xcceb, 0x94fd, 0xe420, 0x5001,
                                                  0x6ea1, 0x2412}));
  const bool kept[] = {true, true, true, true, true, false, false, false};
  for (std::int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(rule.keeps(8 * std::int64_t{0x243f6a88} + i, 0x85a308d3, 0x13198a2e, 0x03707344),
              kept[i])
        << i;
  }
}

TEST(DropoutRule, KeepsItsShare) {
  EXPECT_FALSE(DropoutRule({}).active());
  EXPECT_EQ(DropoutRule({}).scale(), 1);
  for (const double p : {0.1, 0.5, 0.9}) {
    const DropoutRule rule({.p = p, .seed = 7});
    EXPECT_EQ(rule.threshold(), std::lround(p * 65536));
    constexpr std::int64_t kQueries = 64, kKeys = 1024;
    double kept = 0;
    for (std::int64_t q = 0; q < kQueries; ++q) {
      for (std::int64_t k = 0; k < kKeys; ++k) kept += rule.keeps(k, q, 1, 2);
    }
    const double n = kQueries * kKeys;
    EXPECT_NEAR(kept / n, 1 - p, 5 * std::sqrt(p * (1 - p) / n));
    EXPECT_NEAR(rule.scale() * (1 - p), 1, 1e-3);
  }
}

}  // namespace
}  // namespace attn
