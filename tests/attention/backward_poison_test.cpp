// NaN and infinity reach no gradient but of what sees them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attention/gradients.h"

namespace attn::test {
namespace {

class BackwardPoisonOfCases : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, BackwardPoisonOfCases, testing::ValuesIn(gradient_cases()),
                         [](const auto& test) { return test.param.label; });

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Gradients<double> truth_of(const Problem<float>& p, const std::vector<float>& d,
                           const AttentionOptions& options) {
  Problem<double> twice = in_double(p);
  std::vector<double> d64(d.begin(), d.end());
  return oracle_gradients(twice, d64, options);
}

// What the oracle says does not change, changes no bit; where its gradient is not finite ours is
// not.
void expect_poison_alone(const Gradients<double>& was, const Gradients<double>& is,
                         const Gradients<float>& before, const Gradients<float>& after) {
  const auto compare = [](const std::vector<double>& old_truth, const std::vector<double>& truth,
                          const std::vector<float>& a, const std::vector<float>& b,
                          const char* what) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (!std::isfinite(truth[i])) {
        ASSERT_FALSE(std::isfinite(b[i])) << what << " " << i;
      } else if (truth[i] == old_truth[i]) {
        ASSERT_EQ(a[i], b[i]) << what << " " << i;
      }
    }
  };
  compare(was.q, is.q, before.q, after.q, "dq");
  compare(was.k, is.k, before.k, after.k, "dk");
  compare(was.v, is.v, before.v, after.v, "dv");
}

TEST_P(BackwardPoisonOfCases, StaysWhereItIsSeen) {
  const Case& c = GetParam();
  const AttentionShape& s = c.shape;
  if (s.q_len < 20 || s.k_len < 20 || s.width > 64 || s.k_len > 300) return;
  Random random(78);
  std::vector<float> d = flowing_in<float>(s);
  Problem<float> clean(s, 5, c.q_size);
  const Gradients<double> truth = truth_of(clean, d, c.options);
  for (int trial = 0; trial < 4; ++trial) {
    Problem<float> bad = clean;
    std::vector<float> bad_d = d;
    std::vector<float>* parts[] = {&bad.k, &bad.v, &bad.q, &bad_d};
    std::vector<float>& part = *parts[trial % 4];
    part[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(part.size())))] = kNan;
    const Gradients<double> bad_truth = truth_of(bad, bad_d, c.options);
    for (const Isa isa : supported_isas()) {
      SCOPED_TRACE(std::string(name(isa)) + ", trial " + std::to_string(trial));
      const Context context({.threads = 2, .isa = isa});
      const auto before = gradients_of(clean, d, c.options, context);
      const auto after = gradients_of(bad, bad_d, c.options, context);
      expect_poison_alone(truth, bad_truth, before, after);
    }
  }
}

// Keys are worked on in strips, and a document may end inside of one: its rows see the strip's
// first keys all alike and the others not at all.
TEST(BackwardPoison, StopsInsideAStripOfKeys) {
  const AttentionShape s = make_shape(1, 2, 1, 256, 256, 8);
  const AttentionOptions options{.mask = Mask::documents({64, 128, 64})};
  const std::vector<float> d = flowing_in<float>(s);
  const Problem<float> clean(s, 5);
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> p = clean;
    std::vector<float> flowing = d;
    const auto before = gradients_of(p, flowing, options, context);
    for (const std::size_t row : {0, 63, 64, 191, 192, 255}) {
      for (const bool in_q : {false, true}) {
        p = clean;
        flowing = d;
        (in_q ? p.q : flowing)[row * 8 + 3] = kNan;
        const auto after = gradients_of(p, flowing, options, context);
        const std::size_t begin = row < 64    ? 0
                                  : row < 192 ? 64
                                              : 192,
                          end = row < 64    ? 64
                                : row < 192 ? 192
                                            : 256;
        for (std::size_t key = 0; key < 256; ++key) {
          if (key >= begin && key < end) continue;
          for (std::size_t i = key * 8; i < key * 8 + 8; ++i) {
            ASSERT_EQ(after.k[i], before.k[i]) << name(isa) << " row " << row << " key " << key;
            ASSERT_EQ(after.v[i], before.v[i]) << name(isa) << " row " << row << " key " << key;
          }
        }
      }
    }
  }
}

// Everything that padding hides, in keys, values and bias at once.
TEST(BackwardPoison, EveryPaddedPlace) {
  const AttentionShape s = make_shape(2, 4, 2, 130, 333, 24);
  const std::int64_t lengths[] = {201, 0};
  std::vector<float> d = flowing_in<float>(s);
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> clean(s, 5), bad = clean;
    std::vector<float> bias(2 * 333, 0.25f), bad_bias = bias, d_bias(bias), bad_d_bias(bias);
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t j = lengths[b]; j < 333; ++j) {
        const float poison = j % 2 == 0 ? kNan : std::numeric_limits<float>::infinity();
        bad_bias[static_cast<std::size_t>(b * 333 + j)] = poison;
        for (std::int64_t h = 0; h < 2; ++h) {
          std::fill_n(bad.kt().row<float>(b, h, j), 24, poison);
          std::fill_n(bad.vt().row<float>(b, h, j), 24, poison);
        }
      }
    }
    const Shape shape{2, 1, 1, 333};
    const auto run = [&](Problem<float>& p, std::vector<float>& values, std::vector<float>& sums) {
      return gradients_of(
          p, d,
          {.mask = Mask::padding({201, 0}),
           .score = {.bias = ConstTensor(values.data(), shape), .sinks = {1, 0, 2, 3}}},
          context, {.bias = Tensor(sums.data(), shape)});
    };
    EXPECT_TRUE(same_bits(run(clean, bias, d_bias), run(bad, bad_bias, bad_d_bias))) << name(isa);
    EXPECT_TRUE(same_bits(d_bias, bad_d_bias)) << name(isa);
    for (std::size_t j = 201; j < d_bias.size(); ++j) ASSERT_EQ(d_bias[j], 0.0f) << j;
  }
}

// A dropped pair weighs 0, and 0 * NaN is NaN.
TEST(BackwardPoison, IsSeenThroughDropout) {
  const AttentionShape s = make_shape(1, 2, 1, 40, 70, 8);
  const AttentionOptions options{
      .mask = Mask::causal(), .query_start = 20, .dropout = {.p = 0.5, .seed = 3}};
  const std::vector<float> d = flowing_in<float>(s);
  const Problem<float> clean(s, 5);
  const auto was = truth_of(clean, d, options);
  for (int part = 0; part < 4; ++part) {
    Problem<float> bad = clean;
    std::vector<float> bad_d = d;
    std::vector<float>* parts[] = {&bad.q, &bad.k, &bad.v, &bad_d};
    (*parts[part])[17 * 8 + 2] = kNan;
    const auto is = truth_of(bad, bad_d, options);
    for (const Isa isa : supported_isas()) {
      const Context context({.threads = 2, .isa = isa});
      Problem<float> good = clean;
      std::vector<float> good_d = d;
      const auto before = gradients_of(good, good_d, options, context),
                 after = gradients_of(bad, bad_d, options, context);
      SCOPED_TRACE(std::string(name(isa)) + ", part " + std::to_string(part));
      expect_poison_alone(was, is, before, after);
    }
  }
}

}  // namespace
}  // namespace attn::test
