// NaN and infinity in places that a row may not see change no bit of it; where it sees one it is
// not finite, and no other row changes.
#include <gtest/gtest.h>

#include <limits>

#include "attention/cases.h"

namespace attn::test {
namespace {

const float kBad[] = {std::numeric_limits<float>::quiet_NaN(),
                      std::numeric_limits<float>::infinity(),
                      -std::numeric_limits<float>::infinity()};

std::vector<Case> masked_cases() {
  std::vector<Case> masked;
  for (const Case& c : standard_cases()) {
    if (c.shape.q_len >= 20 && c.shape.k_len >= 20 && c.shape.width <= 64) masked.push_back(c);
  }
  return masked;
}

class Poison : public testing::TestWithParam<Case> {};

// Rows that do not see the poisoned key keep their bits; rows that do follow the oracle.
TEST_P(Poison, OneKeyOrValue) {
  const Case& c = GetParam();
  const AttentionShape& s = c.shape;
  const Geometry geometry = geometry_of(s, c.options);
  Random random(77);
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> clean(s, 5, c.q_size);
    clean.run(c.options, context);
    for (int trial = 0; trial < 6; ++trial) {
      Problem<float> bad = clean;
      bad.clear();
      const std::int64_t b = random.below(s.batch), h = random.below(s.kv_heads),
                         key = random.below(s.k_len);
      const bool in_key = trial % 2 == 0;
      const float poison = kBad[trial / 2];
      const Tensor where = in_key ? bad.kt() : bad.vt();
      where.row<float>(b, h, key)[random.below(where.width())] = poison;
      bad.run(c.options, context);
      // What an infinity makes of a row that sees it depends on its sign and place.
      const bool is_nan = poison != poison;
      Problem<double> oracle = in_double(bad);
      if (is_nan) oracle.run_reference(c.options);
      const std::int64_t group = s.q_heads / s.kv_heads;
      for (std::int64_t bb = 0; bb < s.batch; ++bb) {
        for (std::int64_t hh = 0; hh < s.q_heads; ++hh) {
          for (std::int64_t q = 0; q < s.q_len; ++q) {
            const float* before = clean.ot().row<float>(bb, hh, q);
            const float* after = bad.ot().row<float>(bb, hh, q);
            const double* truth = oracle.ot().row<double>(bb, hh, q);
            const bool sees = bb == b && hh / group == h &&
                              reference::visible(c.options.mask, geometry, bb, hh, q, key);
            for (std::int64_t d = 0; d < s.v_width; ++d) {
              if (!sees) {
                ASSERT_EQ(before[d], after[d])
                    << name(isa) << " q " << q << " key " << key << " trial " << trial;
              } else if (is_nan) {
                ASSERT_EQ(std::isfinite(truth[d]), std::isfinite(after[d]))
                    << name(isa) << " q " << q << " trial " << trial;
              }
            }
          }
        }
      }
    }
  }
}

// A non-finite query spoils its own row alone.
TEST_P(Poison, OneQuery) {
  const Case& c = GetParam();
  const AttentionShape& s = c.shape;
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> clean(s, 5, c.q_size), bad = clean;
    clean.run(c.options, context);
    const std::int64_t q = s.q_len / 2;
    bad.qt().row<float>(0, 0, q)[s.width / 2] = kBad[0];
    bad.run(c.options, context);
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t h = 0; h < s.q_heads; ++h) {
        for (std::int64_t l = 0; l < s.q_len; ++l) {
          if (b == 0 && h == 0 && l == q) continue;
          ASSERT_EQ(std::memcmp(clean.ot().row<float>(b, h, l), bad.ot().row<float>(b, h, l),
                                static_cast<std::size_t>(s.v_width) * 4),
                    0)
              << name(isa) << " row " << l;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Poison, testing::ValuesIn(masked_cases()),
                         [](const auto& test) { return test.param.label; });

// Everything that padding hides, in keys, values and bias at once.
TEST(PoisonOfPadding, EveryHiddenPlace) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> clean(make_shape(2, 4, 2, 130, 333, 24), 5), bad = clean;
    std::vector<float> bias(2 * 333, 0.25f), bad_bias = bias;
    const std::int64_t lengths[] = {201, 0};
    const auto options = [](std::vector<float>& values) {
      return AttentionOptions{.mask = Mask::padding({201, 0}),
                              .score = {.bias = ConstTensor(values.data(), Shape{2, 1, 1, 333})}};
    };
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t j = lengths[b]; j < 333; ++j) {
        const float poison = kBad[j % 3];
        bad_bias[static_cast<std::size_t>(b * 333 + j)] = poison == kBad[2] ? kBad[0] : poison;
        for (std::int64_t h = 0; h < 2; ++h) {
          std::fill_n(bad.kt().row<float>(b, h, j), 24, poison);
          std::fill_n(bad.vt().row<float>(b, h, j), 24, poison);
        }
      }
    }
    clean.run(options(bias), context);
    bad.run(options(bad_bias), context);
    EXPECT_TRUE(same_bits(clean.out, bad.out)) << name(isa);
    EXPECT_TRUE(same_bits(clean.lse, bad.lse)) << name(isa);
    for (std::size_t i = clean.out.size() / 2; i < clean.out.size(); ++i)
      ASSERT_EQ(bad.out[i], 0.0f);
    for (std::size_t i = clean.lse.size() / 2; i < clean.lse.size(); ++i)
      ASSERT_EQ(bad.lse[i], -INFINITY);
  }
}

// A visible key whose score is -infinity weighs 0, and its value still counts: 0 * NaN is NaN, in
// the oracle as in the kernel.
TEST(PoisonOfKeys, VisibleAndMinusInfinite) {
  for (const Isa isa : supported_isas()) {
    for (const bool poisoned : {false, true}) {
      Problem<float> p(make_shape(1, 1, 1, 3, 50, 8), 5);
      for (float& x : p.q) x = std::abs(x) + 1;
      std::fill_n(p.kt().row<float>(0, 0, 7), 8, kBad[2]);
      if (poisoned) p.vt().row<float>(0, 0, 7)[2] = kBad[0];
      Problem<double> oracle = in_double(p);
      oracle.run_reference({});
      p.run({}, Context({.threads = 1, .isa = isa}));
      for (std::size_t i = 0; i < p.out.size(); ++i) {
        EXPECT_EQ(std::isfinite(p.out[i]), std::isfinite(oracle.out[i])) << name(isa) << " " << i;
        EXPECT_EQ(std::isfinite(p.out[i]), !poisoned || i % 8 != 2);
      }
    }
  }
}

// A bias of -infinity hides as the mask does: poison behind it stays there.
TEST(PoisonOfBias, MinusInfinityHides) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 1, .isa = isa});
    Problem<float> clean(make_shape(1, 2, 2, 40, 200, 16), 5), bad = clean, masked = clean;
    std::vector<float> bias(200, 0.0f);
    std::vector<std::uint8_t> visible(200, 1);
    for (std::size_t j = 0; j < 200; j += 3) {
      bias[j] = -INFINITY;
      visible[j] = 0;
      for (std::int64_t h = 0; h < 2; ++h) {
        bad.kt().row<float>(0, h, static_cast<std::int64_t>(j))[3] = kBad[j % 3];
        bad.vt().row<float>(0, h, static_cast<std::int64_t>(j))[5] = kBad[(j + 1) % 3];
      }
    }
    const AttentionOptions options{
        .score = {.bias = ConstTensor(bias.data(), Shape{1, 1, 1, 200})}};
    clean.run(options, context);
    bad.run(options, context);
    masked.run({.mask = Mask::dense(visible.data(), {1, 1, 1, 200})}, context);
    EXPECT_TRUE(same_bits(clean.out, bad.out)) << name(isa);
    EXPECT_TRUE(same_bits(clean.out, masked.out)) << name(isa);
  }
}

}  // namespace
}  // namespace attn::test
