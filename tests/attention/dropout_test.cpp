// Dropout: the pairs of the definition, whatever the threads, chunks, batch and instruction set.
#include <gtest/gtest.h>

#include "attention/bound.h"
#include "attention/cases.h"
#include "base/random.h"

namespace attn::test {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::vector<Case> cases() {
  const Dropout half = {.p = 0.5, .seed = 0x123456789abcdef0, .offset = 9};
  std::vector<Case> all;
  const auto add = [&](std::string label, AttentionShape shape, AttentionOptions options) {
    if (options.dropout.p == 0) options.dropout = half;
    all.push_back({std::move(label), shape, std::move(options)});
  };
  add("full", make_shape(2, 4, 2, 60, 131, 16), {});
  add("causal", make_shape(2, 2, 2, 150, 150, 20, 33), {.mask = Mask::causal()});
  add("decode", make_shape(2, 8, 2, 1, 1300, 64), {.query_start = 1299});
  add("chunk", make_shape(1, 7, 1, 3, 1030, 8), {.mask = Mask::causal(), .query_start = 1027});
  add("window", make_shape(1, 2, 1, 90, 400, 16),
      {.mask = Mask::window(33, 5), .score = Score::alibi(), .query_start = 300});
  add("sinks", make_shape(1, 2, 2, 20, 30, 16), {.score = {.sinks = {0.5f, 2}}});
  add("little", make_shape(1, 2, 2, 40, 100, 16), {.dropout = {.p = 0.001, .seed = 5}});
  add("most", make_shape(1, 2, 2, 40, 100, 16), {.dropout = {.p = 0.97, .seed = 5}});
  add("streams", make_shape(3, 2, 2, 20, 40, 16),
      {.dropout = {.p = 0.2, .seed = 5, .offset = 0xfffffffe, .streams = {3, 0, 0xffffffff}}});
  add("one_key", make_shape(1, 64, 64, 1, 1, 1), {});
  return all;
}

class DropoutCases : public testing::TestWithParam<Case> {};

TEST_P(DropoutCases, AgreesWithTheOracle) {
  const Case& c = GetParam();
  Problem<float> p(c.shape, 19);
  Problem<double> oracle = in_double(p);
  oracle.run_reference(c.options);
  // Weights grow by the scale of dropout.
  const double bound = Bound(p.shape, p.q, p.k, p.v).out * DropoutRule(c.options.dropout).scale();
  for (const Isa isa : supported_isas()) {
    p.clear();
    p.run(c.options, Context({.threads = 2, .isa = isa}));
    for (std::size_t i = 0; i < p.out.size(); ++i) {
      ASSERT_TRUE(std::abs(p.out[i] - oracle.out[i]) <= bound)
          << name(isa) << " element " << i << ": " << p.out[i] << ", oracle " << oracle.out[i];
    }
    // The log-sum-exp is before dropout.
    AttentionOptions without = c.options;
    without.dropout = {};
    Problem<float> kept = p;
    kept.run(without, Context({.threads = 2, .isa = isa}));
    EXPECT_TRUE(same_bits(p.lse, kept.lse)) << name(isa);
    // float64: the same bound with its own epsilon.
    Problem<double> wide = oracle;
    wide.run(c.options, Context({.threads = 2, .isa = isa}));
    const double ratio = std::numeric_limits<double>::epsilon() / 2 / Bound::kEpsilon;
    for (std::size_t i = 0; i < wide.out.size(); ++i) {
      ASSERT_TRUE(std::abs(wide.out[i] - oracle.out[i]) <= bound * ratio)
          << name(isa) << " float64 element " << i;
    }
  }
}

TEST_P(DropoutCases, SameBitsForThreadsChunksAndBatch) {
  const Case& c = GetParam();
  for (const Isa isa : supported_isas()) {
    Problem<float> one(c.shape, 19), other = one;
    one.run(c.options, Context({.threads = 1, .isa = isa}));
    const Context three({.threads = 3, .isa = isa});
    other.run(c.options, three);
    EXPECT_TRUE(same_bits(one.out, other.out)) << name(isa) << " threads";
    // Each batch entry alone, its queries in chunks of 7.
    other.clear();
    const AttentionShape& s = c.shape;
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t begin = 0; begin < s.q_len; begin += 7) {
        const std::int64_t count = std::min<std::int64_t>(7, s.q_len - begin);
        const auto cut = [b](Tensor x, std::int64_t from, std::int64_t length) {
          x.data = x.row<float>(b, 0, from);
          x.shape[0] = 1;
          x.shape[2] = length;
          return x;
        };
        AttentionOptions options = c.options;
        options.query_start += begin;
        options.dropout.streams = {options.dropout.streams.empty()
                                       ? static_cast<std::uint32_t>(b)
                                       : options.dropout.streams[at(b)]};
        AttentionShape shape = s;
        shape.batch = 1;
        shape.q_len = count;
        plan(shape, options, three)
            .run(cut(other.qt(), begin, count), cut(other.kt(), 0, s.k_len),
                 cut(other.vt(), 0, s.k_len), cut(other.ot(), begin, count));
      }
    }
    EXPECT_TRUE(same_bits(one.out, other.out)) << name(isa) << " chunks";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, DropoutCases, testing::ValuesIn(cases()),
                         [](const auto& c) { return c.param.label; });

TEST(NoDropout, ChangesNoBit) {
  Problem<float> p(make_shape(1, 2, 2, 40, 100, 16), 3), other = p;
  const Context context({.threads = 1});
  p.run({}, context);
  other.run({.dropout = {.p = 0, .seed = 77, .offset = 5}}, context);
  EXPECT_TRUE(same_bits(p.out, other.out));
}

// What the mask hides stays hidden; a dropped pair is seen, though it weighs nothing.
TEST(DropoutPoison, HiddenPairsStayHidden) {
  const AttentionOptions options = {.mask = Mask::causal(), .dropout = {.p = 0.5, .seed = 3}};
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 1, .isa = isa});
    Problem<float> clean(make_shape(1, 2, 2, 70, 70, 16), 3), bad = clean;
    clean.run(options, context);
    for (std::size_t h = 0; h < 2; ++h) {
      for (std::size_t i = 0; i < 16; ++i)
        bad.k[(h * 70 + 60) * 16 + i] = bad.v[(h * 70 + 60) * 16 + i] = NAN;
    }
    bad.run(options, context);
    for (std::size_t h = 0; h < 2; ++h) {
      for (std::size_t i = 0; i < 60 * 16; ++i) {
        ASSERT_EQ(bad.out[h * 70 * 16 + i], clean.out[h * 70 * 16 + i]) << name(isa) << " " << i;
      }
      // Rows that see the key are not finite, as in the oracle.
      for (std::size_t i = 60 * 16; i < 70 * 16; ++i) {
        ASSERT_FALSE(std::isfinite(bad.out[h * 70 * 16 + i])) << name(isa) << " " << i;
      }
    }
  }
}

}  // namespace
}  // namespace attn::test
