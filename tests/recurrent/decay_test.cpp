#include "attn/decay.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

namespace attn::test {
namespace {

TEST(Decay, RetNet) {
  const std::vector<double> d = retnet_log_decay(3);
  ASSERT_EQ(d.size(), 3u);
  EXPECT_DOUBLE_EQ(std::exp(d[0]), 1 - 1.0 / 32);
  EXPECT_DOUBLE_EQ(std::exp(d[2]), 1 - 1.0 / 128);
  EXPECT_TRUE(retnet_log_decay(0).empty());
  EXPECT_THROW(retnet_log_decay(-1), std::invalid_argument);
}

double f(DecayKind kind, double x) {
  double y;
  const Shape one{1, 1, 1, 1};
  log_decay(kind, {static_cast<const double*>(&x), one}, {&y, one});
  return y;
}

TEST(Decay, ValuesAndDerivatives) {
  const double e = std::exp(-0.5);
  EXPECT_NEAR(f(DecayKind::gla, 0), std::log(0.5) / 16, 1e-15);
  EXPECT_NEAR(f(DecayKind::rwkv, 0), -1, 1e-15);
  EXPECT_NEAR(f(DecayKind::rwkv7, 0), -e / 2, 1e-15);
  EXPECT_NEAR(f(DecayKind::delta, 0), -std::log(2.0), 1e-15);
  for (const DecayKind kind :
       {DecayKind::gla, DecayKind::rwkv, DecayKind::rwkv7, DecayKind::delta}) {
    for (double x : {-30.0, -2.0, 0.3, 4.0}) {
      const double expected = (f(kind, x + 1e-6) - f(kind, x - 1e-6)) / 2e-6;
      double d = 1.5, d_x;
      const Shape one{1, 1, 1, 1};
      log_decay_backward(kind, {static_cast<const double*>(&x), one},
                         {static_cast<const double*>(&d), one}, {&d_x, one});
      EXPECT_NEAR(d_x, 1.5 * expected, 1e-7 * (1 + std::abs(expected))) << x;
    }
    // Far out: no NaN, never above 0.
    for (double x : {-1e300, -800.0, 800.0, 1e300}) {
      EXPECT_LE(f(kind, x), 0) << x;
    }
  }
  EXPECT_EQ(f(DecayKind::gla, 1e4), 0);
  EXPECT_NEAR(f(DecayKind::gla, -1600), -100, 1e-9);
}

TEST(Decay, InPlaceAndErrors) {
  float x[6] = {0, 1, 2, 3, 4, 5};
  const Shape s{1, 1, 2, 3};
  log_decay(DecayKind::rwkv, {static_cast<const float*>(x), s}, {x, s});
  EXPECT_FLOAT_EQ(x[5], -std::exp(5.0f));
  float y[6];
  EXPECT_THROW(log_decay(DecayKind::gla, {static_cast<const float*>(x), s}, {y, {1, 1, 3, 2}}),
               std::invalid_argument);
  EXPECT_THROW(log_decay(DecayKind::gla, {static_cast<const float*>(x), s}, {}),
               std::invalid_argument);
}

}  // namespace
}  // namespace attn::test
