// "Same bits": a row does not depend on threads, batch, query chunking, memory layout, row blocks
// or how its mask was written.
#include <gtest/gtest.h>

#include "attention/cases.h"

namespace attn::test {
namespace {

class Bits : public testing::TestWithParam<Case> {};

TEST_P(Bits, AnyThreadCount) {
  const Case& c = GetParam();
  for (const Isa isa : supported_isas()) {
    Problem<float> one(c.shape, 31, c.q_size), more = one;
    one.run(c.options, Context({.threads = 1, .isa = isa}));
    for (int threads : {2, 3, 8}) {
      more.clear();
      more.run(c.options, Context({.threads = threads, .isa = isa}));
      EXPECT_TRUE(same_bits(one.out, more.out)) << name(isa) << ", " << threads << " threads";
      EXPECT_TRUE(same_bits(one.lse, more.lse)) << name(isa) << ", " << threads << " threads";
    }
  }
}

TEST_P(Bits, AnyMemoryLayout) {
  const Case& c = GetParam();
  for (const Isa isa : supported_isas()) {
    Problem<float> contiguous(c.shape, 31, c.q_size), interleaved(c.shape, 31, c.q_size, true);
    const auto copy = [](const Tensor& from, const Tensor& to) {
      for (std::int64_t b = 0; b < from.batch(); ++b)
        for (std::int64_t h = 0; h < from.heads(); ++h)
          for (std::int64_t l = 0; l < from.length(); ++l)
            std::memcpy(to.row<float>(b, h, l), from.row<float>(b, h, l),
                        static_cast<std::size_t>(from.width()) * 4);
    };
    copy(contiguous.qt(), interleaved.qt());
    copy(contiguous.kt(), interleaved.kt());
    copy(contiguous.vt(), interleaved.vt());
    const Context context({.threads = 2, .isa = isa});
    contiguous.run(c.options, context);
    interleaved.run(c.options, context);
    Problem<float> back(c.shape, 31);
    copy(interleaved.ot(), back.ot());
    copy(interleaved.lt(), back.lt());
    EXPECT_TRUE(same_bits(contiguous.out, back.out)) << name(isa);
    EXPECT_TRUE(same_bits(contiguous.lse, back.lse)) << name(isa);
  }
}

// Queries in chunks of awkward sizes, each a call of its own. Predicates and custom scores read
// query indices, which a chunk counts anew: those cases are not in this suite.
class Chunks : public testing::TestWithParam<Case> {};

std::vector<Case> chunked_cases() {
  std::vector<Case> cases;
  for (const Case& c : standard_cases()) {
    const bool reads_indices = c.label == "predicate" || c.label == "custom";
    if (c.shape.q_len >= 3 && c.shape.batch > 0 && !reads_indices) cases.push_back(c);
  }
  return cases;
}

TEST_P(Chunks, SameBitsAsOneCall) {
  const Case& c = GetParam();
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> whole(c.shape, 31, c.q_size), chunked = whole;
    whole.run(c.options, context);
    std::int64_t begin = 0, size = 1;
    while (begin < c.shape.q_len) {
      const std::int64_t count = std::min(size, c.shape.q_len - begin);
      AttentionShape shape = whole.shape;
      shape.q_len = count;
      AttentionOptions options = c.options;
      if (options.q_positions.empty())
        options.query_start += begin;
      else
        options.q_positions.assign(c.options.q_positions.begin() + begin,
                                   c.options.q_positions.begin() + begin + count);
      const auto rows = [&](Tensor t) {
        t.data = t.row<float>(0, 0, begin);
        t.shape[2] = count;
        return t;
      };
      plan(shape, options, context)
          .run(rows(chunked.qt()), chunked.kt(), chunked.vt(), rows(chunked.ot()),
               {.lse = rows(chunked.lt())});
      begin += count;
      size = size * 3 + 1;
    }
    EXPECT_TRUE(same_bits(whole.out, chunked.out)) << name(isa);
    EXPECT_TRUE(same_bits(whole.lse, chunked.lse)) << name(isa);
  }
}

// The same set of visible pairs, as a dense mask.
TEST_P(Bits, MaskAsDenseCopy) {
  const Case& c = GetParam();
  const AttentionShape& s = c.shape;
  const Geometry geometry = geometry_of(s, c.options);
  std::vector<std::uint8_t> visible(
      static_cast<std::size_t>(s.batch * s.q_heads * s.q_len * s.k_len));
  std::size_t at = 0;
  for (std::int64_t b = 0; b < s.batch; ++b)
    for (std::int64_t h = 0; h < s.q_heads; ++h)
      for (std::int64_t q = 0; q < s.q_len; ++q)
        for (std::int64_t k = 0; k < s.k_len; ++k)
          visible[at++] = reference::visible(c.options.mask, geometry, b, h, q, k);
  AttentionOptions dense = c.options;
  dense.mask = Mask::dense(visible.data(), {s.batch, s.q_heads, s.q_len, s.k_len});
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> a(c.shape, 31, c.q_size), b = a;
    a.run(c.options, context);
    b.run(dense, context);
    EXPECT_TRUE(same_bits(a.out, b.out)) << name(isa);
    EXPECT_TRUE(same_bits(a.lse, b.lse)) << name(isa);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Bits, testing::ValuesIn(standard_cases()),
                         [](const auto& test) { return test.param.label; });

INSTANTIATE_TEST_SUITE_P(Cases, Chunks, testing::ValuesIn(chunked_cases()),
                         [](const auto& test) { return test.param.label; });

// One sequence alone and the same one inside a batch.
TEST(BitsOfBatch, AloneOrInABatch) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    const AttentionOptions options{.mask = Mask::causal(), .score = Score::alibi()};
    Problem<float> batch(make_shape(5, 6, 2, 1100, 1100, 40), 8);
    batch.run(options, context);
    Problem<float> alone(make_shape(1, 6, 2, 1100, 1100, 40), 8);
    const auto slice = [](std::vector<float>& to, const std::vector<float>& from,
                          std::size_t index) {
      std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(index * to.size()), to.size(),
                  to.begin());
    };
    for (std::size_t b : {0u, 3u}) {
      slice(alone.q, batch.q, b);
      slice(alone.k, batch.k, b);
      slice(alone.v, batch.v, b);
      alone.clear();
      alone.run(options, context);
      std::vector<float> expected(alone.out.size());
      slice(expected, batch.out, b);
      EXPECT_TRUE(same_bits(alone.out, expected)) << name(isa) << " sequence " << b;
    }
  }
}

// Grouped heads give the bits of repeated heads.
TEST(BitsOfGroups, GroupedEqualsRepeated) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    const AttentionOptions options{.mask = Mask::causal() & Mask::window(300, 0)};
    Problem<float> grouped(make_shape(2, 14, 2, 200, 200, 24), 8),
        repeated(make_shape(2, 14, 14, 200, 200, 24), 9);
    repeated.q = grouped.q;
    const auto repeat = [](const Tensor& from, const Tensor& to) {
      for (std::int64_t b = 0; b < to.batch(); ++b)
        for (std::int64_t h = 0; h < to.heads(); ++h)
          for (std::int64_t l = 0; l < to.length(); ++l)
            std::memcpy(to.row<float>(b, h, l), from.row<float>(b, h / 7, l),
                        static_cast<std::size_t>(to.width()) * 4);
    };
    repeat(grouped.kt(), repeated.kt());
    repeat(grouped.vt(), repeated.vt());
    grouped.run(options, context);
    repeated.run(options, context);
    EXPECT_TRUE(same_bits(grouped.out, repeated.out)) << name(isa);
    EXPECT_TRUE(same_bits(grouped.lse, repeated.lse)) << name(isa);
  }
}

}  // namespace
}  // namespace attn::test
