// The oracle's gradients against PyTorch's autograd (tools/golden_gradients.py makes the file).
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attn/reference.h"
#include "golden.h"

namespace attn {
namespace {

constexpr std::int64_t B = 2, HQ = 4, HKV = 2, LQ = 4, LK = 9, D = 4, DV = 3, kStart = 3;
// Gradients are sums of at most some hundred terms of size 1.
constexpr double kBound = 1e-13;

std::vector<double> wave(double phase, std::int64_t n) {
  std::vector<double> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(phase + 0.37 * static_cast<double>(i));
  return x;
}

std::vector<float> wave32(double phase, std::int64_t n, double amplitude = 1) {
  std::vector<float> x;
  for (double v : wave(phase, n)) x.push_back(static_cast<float>(v * amplitude));
  return x;
}

class GradientGolden : public testing::Test {
 protected:
  test::Golden golden_{"golden_gradients.txt"};
  std::vector<double> q_ = wave(0.1, B*HQ*LQ*D), k_ = wave(0.2, B*HKV*LK*D),
                      v_ = wave(0.3, B*HKV*LK*DV), d_out_ = wave(0.7, B*HQ*LQ*DV),
                      d_lse_ = wave(0.8, B*HQ*LQ), d_entropy_ = wave(0.9, B*HQ*LQ);
  std::vector<double> bias_;
  const OutputGradients out_ = {.out = ConstTensor(d_out_.data(), {B, HQ, LQ, DV})};
  const OutputGradients lse_ = {.out = {}, .lse = ConstTensor(d_lse_.data(), {B, HQ, LQ, 1})};
  const OutputGradients entropy_ = {.out = {},
                                    .entropy = ConstTensor(d_entropy_.data(), {B, HQ, LQ, 1})};
  const OutputGradients all_ = {.out = out_.out, .lse = lse_.lse, .entropy = entropy_.entropy};
  const std::vector<float> sinks_ = wave32(0.5, HQ, 2), table_ = wave32(0.6, 8 * HQ);

  ConstTensor bias(double amplitude, const Shape& shape, double hidden_below = -99) {
    bias_ = wave(0.4, shape[0] * shape[1] * shape[2] * shape[3]);
    for (double& x : bias_) {
      x *= amplitude;
      if (x < hidden_below) x = -std::numeric_limits<double>::infinity();
    }
    return {bias_.data(), shape};
  }

  void check(const std::string& name, AttentionOptions options, const OutputGradients& from) const {
    options.query_start = kStart;
    const Score& score = options.score;
    std::vector<double> q(q_.size()), k(k_.size()), v(v_.size()), bias(bias_.size()), slopes(HQ),
        t5(8 * HQ), sinks(HQ);
    InputGradients to = {.q = Tensor(q.data(), {B, HQ, LQ, D}),
                         .k = Tensor(k.data(), {B, HKV, LK, D}),
                         .v = Tensor(v.data(), {B, HKV, LK, DV})};
    if (!score.bias.empty()) to.bias = Tensor(bias.data(), score.bias.shape);
    if (score.alibi_slopes) to.alibi_slopes = Tensor(slopes.data(), {1, 1, 1, HQ});
    if (score.t5) to.t5 = Tensor(t5.data(), {1, 1, 8, HQ});
    if (!score.sinks.empty()) to.sinks = Tensor(sinks.data(), {1, 1, 1, HQ});
    reference::backward({ConstTensor(q_.data(), to.q.shape), ConstTensor(k_.data(), to.k.shape),
                         ConstTensor(v_.data(), to.v.shape)},
                        from, to, options);
    compare(name + ".q", q);
    compare(name + ".k", k);
    compare(name + ".v", v);
    if (!to.bias.empty()) compare(name + ".bias", bias);
    if (!to.alibi_slopes.empty()) compare(name + ".slopes", slopes);
    if (!to.t5.empty()) compare(name + ".t5", t5);
    if (!to.sinks.empty()) compare(name + ".sinks", sinks);
  }
  void compare(const std::string& name, const std::vector<double>& got) const {
    const std::vector<double>& expected = golden_[name];
    ASSERT_EQ(got.size(), expected.size()) << name;
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_NEAR(got[i], expected[i], kBound) << name << " element " << i;
    }
  }
};

TEST_F(GradientGolden, ScaledDotProduct) {
  check("plain", {}, out_);
  check("causal", {.mask = Mask::causal()}, out_);
}

TEST_F(GradientGolden, SoftCap) {
  check("cap", {.mask = Mask::causal(), .score = {.scale = 1.5, .soft_cap = 0.8}}, out_);
}

TEST_F(GradientGolden, BiasAndWhatItWasBroadcastOver) {
  check("bias", {.score = {.bias = bias(3, {B, HQ, LQ, LK})}}, out_);
  check("bias_hides", {.score = {.bias = bias(3, {B, HQ, LQ, LK}, -1)}}, all_);
  check("bias_heads", {.score = {.bias = bias(1, {1, HQ, LQ, 1})}}, all_);
  check("bias_keys", {.mask = Mask::causal(), .score = {.bias = bias(1, {B, 1, 1, LK})}}, out_);
}

TEST_F(GradientGolden, SlopesTableAndSinks) {
  check("slopes", {.score = {.alibi_slopes = std::vector<float>{0.5f, 0.25f, 0.125f, 0.0625f}}},
        out_);
  check("t5",
        {.score = {.scale = 1.0, .t5 = T5Bias{.table = table_, .buckets = 8, .max_distance = 6}}},
        out_);
  check("sinks", {.mask = Mask::causal(), .score = {.sinks = sinks_}}, out_);
}

TEST_F(GradientGolden, LogSumExpAndEntropy) {
  check("lse", {.mask = Mask::causal()}, lse_);
  check("entropy", {.mask = Mask::causal(), .score = {.sinks = sinks_}}, entropy_);
}

TEST_F(GradientGolden, DropoutAndEverything) {
  const Dropout dropout = {.p = 0.4, .seed = 0x0123456789abcdef};
  check("dropout", {.mask = Mask::causal(), .dropout = dropout}, out_);
  check("all",
        {.mask = Mask::causal(),
         .score = {.scale = 0.7,
                   .soft_cap = 0.9,
                   .bias = bias(3, {B, HQ, LQ, LK}),
                   .alibi_slopes = std::vector<float>{0.5f, 0.25f, 0.125f, 0.0625f},
                   .t5 = T5Bias{.table = table_, .buckets = 8, .max_distance = 6},
                   .sinks = sinks_},
         .dropout = dropout},
        all_);
}

}  // namespace
}  // namespace attn
