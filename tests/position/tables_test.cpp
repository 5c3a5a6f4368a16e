#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <vector>

#include "attn/position.h"

namespace attn {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Sinusoidal, IsTheFormulaAtEveryWidth) {
  const std::vector<std::int64_t> positions = {0, 1, -3, 17, 5000, 1 << 20};
  for (std::int64_t d : {1, 2, 3, 7, 8, 64, 65}) {
    std::vector<float> out(positions.size() * static_cast<std::size_t>(d) + 1, 7.0f);
    sinusoidal(positions, d, out.data());
    std::size_t at = 0;
    for (std::int64_t p : positions) {
      for (std::int64_t c = 0; c < d; ++c) {
        const double i2 = static_cast<double>(c / 2 * 2);
        const double angle =
            static_cast<double>(p) * std::exp(-std::log(10000.0) * i2 / static_cast<double>(d));
        EXPECT_NEAR(out[at++], c % 2 == 0 ? std::sin(angle) : std::cos(angle), 1e-7)
            << "d " << d << " position " << p << " component " << c;
      }
    }
    EXPECT_EQ(out.back(), 7.0f) << "wrote past the end at d " << d;
  }
}

TEST(Sinusoidal, PublishedValues) {
  std::vector<float> out(4);
  const std::vector<std::int64_t> one = {1};
  sinusoidal(one, 4, out.data());
  EXPECT_NEAR(out[0], 0.84147098, 1e-7);  // sin 1
  EXPECT_NEAR(out[1], 0.54030231, 1e-7);  // cos 1
  EXPECT_NEAR(out[2], 0.00999983, 1e-8);  // sin 0.01
  EXPECT_NEAR(out[3], 0.99995000, 1e-7);  // cos 0.01
  sinusoidal(one, 4, out.data(), 100.0);
  EXPECT_NEAR(out[2], 0.09983342, 1e-8);  // sin 0.1
}

TEST(Sinusoidal, RefusesNonsense) {
  float out = 0;
  const std::vector<std::int64_t> one = {1};
  EXPECT_THAT([&] { sinusoidal(one, 0, &out); },
              ThrowsMessage<std::invalid_argument>(HasSubstr("[sinusoidal] d_model is 0")));
  EXPECT_THROW(sinusoidal(one, 1, &out, 0.0), std::invalid_argument);
}

TEST(Learned, CopiesRowsAndNamesTheLimit) {
  const std::vector<float> table = {0, 1, 10, 11, 20, 21};
  std::vector<float> out(6, -1.0f);
  learned_positions(table.data(), 3, 2, std::vector<std::int64_t>{2, 0, 2}, out.data());
  EXPECT_EQ(out, (std::vector<float>{20, 21, 0, 1, 20, 21}));

  for (std::int64_t bad : {3, -1}) {
    out.assign(6, -1.0f);
    const std::vector<std::int64_t> positions = {0, bad};
    EXPECT_THAT([&] { learned_positions(table.data(), 3, 2, positions, out.data()); },
                ThrowsMessage<std::invalid_argument>(HasSubstr("limit is 3")));
    EXPECT_EQ(out, std::vector<float>(6, -1.0f)) << "wrote before it checked";
  }
}

}  // namespace
}  // namespace attn
