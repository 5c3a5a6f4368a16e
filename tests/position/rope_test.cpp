#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <numbers>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/position.h"
#include "golden.h"

namespace attn {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

const std::vector<RopeScaling>& every_scaling() {
  static const std::vector<RopeScaling> all = [] {
    std::vector<RopeScaling> s = {{},
                                  RopeScaling::linear(4),
                                  RopeScaling::ntk(4),
                                  RopeScaling::dynamic_ntk(2, 16),
                                  RopeScaling::yarn(8, 512),
                                  RopeScaling::llama3()};
    s.push_back(RopeScaling::yarn(8, 512));
    s.back().paper_ramp = true;
    return s;
  }();
  return all;
}

std::vector<double> random_values(std::size_t n, unsigned seed = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<double> x(n);
  for (double& v : x) v = normal(generator);
  return x;
}

// Transformers computes frequencies in float32: base^(2i/D) there is a few ulp off.
void expect_frequencies(const RopeTable& table, const std::vector<double>& golden) {
  ASSERT_EQ(table.frequency.size() + 1, golden.size());
  for (std::size_t i = 0; i < table.frequency.size(); ++i) {
    EXPECT_NEAR(table.frequency[i], golden[i], 2e-6 * golden[i]) << "pair " << i;
  }
  EXPECT_NEAR(table.magnitude, golden.back(), 1e-7);
}

TEST(RopeTable, AgreesWithTransformers) {
  const test::Golden golden("golden_positions.txt");
  const auto check = [&](const std::string& name, const RopeOptions& options, std::int64_t width,
                         std::int64_t sequence = 0) {
    SCOPED_TRACE(name);
    expect_frequencies(rope_table(options, width, sequence), golden[name]);
  };
  check("linear", {.scaling = RopeScaling::linear(4)}, 64);
  check("linear_partial", {.fraction = 0.4, .scaling = RopeScaling::linear(2.5)}, 80);
  check("dynamic_short", {.scaling = RopeScaling::dynamic_ntk(2, 2048)}, 64, 1000);
  check("dynamic_long", {.scaling = RopeScaling::dynamic_ntk(2, 2048)}, 64, 6000);
  check("dynamic_partial", {.fraction = 0.25, .scaling = RopeScaling::dynamic_ntk(4, 2048)}, 96,
        5000);

  check("yarn", {.scaling = RopeScaling::yarn(16, 4096)}, 128);
  check("yarn_partial", {.fraction = 0.5, .scaling = RopeScaling::yarn(16, 4096)}, 64);
  RopeOptions gpt_oss = {.base = 150000, .scaling = RopeScaling::yarn(32, 4096)};
  gpt_oss.scaling.truncate = false;
  check("yarn_untruncated", gpt_oss, 64);
  RopeOptions o = {.scaling = RopeScaling::yarn(16, 4096)};
  o.scaling.beta_fast = 8;
  o.scaling.beta_slow = 2;
  check("yarn_betas", o, 64);
  o = {.scaling = RopeScaling::yarn(16, 4096)};
  o.scaling.attention_factor = 0.75;
  check("yarn_attention_factor", o, 64);
  o = {.scaling = RopeScaling::yarn(40, 4096)};
  o.scaling.mscale = 0.707;
  o.scaling.mscale_all_dim = 0.5;
  check("yarn_mscale", o, 64);

  check("llama3", {.base = 500000, .scaling = RopeScaling::llama3()}, 128);
  check("llama3_small", {.base = 500000, .scaling = RopeScaling::llama3(32)}, 64);
}

TEST(RopeTable, PlainFrequencies) {
  const RopeTable table = rope_table({}, 4);
  EXPECT_EQ(table.frequency, (std::vector<double>{1.0, 0.01}));
  EXPECT_EQ(table.magnitude, 1.0);
  EXPECT_EQ(rope_table({}, 2).frequency, std::vector<double>{1.0});
  EXPECT_EQ(rope_table({}, 7).frequency.size(), 3u);                   // the last one stays
  EXPECT_EQ(rope_table({.fraction = 0.25}, 64).frequency.size(), 8u);  // NeoX
  EXPECT_EQ(rope_table({.fraction = 0.4}, 80).frequency.size(), 16u);  // Phi-2
  // The rotary width, not the head width, is D.
  EXPECT_EQ(rope_table({.fraction = 0.25}, 64).frequency, rope_table({}, 16).frequency);
}

TEST(RopeTable, NtkKeepsTheFastestAndStretchesTheSlowest) {
  for (std::int64_t width : {4, 64, 128}) {
    const RopeTable plain = rope_table({}, width);
    const RopeTable ntk = rope_table({.scaling = RopeScaling::ntk(8)}, width);
    EXPECT_EQ(ntk.frequency.front(), 1.0);
    EXPECT_NEAR(ntk.frequency.back() * 8 / plain.frequency.back(), 1, 1e-12);
  }
  EXPECT_EQ(rope_table({.scaling = RopeScaling::ntk(8)}, 2).frequency, std::vector<double>{1.0});
  // Dynamic NTK is NTK with the stretch s L/L0 - (s - 1): 2 * 3 - 1 = 5 at three times L0.
  EXPECT_EQ(rope_table({.scaling = RopeScaling::dynamic_ntk(2, 100)}, 64, 300).frequency,
            rope_table({.scaling = RopeScaling::ntk(5)}, 64).frequency);
  EXPECT_EQ(rope_table({.scaling = RopeScaling::dynamic_ntk(2, 100)}, 64, 99).frequency,
            rope_table({}, 64).frequency);
}

TEST(RopeTable, DividedSaysWhatItDividesBy) {
  const RopeTable plain = rope_table({}, 8);
  const RopeTable table = rope_table({.scaling = RopeScaling::divided({1, 2, 4, 8})}, 8);
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_EQ(table.frequency[i], plain.frequency[i] / std::pow(2, i)) << i;
  EXPECT_EQ(table.magnitude, 1.0);
  EXPECT_THROW(rope_table({.scaling = RopeScaling::divided({1, 2, 4})}, 8), std::invalid_argument);
  EXPECT_THROW(rope_table({.scaling = RopeScaling::divided({1, 2, 4, 0})}, 8),
               std::invalid_argument);
}

TEST(RopeTable, YarnRampsBetweenItsTurns) {
  // The paper's ramp, by hand: pair i makes L0 theta_i / 2 pi turns.
  RopeOptions options = {.scaling = RopeScaling::yarn(4, 1024)};
  options.scaling.paper_ramp = true;
  const RopeTable plain = rope_table({}, 64), yarn = rope_table(options, 64);
  for (std::size_t i = 0; i < 32; ++i) {
    const double turns = 1024 * plain.frequency[i] / (2 * std::numbers::pi);
    const double keep = turns > 32 ? 1 : turns < 1 ? 0 : (turns - 1) / 31;
    EXPECT_NEAR(yarn.frequency[i], plain.frequency[i] * keep + plain.frequency[i] / 4 * (1 - keep),
                1e-15)
        << i;
  }
  EXPECT_NEAR(yarn.magnitude, 0.1 * std::log(4.0) + 1, 1e-15);
  // The code's ramp differs in the middle only.
  options.scaling.paper_ramp = false;
  const RopeTable code = rope_table(options, 64);
  EXPECT_EQ(code.frequency.front(), yarn.frequency.front());
  EXPECT_EQ(code.frequency.back(), yarn.frequency.back());
  EXPECT_NE(code.frequency[12], yarn.frequency[12]);
}

TEST(Rope, AgreesWithTransformers) {
  const test::Golden golden("golden_positions.txt");
  const std::vector<std::int64_t> positions = {0, 5, 1000};
  const auto check = [&](const std::string& name, const RopeOptions& options) {
    std::vector<double> x(48);
    for (std::size_t i = 0; i < 48; ++i) x[i] = std::sin(static_cast<double>(i) * 0.37);
    std::vector<float> x32(x.begin(), x.end());
    rope(Tensor(x.data(), {1, 2, 3, 8}), positions, options);
    rope(Tensor(x32.data(), {1, 2, 3, 8}), positions, options);
    for (std::size_t i = 0; i < 48; ++i) {
      EXPECT_NEAR(x[i], golden[name][i], 1e-12) << name << " " << i;
      EXPECT_NEAR(x32[i], golden[name][i], 3e-7) << name << " " << i;
    }
  };
  check("rotated_half", {});
  check("rotated_half_of_half", {.fraction = 0.5});
  check("rotated_interleaved", {.layout = RopeLayout::interleaved});
}

TEST(Rope, IsAComplexProduct) {
  // Pair (a, b) times e^(i angle), any layout and fraction; the rest of the head stays.
  for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
    for (const double fraction : {0.25, 1.0}) {
      const RopeOptions options = {.layout = layout, .fraction = fraction};
      const std::vector<double> before = random_values(24);
      std::vector<double> x = before;
      rope(Tensor(x.data(), {1, 1, 1, 24}), std::vector<std::int64_t>{-37}, options);
      const RopeTable table = rope_table(options, 24);
      const std::size_t pairs = table.frequency.size();
      ASSERT_EQ(pairs, fraction == 1.0 ? 12u : 3u);
      for (std::size_t i = 0; i < pairs; ++i) {
        const std::size_t a = layout == RopeLayout::half ? i : 2 * i;
        const std::size_t b = layout == RopeLayout::half ? i + pairs : 2 * i + 1;
        const std::complex<double> turned =
            std::complex(before[a], before[b]) * std::polar(1.0, -37 * table.frequency[i]);
        EXPECT_NEAR(x[a], turned.real(), 1e-14);
        EXPECT_NEAR(x[b], turned.imag(), 1e-14);
      }
      for (std::size_t i = 2 * pairs; i < 24; ++i) EXPECT_EQ(x[i], before[i]);
    }
  }
}

TEST(Rope, InverseRestores) {
  const std::vector<std::int64_t> positions = {0, 1, -5, 70000, 12};
  for (const RopeScaling& scaling : every_scaling()) {
    for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
      const RopeOptions options = {.layout = layout, .fraction = 0.5, .scaling = scaling};
      const std::vector<double> before = random_values(2 * 3 * 5 * 16);
      std::vector<double> x = before;
      const Tensor view(x.data(), {2, 3, 5, 16});
      rope(view, positions, options);
      EXPECT_NE(x, before);
      rope_inverse(view, positions, options);
      for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], before[i], 1e-14);
    }
  }
}

TEST(RopeAngles, RotateToTheBitsOfRope) {
  const std::vector<std::int64_t> positions = {0, 1, -5, 70000, 12};
  const auto check = [&]<class T>(const RopeOptions& options, T /*type*/) {
    const std::vector<double> from = random_values(2 * 3 * 5 * 16);
    std::vector<T> x(from.begin(), from.end()), expected = x;
    rope(Tensor(expected.data(), {2, 3, 5, 16}), positions, options, 5000);
    const RopeAngles angles(positions, 16, options, 5000);
    angles.rotate(Tensor(x.data(), {2, 3, 5, 16}));
    EXPECT_EQ(x, expected);
    angles.rotate(Tensor(x.data(), {2, 3, 5, 16}));
    EXPECT_NE(x, expected);
  };
  for (const RopeScaling& scaling : every_scaling()) {
    for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
      check({.layout = layout, .fraction = 0.5, .scaling = scaling}, 1.0);
      check({.layout = layout, .scaling = scaling}, 1.0F);
    }
  }
  // The length that dynamic NTK takes from the last position.
  const RopeOptions dynamic = {.scaling = RopeScaling::dynamic_ntk(2, 100)};
  std::vector<double> x = random_values(5 * 16), expected = x;
  rope(Tensor(expected.data(), {1, 1, 5, 16}), positions, dynamic);
  RopeAngles(positions, 16, dynamic).rotate(Tensor(x.data(), {1, 1, 5, 16}));
  EXPECT_EQ(x, expected);
}

TEST(RopeAngles, AreOfTheirWidthAndLength) {
  std::vector<double> data(4 * 16);
  const RopeAngles angles(std::vector<std::int64_t>{0, 1, 2}, 16);
  EXPECT_THAT(
      [&] {
        angles.rotate(Tensor(data.data(), {1, 1, 4, 16}));
      },
      ThrowsMessage<std::invalid_argument>(HasSubstr("3 positions for length 4")));
  EXPECT_THAT(
      [&] {
        angles.rotate(Tensor(data.data(), {1, 1, 3, 8}));
      },
      ThrowsMessage<std::invalid_argument>(HasSubstr("x has width 8")));
  RopeAngles({}, 16).rotate(Tensor(data.data(), {1, 1, 0, 16}));
}

TEST(Rope, DotsDependOnDistanceOnly) {
  for (const RopeScaling& scaling : every_scaling()) {
    const RopeOptions options = {.scaling = scaling};
    const auto dot = [&](std::int64_t q_pos, std::int64_t k_pos) {
      std::vector<double> q = random_values(64, 1), k = random_values(64, 2);
      rope(Tensor(q.data(), {1, 1, 1, 64}), std::vector{q_pos}, options, 4096);
      rope(Tensor(k.data(), {1, 1, 1, 64}), std::vector{k_pos}, options, 4096);
      double sum = 0;
      for (std::size_t i = 0; i < 64; ++i) sum += q[i] * k[i];
      return sum;
    };
    const double near = dot(3, 0), moved = dot(1003, 1000), negative = dot(-997, -1000);
    EXPECT_NEAR(near, moved, 1e-10);
    EXPECT_NEAR(near, negative, 1e-10);
    EXPECT_GT(std::abs(near - dot(4, 0)), 1e-3) << "distance must matter";
  }
}

TEST(Rope, DynamicNtkReadsTheLargestPosition) {
  const RopeOptions dynamic = {.scaling = RopeScaling::dynamic_ntk(2, 16)};
  const std::vector<std::int64_t> positions = {99, 3};
  std::vector<double> a = random_values(32), b = a, c = a;
  rope(Tensor(a.data(), {1, 1, 2, 16}), positions, dynamic);
  rope(Tensor(b.data(), {1, 1, 2, 16}), positions, dynamic, 100);
  rope(Tensor(c.data(), {1, 1, 2, 16}), positions, dynamic, 16);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
  // Without positions the length counts.
  std::vector<double> d = random_values(16 * 40), e = d;
  rope(Tensor(d.data(), {1, 1, 40, 16}), {}, dynamic);
  rope(Tensor(e.data(), {1, 1, 40, 16}), {}, dynamic, 40);
  EXPECT_EQ(d, e);
}

TEST(Rope, StridesAndLayoutsOfMemoryDoNotMatter) {
  const std::vector<std::int64_t> positions = {4, 9, 2};
  const std::vector<double> x = random_values(2 * 2 * 3 * 6);
  std::vector<double> plain = x;
  rope(Tensor(plain.data(), {2, 2, 3, 6}), positions);
  // The same tensor stored [B, L, H, D + 5 guards].
  std::vector<double> wide(2 * 3 * 2 * 11, -7.0);
  const Tensor view(wide.data(), {2, 2, 3, 6}, {66, 11, 22, 1});
  const Tensor logical(plain.data(), {2, 2, 3, 6});
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t h = 0; h < 2; ++h) {
      for (std::int64_t l = 0; l < 3; ++l) {
        for (std::int64_t d = 0; d < 6; ++d) {
          view.row<double>(b, h, l)[d] = x[static_cast<std::size_t>(logical.offset(b, h, l) + d)];
        }
      }
    }
  }
  rope(view, positions);
  std::size_t guards = 0;
  for (double v : wide) guards += v == -7.0;
  EXPECT_EQ(guards, 2u * 2 * 3 * 5);
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t h = 0; h < 2; ++h) {
      for (std::int64_t l = 0; l < 3; ++l) {
        for (std::int64_t d = 0; d < 6; ++d) {
          EXPECT_EQ(view.row<double>(b, h, l)[d], logical.row<double>(b, h, l)[d]);
        }
      }
    }
  }
}

TEST(Rope, RefusesNonsense) {
  std::vector<float> data(64);
  const Tensor x(data.data(), {1, 1, 4, 16});
  const auto throws = [&](const RopeOptions& options, const char* message) {
    EXPECT_THAT([&] { rope(x, {}, options); },
                ThrowsMessage<std::invalid_argument>(HasSubstr(message)));
  };
  throws({.base = 0}, "[rope] base is 0");
  throws({.base = std::nan("")}, "[rope] base is nan");
  throws({.fraction = 0}, "[rope] fraction is 0");
  throws({.fraction = 1.5}, "[rope] fraction is 1.5");
  throws({.fraction = 0.05}, "no pair to rotate");
  throws({.scaling = RopeScaling::linear(0.5)}, "[rope] factor is 0.5");
  throws({.scaling = RopeScaling::yarn(4, 0)}, "[rope] original_length is 0");
  throws({.scaling = RopeScaling::llama3(8, 4, 4)}, "[rope] high_freq_factor is 4");
  RopeOptions o = {.scaling = RopeScaling::yarn(4, 100)};
  o.scaling.beta_fast = 1;
  throws(o, "[rope] beta_fast is 1");

  const std::vector<std::int64_t> three = {0, 1, 2};
  EXPECT_THAT([&] { rope(x, three); },
              ThrowsMessage<std::invalid_argument>(HasSubstr("3 positions for length 4")));
  EXPECT_THAT(
      [&] {
        rope(Tensor(data.data(), {1, 1, 4, 16}, {64, 64, 0, 1}), {});
      },
      ThrowsMessage<std::invalid_argument>(HasSubstr("rows overlap")));
  EXPECT_THAT(
      [&] {
        rope(Tensor(data.data(), {1, 1, 4, 4}, {64, 64, 16, 2}), {});
      },
      ThrowsMessage<std::invalid_argument>(HasSubstr("along its width")));
  EXPECT_THAT(
      [&] {
        rope(Tensor(data.data(), DType::bf16, {1, 1, 4, 16}, {64, 64, 16, 1}), {});
      },
      ThrowsMessage<std::invalid_argument>(HasSubstr("x is bfloat16")));
  EXPECT_THAT(
      [&] {
        rope(Tensor(nullptr, DType::f32, {1, 1, 4, 16}, {64, 64, 16, 1}), {});
      },
      ThrowsMessage<std::invalid_argument>(HasSubstr("no data")));
  EXPECT_EQ(data, std::vector<float>(64, 0.0f));
}

}  // namespace
}  // namespace attn
