// Layers against plain double loops.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "nn/dense.h"
#include "nn/layers.h"

namespace attn::nn {
namespace {

std::vector<float> random(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& x : out) x = normal(generator);
  return out;
}

double activate(double x, Activation activation) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return std::max(x, 0.0);
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::sigmoid: return 1 / (1 + std::exp(-x));
  }
  return 0;
}

struct DenseCase {
  std::int64_t rows, in, out;
  std::int64_t slack = 0;  // added to every stride
  bool bias = true;
  Activation activation = Activation::none;
  int threads = 1;
};

void PrintTo(const DenseCase& c, std::ostream* os) {
  *os << c.rows << "x" << c.in << "x" << c.out << " slack " << c.slack << " bias " << c.bias
      << " activation " << static_cast<int>(c.activation) << " threads " << c.threads;
}

class Dense : public testing::TestWithParam<DenseCase> {};

TEST_P(Dense, MatchesDoubleLoopsAndStaysInItsRows) {
  const DenseCase& c = GetParam();
  const std::int64_t x_stride = c.in + c.slack, w_stride = c.in + 2 * c.slack,
                     y_stride = c.out + c.slack;
  const auto x = random(static_cast<std::size_t>(c.rows * x_stride), 1);
  const auto w = random(static_cast<std::size_t>(c.out * w_stride), 2);
  const auto bias = random(static_cast<std::size_t>(c.out), 3);
  constexpr float kGuard = 12345;
  std::vector<float> y(static_cast<std::size_t>(c.rows * y_stride), kGuard);
  dense({.rows = c.rows,
         .in = c.in,
         .out = c.out,
         .x = x.data(),
         .x_stride = x_stride,
         .w = w.data(),
         .w_stride = w_stride,
         .bias = c.bias ? bias.data() : nullptr,
         .y = y.data(),
         .y_stride = y_stride,
         .activation = c.activation},
        Context({.threads = c.threads}));
  for (std::int64_t i = 0; i < c.rows; ++i) {
    for (std::int64_t j = 0; j < y_stride; ++j) {
      const float got = y[static_cast<std::size_t>(i * y_stride + j)];
      if (j >= c.out) {
        ASSERT_EQ(got, kGuard) << i << ", " << j;
        continue;
      }
      double sum = c.bias ? bias[static_cast<std::size_t>(j)] : 0, magnitude = std::abs(sum);
      for (std::int64_t d = 0; d < c.in; ++d) {
        const double term = static_cast<double>(x[static_cast<std::size_t>(i * x_stride + d)]) *
                            w[static_cast<std::size_t>(j * w_stride + d)];
        sum += term;
        magnitude += std::abs(term);
      }
      // Rounding of in + 2 additions, and the activation's own.
      const double bound = magnitude * static_cast<double>(c.in + 2) * 6e-8 + 1e-6;
      ASSERT_TRUE(std::abs(got - activate(sum, c.activation)) <= bound)
          << i << ", " << j << ": " << got << " against " << activate(sum, c.activation);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Dense,
                         testing::Values(DenseCase{1, 1, 1}, DenseCase{1, 384, 384},
                                         DenseCase{1, 576, 1537, 0, true, Activation::silu, 2},
                                         DenseCase{2, 37, 9, 1}, DenseCase{3, 100, 7, 2, false},
                                         DenseCase{4, 15, 3}, DenseCase{7, 33, 65, 3},
                                         DenseCase{16, 65, 34, 1}, DenseCase{17, 65, 34, 1},
                                         DenseCase{9, 384, 1536, 0, true, Activation::gelu, 2},
                                         DenseCase{31, 129, 17, 5, false, Activation::gelu_tanh, 2},
                                         DenseCase{64, 32, 384, 352, false},
                                         DenseCase{127, 64, 63, 1, true, Activation::relu},
                                         DenseCase{521, 65, 34, 3, true, Activation::gelu, 2},
                                         DenseCase{771, 96, 70, 0, false, Activation::none, 3},
                                         DenseCase{3, 0, 5}, DenseCase{0, 4, 5}));

// A step of generation gives the same bits for any threads, alone or in a batch.
TEST(Dense, FewRowsHaveTheBitsOfEachAlone) {
  constexpr std::int64_t kRows = 15, kIn = 201, kOut = 1403;
  const auto x = random(kRows * kIn, 1), w = random(kIn * kOut, 2);
  const auto product = [&](std::int64_t first, std::int64_t rows, int threads) {
    std::vector<float> y(static_cast<std::size_t>(rows * kOut));
    dense({.rows = rows,
           .in = kIn,
           .out = kOut,
           .x = x.data() + first * kIn,
           .w = w.data(),
           .y = y.data()},
          Context({.threads = threads}));
    return y;
  };
  const std::vector<float> together = product(0, kRows, 1);
  EXPECT_EQ(together, product(0, kRows, 2));
  EXPECT_EQ(together, product(0, kRows, 3));
  std::vector<float> alone;
  for (std::int64_t i = 0; i < kRows; ++i) {
    const std::vector<float> row = product(i, 1, 1);
    alone.insert(alone.end(), row.begin(), row.end());
  }
  EXPECT_EQ(together, alone);
}

TEST(Dense, RefusesWhatItCannotDo) {
  const Context context;
  std::vector<float> numbers(16);
  EXPECT_THROW(dense({.rows = 2,
                      .in = 4,
                      .out = 2,
                      .x = numbers.data(),
                      .x_stride = 3,
                      .w = numbers.data(),
                      .y = numbers.data()},
                     context),
               std::invalid_argument);
  EXPECT_THROW(dense({.rows = std::int64_t{1} << 31, .in = 1, .out = 1}, context),
               std::invalid_argument);
  EXPECT_FALSE(dense_library().empty());
}

TEST(Activations, MatchTheirDefinitions) {
  std::vector<float> points;
  for (double x = -12; x <= 12; x += 1.0 / 512) points.push_back(static_cast<float>(x));
  for (const float x : {-1e30F, 1e30F, -0.0F, 1e-20F, -1e-20F, 88.0F, -88.0F}) points.push_back(x);
  for (const Activation activation : {Activation::relu, Activation::gelu, Activation::gelu_tanh,
                                      Activation::silu, Activation::sigmoid}) {
    auto y = points;
    bias_activate(1, static_cast<std::int64_t>(y.size()), y.data(), 0, nullptr, activation,
                  Context());
    for (std::size_t i = 0; i < points.size(); ++i) {
      const double wanted = activate(points[i], activation);
      ASSERT_TRUE(std::abs(y[i] - wanted) <= 3e-7 * std::max(1.0, std::abs(double{points[i]})))
          << "activation " << static_cast<int>(activation) << " of " << points[i] << ": " << y[i]
          << " against " << wanted;
    }
  }
}

TEST(Activations, LetNaNThrough) {
  for (const Activation activation : {Activation::relu, Activation::gelu, Activation::gelu_tanh,
                                      Activation::silu, Activation::sigmoid}) {
    std::vector<float> y(19, std::numeric_limits<float>::quiet_NaN());
    bias_activate(1, 19, y.data(), 19, nullptr, activation, Context());
    for (const float x : y) EXPECT_TRUE(std::isnan(x)) << static_cast<int>(activation);
  }
}

TEST(Gate, MultipliesTheActivatedGate) {
  for (const std::int64_t count : {1, 15, 4096, 50001}) {
    const auto gates = random(static_cast<std::size_t>(count), 4);
    const auto ups = random(static_cast<std::size_t>(count), 5);
    for (const Activation activation :
         {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::sigmoid}) {
      auto y = ups;
      gate(count, gates.data(), y.data(), activation, Context({.threads = 3}));
      for (std::size_t i = 0; i < y.size(); ++i)
        ASSERT_NEAR(y[i], activate(gates[i], activation) * ups[i], 2e-6) << i;
    }
  }
}

TEST(Add, EveryNumber) {
  const auto x = random(50001, 4), y = random(50001, 5);
  auto sum = x;
  add(50001, y.data(), sum.data(), Context({.threads = 2}));
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(sum[i], x[i] + y[i]);
}

TEST(RmsNorm, MatchesDouble) {
  for (const std::int64_t width : {1, 7, 8, 17, 64, 576, 769}) {
    const std::int64_t rows = 5;
    const auto x = random(static_cast<std::size_t>(rows * width), 4);
    const auto weight = random(static_cast<std::size_t>(width), 6);
    auto y = x;  // in place
    rms_norm({.rows = rows,
              .width = width,
              .x = y.data(),
              .weight = weight.data(),
              .epsilon = 1e-5F,
              .y = y.data()},
             Context({.threads = 2}));
    for (std::int64_t i = 0; i < rows; ++i) {
      double square = 0;
      const float* row = x.data() + i * width;
      for (std::int64_t j = 0; j < width; ++j) square += double{row[j]} * row[j];
      const double root = std::sqrt(square / static_cast<double>(width) + 1e-5);
      for (std::int64_t j = 0; j < width; ++j) {
        const auto k = static_cast<std::size_t>(j);
        ASSERT_NEAR(y[static_cast<std::size_t>(i * width + j)], row[j] / root * weight[k],
                    4e-6 * std::max(1.0, std::abs(row[j] / root * weight[k])))
            << width;
      }
    }
  }
}

TEST(LayerNorm, MatchesDouble) {
  for (const std::int64_t width : {1, 7, 8, 17, 64, 384, 769}) {
    const std::int64_t rows = 5;
    const auto size = static_cast<std::size_t>(rows * width);
    auto x = random(size, 4);
    for (float& v : x) v = v * 3 + 20;  // a mean far from 0
    const auto residual = random(size, 5);
    const auto weight = random(static_cast<std::size_t>(width), 6);
    const auto bias = random(static_cast<std::size_t>(width), 7);
    for (const bool with_residual : {false, true}) {
      auto y = x;  // in place
      layer_norm({.rows = rows,
                  .width = width,
                  .x = y.data(),
                  .residual = with_residual ? residual.data() : nullptr,
                  .weight = weight.data(),
                  .bias = bias.data(),
                  .epsilon = 1e-12F,
                  .y = y.data()},
                 Context());
      for (std::int64_t i = 0; i < rows; ++i) {
        const auto at = [&](std::int64_t j) {
          const auto k = static_cast<std::size_t>(i * width + j);
          // The sum is rounded to float before it is normalised.
          return static_cast<double>(with_residual ? x[k] + residual[k] : x[k]);
        };
        double mean = 0, variance = 0;
        for (std::int64_t j = 0; j < width; ++j) mean += at(j) / static_cast<double>(width);
        for (std::int64_t j = 0; j < width; ++j) {
          variance += (at(j) - mean) * (at(j) - mean) / static_cast<double>(width);
        }
        for (std::int64_t j = 0; j < width && width > 1; ++j) {
          const auto k = static_cast<std::size_t>(j);
          const double wanted = (at(j) - mean) / std::sqrt(variance + 1e-12) * weight[k] + bias[k];
          ASSERT_TRUE(std::abs(y[static_cast<std::size_t>(i * width + j)] - wanted) <= 2e-5)
              << width << ": " << i << ", " << j;
        }
        if (width == 1) {
          EXPECT_FLOAT_EQ(y[static_cast<std::size_t>(i)], bias[0]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace attn::nn
