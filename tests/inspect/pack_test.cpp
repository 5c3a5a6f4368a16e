#include "inspect/pack.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace attn::inspect {
namespace {

TEST(Half, EveryValueComesBack) {
  for (int h = 0; h < 65536; ++h) {
    const float x = float_from_half(static_cast<std::uint16_t>(h));
    if (std::isnan(x))
      EXPECT_TRUE(std::isnan(float_from_half(half_from_float(x))));
    else
      EXPECT_EQ(half_from_float(x), h);
  }
}

TEST(Half, RoundsToTheNearestAndTiesToEven) {
  for (int h = 0; h < 0x7bff; ++h) {
    const float low = float_from_half(static_cast<std::uint16_t>(h));
    const float high = float_from_half(static_cast<std::uint16_t>(h + 1));
    const float middle = (low + high) / 2;  // exact in float
    EXPECT_EQ(half_from_float(middle), h % 2 == 0 ? h : h + 1);
    EXPECT_EQ(half_from_float(std::nextafter(middle, 0.0f)), h);
    EXPECT_EQ(half_from_float(std::nextafter(middle, 1e9f)), h + 1);
    EXPECT_EQ(half_from_float(-middle), (h % 2 == 0 ? h : h + 1) | 0x8000);
  }
  EXPECT_EQ(half_from_float(65519.0f), 0x7bff);
  EXPECT_EQ(half_from_float(65520.0f), 0x7c00);
  EXPECT_EQ(half_from_float(std::numeric_limits<float>::infinity()), 0x7c00);
}

TEST(GroupExponent, KeepsTheLargestInRange) {
  for (float most : {1e-30f, 3e-5f, 1.0f, 1e6f, 3e38f}) {
    const std::vector<float> values = {most / 3, -most, 0, std::numeric_limits<float>::infinity()};
    const float scaled = std::ldexp(most, -group_exponent(values));
    EXPECT_GE(scaled, 16384.0f);
    EXPECT_LT(scaled, 32768.0f);
  }
  EXPECT_EQ(group_exponent(std::vector<float>{0, 0}), 0);
}

TEST(Packer, WritesBase85ThatHtmlLeavesAlone) {
  Packer packer;
  packer.floats(std::vector<float>{1.0f});  // 00 00 80 3f, read as 0x0000803f = 32831
  packer.halves(std::vector<float>{1.0f}, 0);
  packer.align();
  // 32831 = 4 * 85^2 + 46 * 85 + 21; 00 3c 00 00 = 3932160 = 6 * 85^3 + 34 * 85^2 + 20 * 85 + 60
  EXPECT_EQ(packer.base85(), "004kL06YKy");
  Packer all;
  std::vector<float> values;
  for (int i = 0; i < 4000; ++i) values.push_back(std::sin(static_cast<float>(i) * 1e5f) * 1e20f);
  all.floats(values);
  EXPECT_EQ(all.base85().size(), 20000u);
  EXPECT_EQ(all.base85().find_first_of("<>&\"'\\/ \n"), std::string::npos);
}

// What the page does with runs.
std::vector<std::vector<Interval>> unpack(const std::vector<MaskRun>& runs) {
  std::vector<std::vector<Interval>> rows;
  for (const MaskRun& run : runs) {
    for (std::int64_t r = 0; r < run.rows; ++r) {
      std::vector<Interval> row;
      for (const MovingInterval& i : run.intervals) {
        row.push_back({i.begin + r * i.begin_step, i.end + r * i.end_step, i.step});
      }
      rows.push_back(row);
    }
  }
  return rows;
}

TEST(MaskRuns, UnpackToTheMask) {
  const Geometry geometry{.batch = 1, .heads = 2, .q_len = 50, .k_len = 50};
  const Mask masks[] = {
      Mask::full(),
      Mask::causal(),
      Mask::window(7, 2),
      Mask::dilated_window(3, 3, 4),
      Mask::causal() & (Mask::window(5, 0) | Mask::global_tokens({0, 20})),
      Mask::documents({10, 5, 20}),
      Mask::blocks(8, {{0, 0}, {1, 3}, {2, 2}}),
      Mask::predicate([](auto, auto, std::int64_t q, std::span<std::uint8_t> visible) {
        for (std::size_t k = 0; k < visible.size(); ++k) {
          visible[k] = (static_cast<std::size_t>(q) * 7 + k * k) % 3 == 0;
        }
      })};
  for (const Mask& mask : masks) {
    const auto rows = unpack(mask_runs(mask, geometry, 0));
    ASSERT_EQ(rows.size(), 50u) << mask.to_string();
    for (std::size_t q = 0; q < 50; ++q) {
      EXPECT_EQ(rows[q], mask.row(geometry, 0, 0, static_cast<std::int64_t>(q)))
          << mask.to_string() << " row " << q;
    }
  }
}

TEST(MaskRuns, AreFew) {
  const Geometry geometry{.batch = 1, .heads = 1, .q_len = 4096, .k_len = 4096};
  EXPECT_EQ(mask_runs(Mask::full(), geometry, 0).size(), 1u);
  EXPECT_EQ(mask_runs(Mask::causal(), geometry, 0).size(), 1u);
  EXPECT_LE(mask_runs(Mask::window(255, 0), geometry, 0).size(), 3u);
}

TEST(ValidUtf8, ReplacesWhatIsNot) {
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(valid_utf8("héllo 漢 😀"), "héllo 漢 😀");
  EXPECT_EQ(valid_utf8("a\xff"), "a" + bad);
  EXPECT_EQ(valid_utf8("\xc3"), bad);                                // cut short
  EXPECT_EQ(valid_utf8("\xc0\xaf"), bad + bad);                      // overlong
  EXPECT_EQ(valid_utf8("\xe0\x80\xaf"), bad + bad + bad);            // overlong
  EXPECT_EQ(valid_utf8("\xed\xa0\x80"), bad + bad + bad);            // surrogate
  EXPECT_EQ(valid_utf8("\xf4\x90\x80\x80"), bad + bad + bad + bad);  // beyond U+10FFFF
}

}  // namespace
}  // namespace attn::inspect
