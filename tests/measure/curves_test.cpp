// Curves against the length: the fit is checked on made points, the run on short ones.
#include "attn/curves.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "attn/mechanism.h"

namespace attn {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<CurvePoint> grown(double exponent, double factor) {
  std::vector<CurvePoint> points;
  for (std::int64_t length = 256; length <= 65536; length *= 2) {
    points.push_back({length, factor * std::pow(static_cast<double>(length), exponent), 1e6});
  }
  return points;
}

TEST(GrowthExponent, IsThatOfTheLength) {
  EXPECT_NEAR(*growth_exponent(grown(2, 1e-8)), 2, 1e-9);
  EXPECT_NEAR(*growth_exponent(grown(1, 1e-5)), 1, 1e-9);
}

TEST(GrowthExponent, LeavesOutWhatIsShort) {
  std::vector<CurvePoint> points = grown(1, 1e-5);
  for (CurvePoint& p : points) {
    if (p.length < 2048) p.seconds = 7;  // not fitted
  }
  EXPECT_NEAR(*growth_exponent(points), 1, 1e-9);
  points = grown(1, 1e-7);  // above a millisecond from 16,384 on
  for (CurvePoint& p : points) {
    if (p.length < 16384) p.seconds = 9e-4;
  }
  EXPECT_NEAR(*growth_exponent(points), 1, 1e-9);
  EXPECT_FALSE(growth_exponent(grown(1, 1e-9)));
  EXPECT_FALSE(growth_exponent({{4096, 1, 0}}));
  EXPECT_FALSE(growth_exponent({}));
}

TEST(MeasureCurves, HasAPointForEachLength) {
  std::string progress;
  const auto curves =
      measure_curves({.threads = 1,
                      .mechanisms = {"causal", "retnet"},
                      .heads = 1,
                      .width = 8,
                      .first = 16,
                      .last = 100,
                      .progress = [&](const std::string& name, std::int64_t length, double done) {
                        EXPECT_GE(done, 0);
                        EXPECT_LT(done, 1);
                        progress += name + std::to_string(length) + " ";
                      }});
  ASSERT_EQ(curves.size(), 2U);
  EXPECT_EQ(progress, "causal16 causal32 causal64 retnet16 retnet32 retnet64 ");
  for (const Curve& curve : curves) {
    ASSERT_EQ(curve.points.size(), 3U);
    for (const CurvePoint& p : curve.points) {
      EXPECT_GT(p.seconds, 0);
      EXPECT_GE(p.peak_bytes, 0);
    }
    EXPECT_FALSE(curve.exponent);
  }
}

TEST(MeasureCurves, EndsWithThePointThatTakesLong) {
  const auto curves = measure_curves(
      {.threads = 1, .heads = 1, .width = 8, .first = 8, .last = 64, .most_seconds = 0});
  ASSERT_EQ(curves.size(), mechanisms().size());
  for (const Curve& curve : curves) EXPECT_EQ(curve.points.size(), 1U) << curve.mechanism;
}

TEST(MeasureCurves, RefusesBeforeItMeasures) {
  bool called = false;
  CurveOptions options{.mechanisms = {"causal", "nothing"},
                       .progress = [&](const auto&, auto, auto) { called = true; }};
  EXPECT_THROW(measure_curves(options), std::invalid_argument);
  options.mechanisms = {"causal"};
  options.first = 0;
  EXPECT_THROW(measure_curves(options), std::invalid_argument);
  options.first = 10;
  options.last = 9;
  EXPECT_THROW(measure_curves(options), std::invalid_argument);
  EXPECT_FALSE(called);
}

TEST(CurvesText, IsALineForEachPoint) {
  const Curve curve{.mechanism = "gla", .points = {{256, 0.25, 4096}, {512, 2, 0}}, .exponent = 1};
  EXPECT_EQ(curves_csv({curve}),
            "mechanism,length,seconds,peak_bytes,exponent\n"
            "gla,256,0.25,4096,1.000\n"
            "gla,512,2,0,1.000\n");
  EXPECT_EQ(curves_csv({}), "mechanism,length,seconds,peak_bytes,exponent\n");
}

TEST(CurvesPicture, NamesEveryLineInBothPanels) {
  const std::vector<Curve> curves = {{"causal", grown(2, 1e-8), 2.0},
                                     {"linear", grown(1, 1e-6), 1.0},
                                     {"gla", grown(1, 1e-6), {}}};
  const std::string svg = curves_svg(curves, "a & b <c>");
  const auto count = [&](const std::string& what) {
    std::size_t times = 0;
    for (std::size_t at = 0; (at = svg.find(what, at)) != std::string::npos; ++at) ++times;
    return times;
  };
  EXPECT_EQ(count("<polyline"), 6U);
  EXPECT_EQ(count(">causal  2.00<"), 1U);
  EXPECT_EQ(count(">causal<"), 1U);
  EXPECT_EQ(count(">gla<"), 2U);
  EXPECT_EQ(count("<text"), count("</text>"));
  EXPECT_THAT(svg, HasSubstr("a &amp; b &lt;c&gt;"));
  EXPECT_THAT(svg, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

// One point, the same values twice, none: no division by nothing.
TEST(CurvesPicture, OfHardlyAnything) {
  for (const std::vector<Curve>& curves : {std::vector<Curve>{},
                                           {{"gla", {}, {}}},
                                           {{"gla", {{256, 1, 0}}, {}}},
                                           {{"gla", {{256, 1, 4096}, {512, 1, 4096}}, {}}}}) {
    const std::string svg = curves_svg(curves);
    EXPECT_THAT(svg, Not(HasSubstr("nan")));
    EXPECT_THAT(svg, Not(HasSubstr("inf")));
    EXPECT_THAT(svg, HasSubstr("</svg>"));
  }
}

}  // namespace
}  // namespace attn
