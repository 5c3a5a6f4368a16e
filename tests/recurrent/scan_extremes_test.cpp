// A million tokens, and gates at both extremes: nothing overflows, nothing becomes NaN.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "peak_memory.h"
#include "recurrent/scan_problem.h"

namespace attn::test {
namespace {

constexpr std::int64_t kMillion = 1000000;

void expect_finite(const std::vector<float>& x) {
  EXPECT_TRUE(std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); }));
}

TEST(SelectiveScan, MillionTokensBetweenExtremes) {
  for (const Isa isa : supported_isas()) {
    ScanProblem<float> p({1, kMillion, 3, 2, 1, true});
    // Steps of 0, of about 1, and of 1e30; decays of none, some and all.
    for (std::size_t i = 0; i < p.delta.x.size(); ++i)
      p.delta.x[i] = i % 7 == 0 ? 1e30f : i % 3 == 0 ? -1e30f : p.delta.x[i];
    p.a.x = {-0.0f, -1e-20f, -1, -1e20f, -3e38f, -1};
    for (std::size_t i = 0; i < p.u.x.size(); ++i) p.u.x[i] *= i % 7 == 0 ? 1e-30f : 1;
    const Context context({.threads = 2, .isa = isa});
    const auto got = scan_of(p, &context);
    expect_finite(got.out.x);
    expect_finite(got.state.x);
  }
}

// Where nothing decays, the state is a sum.
TEST(SelectiveScan, MillionTokensOfNoDecay) {
  ScanProblem<float> p({1, kMillion, 1, 1, 1, false});
  std::fill(p.delta.x.begin(), p.delta.x.end(), 0x1p-20f);
  std::fill(p.u.x.begin(), p.u.x.end(), 1.0f);
  std::fill(p.b.x.begin(), p.b.x.end(), 1.0f);
  p.a.x = {-0.0f};
  const Context context({.threads = 1});
  EXPECT_EQ(scan_of(p, &context).state.x[0], static_cast<float>(kMillion) * 0x1p-20f);
}

TEST(SelectiveScan, GatesAtBothExtremes) {
  for (const Isa isa : supported_isas()) {
    ScanProblem<float> p({1, 6, 1, 1, 1, true});
    p.z.x = {-3e38f, -200, 0, 200, 3e38f, -80};
    const Context context({.threads = 1, .isa = isa});
    const auto got = scan_of(p, &context);
    p.z = {};
    const auto without = scan_of(p, &context);
    EXPECT_EQ(got.out.x[0], 0) << name(isa);
    EXPECT_EQ(got.out.x[1], 0) << name(isa);
    EXPECT_EQ(got.out.x[2], 0) << name(isa);
    EXPECT_EQ(got.out.x[3], 200 * without.out.x[3]) << name(isa);
    EXPECT_EQ(got.out.x[4], 3e38f * without.out.x[4]) << name(isa);
    EXPECT_NEAR(got.out.x[5] / without.out.x[5], -80 * std::exp(-80.0), 1e-3 * 80 * std::exp(-80.0))
        << name(isa);
  }
}

// A channel's NaN stays in its channel, and a sequence's in its sequence.
TEST(SelectiveScan, NanStaysWhereItIs) {
  ScanProblem<float> p({1, 12, 19, 3, 1, true});
  p.options.offsets = {0, 5, 12};
  Numbers numbers(5);
  p.state = {{2, 1, 3, 19}, numbers, -1, 1};
  const Context context({.threads = 1});
  const auto clean = scan_of(p, &context);
  p.u.x[2 * 19 + 17] = std::nanf("");
  const auto got = scan_of(p, &context);
  for (std::size_t t = 0; t < 12; ++t) {
    for (std::size_t c = 0; c < 19; ++c) {
      const bool reached = c == 17 && t >= 2 && t < 5;
      EXPECT_EQ(std::isnan(got.out.x[t * 19 + c]), reached) << t << " " << c;
      if (!reached) {
        EXPECT_EQ(got.out.x[t * 19 + c], clean.out.x[t * 19 + c]);
      }
    }
  }
}

// The same of RWKV-4 and the convolution, whose NaN leaves with its width.
TEST(Wkv4, NanStaysWhereItIs) {
  constexpr std::size_t kChannels = 19;
  Wkv4Problem<float> p(1, 12, kChannels, false);
  p.options.offsets = {0, 5, 12};
  const Context context({.threads = 1});
  const auto clean = wkv4_of(p, &context);
  for (Made<float>* made : {&p.k, &p.v}) {
    const Made<float> kept = *made;
    made->x[2 * kChannels + 17] = std::nanf("");
    const auto got = wkv4_of(p, &context);
    *made = kept;
    for (std::size_t i = 0; i < got.out.x.size(); ++i) {
      const bool reached = i % kChannels == 17 && i / kChannels >= 2 && i / kChannels < 5;
      EXPECT_EQ(std::isnan(got.out.x[i]), reached) << i;
      if (!reached) {
        EXPECT_EQ(got.out.x[i], clean.out.x[i]) << i;
      }
    }
  }
}

TEST(CausalConvolution, NanStaysWhereItIs) {
  constexpr std::size_t kChannels = 19;
  ConvolutionProblem<float> p(1, 12, kChannels, 3, false);
  p.options.offsets = {0, 4, 12};
  const Context context({.threads = 1});
  const auto clean = convolution_of(p, &context);
  for (const std::size_t token : {3, 6}) {  // the last of a sequence, and one within
    const float kept = p.x.x[token * kChannels + 17];
    p.x.x[token * kChannels + 17] = std::nanf("");
    const auto got = convolution_of(p, &context);
    p.x.x[token * kChannels + 17] = kept;
    for (std::size_t i = 0; i < got.out.x.size(); ++i) {
      const std::size_t t = i / kChannels, last = token == 3 ? 3 : token + 2;
      const bool reached = i % kChannels == 17 && t >= token && t <= last;
      EXPECT_EQ(std::isnan(got.out.x[i]), reached) << token << " " << i;
      if (!reached) {
        EXPECT_EQ(got.out.x[i], clean.out.x[i]) << token << " " << i;
      }
    }
  }
}

// A weighted mean stays between the values, whatever the weights.
TEST(Wkv4, MillionTokensBetweenExtremes) {
  for (const Isa isa : supported_isas()) {
    Wkv4Problem<float> p(1, kMillion, 4, false);
    for (std::size_t i = 0; i < p.k.x.size(); ++i)
      p.k.x[i] *= i % 5 == 0 ? 1e30f : i % 3 == 0 ? 1e4f : 1;
    p.decay.x = {-0.0f, -1e-20f, -1, -3e37f};
    p.bonus.x = {-1e30f, 1e30f, 0, 1};
    const Context context({.threads = 2, .isa = isa});
    const auto got = wkv4_of(p, &context);
    expect_finite(got.out.x);
    expect_finite(got.state.x);
    const auto [low, high] = std::minmax_element(got.out.x.begin(), got.out.x.end());
    EXPECT_GE(*low, -1.001f) << name(isa);
    EXPECT_LE(*high, 1.001f) << name(isa);
  }
}

TEST(SelectiveScan, GradientsBetweenExtremesAreFinite) {
  constexpr std::int64_t kLength = 100003;
  ScanProblem<float> p({1, kLength, 3, 2, 1, true});
  for (std::size_t i = 0; i < p.delta.x.size(); ++i)
    p.delta.x[i] = i % 7 == 0 ? 1e4f : i % 3 == 0 ? -1e30f : p.delta.x[i];
  for (std::size_t i = 0; i < p.z.x.size(); i += 5) p.z.x[i] *= 1e4f;
  p.a.x = {-0.0f, -1e-20f, -1, -1e20f, -3e38f, -1};
  for (std::size_t i = 0; i < p.u.x.size(); ++i) p.u.x[i] *= i % 7 == 0 ? 1e-4f : 1;
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    Made<float> u = p.u, delta = p.delta, z = p.z, a = p.a, b = p.b, c = p.c, d = p.d,
                bias = p.bias, state = p.state;
    selective_scan_backward(p.inputs(), {p.u.view()},
                            {u.view(), delta.view(), a.view(), b.view(), c.view(), d.view(),
                             z.view(), bias.view(), state.view()},
                            p.options, Context({.threads = 2, .isa = isa}));
    for (const Made<float>* made : {&u, &delta, &z, &a, &b, &c, &d, &bias, &state})
      expect_finite(made->x);
  }
}

TEST(Wkv4, GradientsBetweenExtremesAreFinite) {
  constexpr std::int64_t kLength = 100003;
  Wkv4Problem<float> p(1, kLength, 4, false);
  for (std::size_t i = 0; i < p.k.x.size(); ++i)
    p.k.x[i] *= i % 5 == 0 ? 1e30f : i % 3 == 0 ? 1e4f : 1;
  p.decay.x = {-0.0f, -1e-20f, -1, -3e37f};
  p.bonus.x = {-1e30f, 1e30f, 0, 1};
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    Made<float> k = p.k, v = p.v, decay = p.decay, bonus = p.bonus;
    wkv4_backward(p.inputs(), {p.v.view()}, {k.view(), v.view(), decay.view(), bonus.view()}, {},
                  Context({.threads = 2, .isa = isa}));
    for (const Made<float>* made : {&k, &v, &decay, &bonus}) expect_finite(made->x);
  }
}

// A few numbers a token and channel, 4 MiB each, and states at every so many tokens: states at all
// would be 256 MiB.
TEST(ScanMemory, GradientsKeepSomeStates) {
  const ScanProblem<float> p({1, 16384, 64, 64, 1, false});
  Made<float> u = p.u, delta = p.delta, a = p.a, b = p.b, c = p.c;
  const std::int64_t before = peak_kb();
  if (before == 0) GTEST_SKIP() << "no /proc/self/status";
  selective_scan_backward(p.inputs(), {p.u.view()},
                          {u.view(), delta.view(), a.view(), b.view(), c.view()}, p.options,
                          Context({.threads = 1}));
  EXPECT_LT(peak_kb() - before, 4 * 4 * 1024);
}

}  // namespace
}  // namespace attn::test
