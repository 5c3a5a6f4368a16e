// The oracle against PyTorch and transformers (tools/golden_attention.py makes the file).
#include "golden.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attn/reference.h"

namespace attn {
namespace {

constexpr std::int64_t B = 2, HQ = 4, HKV = 2, LQ = 5, LK = 7, D = 6, DV = 3;

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

class ReferenceGolden : public testing::Test {
 protected:
  test::Golden golden_{"golden_attention.txt"};
  std::vector<double> q_ = wave(0.1, B*HQ*LQ*D), k_ = wave(0.2, B*HKV*LK*D),
                      v_ = wave(0.3, B*HKV*LK*DV), bias_ = wave(0.4, HQ*LQ*LK);

  ReferenceGolden() {
    for (double& x : bias_) x *= 3;
  }

  ConstTensor q() const { return {q_.data(), {B, HQ, LQ, D}}; }
  ConstTensor k() const { return {k_.data(), {B, HKV, LK, D}}; }
  ConstTensor v() const { return {v_.data(), {B, HKV, LK, DV}}; }
  ConstTensor bias() const { return {bias_.data(), {1, HQ, LQ, LK}}; }

  void compare(const std::vector<double>& got, const std::string& name, double bound) const {
    const std::vector<double>& expected = golden_[name];
    ASSERT_EQ(got.size(), expected.size()) << name;
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_NEAR(got[i], expected[i], bound) << name << " element " << i;
    }
  }

  void check(const std::string& name, const AttentionOptions& options,
             const std::string& lse_name = {}, double bound = 1e-13) const {
    std::vector<double> out(B * HQ * LQ * DV), lse(B * HQ * LQ);
    reference::attention(q(), k(), v(), Tensor(out.data(), {B, HQ, LQ, DV}), options,
                         {.lse = Tensor(lse.data(), {B, HQ, LQ, 1})});
    compare(out, name, bound);
    if (!lse_name.empty()) compare(lse, lse_name, bound);
  }
};

TEST_F(ReferenceGolden, ScaledDotProductAttention) {
  check("plain", {}, "lse");
  check("scale", {.score = {.scale = 2.5}});
  check("causal_end", {.mask = Mask::causal(), .query_start = LK - LQ});
  check("causal_start", {.mask = Mask::causal()});
  check("bias", {.score = {.bias = bias()}});
}

TEST_F(ReferenceGolden, BiasOfMinusInfinity) {
  for (double& x : bias_) {
    if (x < -1) x = -std::numeric_limits<double>::infinity();
  }
  check("bias_hides", {.score = {.bias = bias()}});
}

TEST_F(ReferenceGolden, SoftCapAsGemma2) {
  // Its softmax is in float32.
  check("soft_cap",
        {.mask = Mask::causal(), .score = {.scale = 1.5, .soft_cap = 0.8}, .query_start = LK - LQ},
        {}, 5e-7);
}

TEST_F(ReferenceGolden, SinksAsGptOss) {
  const AttentionOptions options = {.mask = Mask::causal(),
                                    .score = {.scale = 1.5, .sinks = wave32(0.5, HQ, 2)},
                                    .query_start = LK - LQ};
  check("sinks", options);
  std::vector<double> weights(B * HQ * LQ * LK);
  reference::weights(q(), k(), options, Tensor(weights.data(), {B, HQ, LQ, LK}));
  compare(weights, "sinks_weights", 1e-13);
}

TEST_F(ReferenceGolden, AlibiCausalAndTwoSided) {
  check("alibi_causal", {.mask = Mask::causal(), .score = Score::alibi(), .query_start = LK - LQ});
  check("alibi_two_sided", {.score = Score::alibi(), .query_start = 1});
}

TEST_F(ReferenceGolden, T5BothKinds) {
  T5Bias t5 = {.table = wave32(0.6, 8 * HQ), .buckets = 8, .max_distance = 6};
  check("t5_encoder", {.score = {.scale = 1.0, .t5 = t5}, .query_start = 1});
  t5.bidirectional = false;
  check("t5_decoder", {.score = {.scale = 1.0, .t5 = t5}, .query_start = 1});
}

TEST_F(ReferenceGolden, EverythingInItsOrder) {
  check("all",
        {.mask = Mask::causal(),
         .score = {.scale = 0.7,
                   .soft_cap = 0.9,
                   .bias = bias(),
                   .alibi_slopes = std::vector<float>{},
                   .t5 = T5Bias{.table = wave32(0.6, 8 * HQ), .buckets = 8, .max_distance = 6},
                   .sinks = wave32(0.5, HQ, 2)},
         .query_start = 1},
        "all_lse");
}

}  // namespace
}  // namespace attn
