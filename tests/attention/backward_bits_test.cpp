// Gradients have the same bits whatever surrounds a sequence and however it is computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "attention/gradients.h"

namespace attn::test {
namespace {

class BackwardSameBits : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, BackwardSameBits, testing::ValuesIn(gradient_cases()),
                         [](const auto& test) { return test.param.label; });

Tensor rows_of(const Tensor& x, std::int64_t begin, std::int64_t count) {
  Tensor some = x;
  some.data = x.row<float>(0, 0, begin);
  some.shape[2] = count;
  return some;
}

TEST_P(BackwardSameBits, ForAnyThreadCount) {
  const Case& c = GetParam();
  std::vector<float> d = flowing_in<float>(c.shape);
  for (const Isa isa : supported_isas()) {
    Problem<float> p(c.shape, 31, c.q_size);
    const auto one = gradients_of(p, d, c.options, Context({.threads = 1, .isa = isa}));
    for (int threads : {2, 3, 8}) {
      EXPECT_TRUE(
          same_bits(one, gradients_of(p, d, c.options, Context({.threads = threads, .isa = isa}))))
          << name(isa) << ", " << threads << " threads";
    }
  }
}

// Chunks of queries, one after the other, add to dk and dv. Predicates and custom scores read query
// indices, which a chunk counts anew.
TEST_P(BackwardSameBits, InChunksOfQueries) {
  const Case& c = GetParam();
  const AttentionShape& s = c.shape;
  if (s.q_len < 3 || s.batch == 0 || c.label == "predicate" || c.label == "custom") return;
  std::vector<float> d = flowing_in<float>(s);
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> p(s, 31, c.q_size);
    const auto whole = gradients_of(p, d, c.options, context);
    Gradients<float> sum{std::vector<float>(p.q.size()), std::vector<float>(p.k.size()),
                         std::vector<float>(p.v.size())};
    std::int64_t begin = 0, size = 1;
    while (begin < s.q_len) {
      const std::int64_t count = std::min(size, s.q_len - begin);
      AttentionShape part = s;
      part.q_len = count;
      AttentionOptions options = c.options;
      if (options.q_positions.empty()) {
        options.query_start += begin;
      } else {
        const auto first = c.options.q_positions.begin() + begin;
        options.q_positions.assign(first, first + count);
      }
      const auto rows = [&](const Tensor& all) { return rows_of(all, begin, count); };
      const Plan made = plan(part, options, context);
      const Tensor out = rows(p.ot()), lse = rows(p.lt());
      made.run(rows(p.qt()), p.kt(), p.vt(), out, {.lse = lse});
      made.backward({rows(p.qt()), p.kt(), p.vt()}, {.out = out, .lse = lse},
                    {.out = rows(p.view(d, s.q_heads, s.q_len, s.v_width))},
                    {.q = rows(p.view(sum.q, s.q_heads, s.q_len, s.width)),
                     .k = p.view(sum.k, s.kv_heads, s.k_len, s.width),
                     .v = p.view(sum.v, s.kv_heads, s.k_len, s.v_width),
                     .accumulate = true});
      begin += count;
      size = size * 3 + 1;
    }
    EXPECT_TRUE(same_bits(whole, sum)) << name(isa);
  }
}

TEST_P(BackwardSameBits, InAnyMemoryLayout) {
  const Case& c = GetParam();
  Problem<float> p(c.shape, 31, c.q_size), other(c.shape, 31, c.q_size, true);
  std::vector<float> d = flowing_in<float>(c.shape), other_d(d.size());
  const AttentionShape& s = c.shape;
  const auto copy = [](const Tensor& from, const Tensor& to) {
    for (std::int64_t b = 0; b < from.batch(); ++b)
      for (std::int64_t h = 0; h < from.heads(); ++h)
        for (std::int64_t l = 0; l < from.length(); ++l)
          std::copy_n(from.row<float>(b, h, l), from.width(), to.row<float>(b, h, l));
  };
  copy(p.qt(), other.qt());
  copy(p.kt(), other.kt());
  copy(p.vt(), other.vt());
  copy(p.view(d, s.q_heads, s.q_len, s.v_width),
       other.view(other_d, s.q_heads, s.q_len, s.v_width));
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    const auto a = gradients_of(p, d, c.options, context);
    auto b = gradients_of(other, other_d, c.options, context);
    Gradients<float> back = a;
    copy(other.view(b.q, s.q_heads, s.q_len, s.width), p.view(back.q, s.q_heads, s.q_len, s.width));
    copy(other.view(b.k, s.kv_heads, s.k_len, s.width),
         p.view(back.k, s.kv_heads, s.k_len, s.width));
    copy(other.view(b.v, s.kv_heads, s.k_len, s.v_width),
         p.view(back.v, s.kv_heads, s.k_len, s.v_width));
    EXPECT_TRUE(same_bits(a, back)) << name(isa);
  }
}

TEST(BackwardBits, AloneOrInABatch) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 3, .isa = isa});
    const AttentionOptions options{.mask = Mask::causal(), .score = Score::alibi()};
    const AttentionShape s = make_shape(3, 4, 2, 270, 270, 24);
    Problem<float> all(s, 3);
    std::vector<float> d = flowing_in<float>(s);
    const auto together = gradients_of(all, d, options, context);
    AttentionShape single = s;
    single.batch = 1;
    for (std::size_t b = 0; b < 3; ++b) {
      Problem<float> one(single, 3);
      const auto cut = [b](const std::vector<float>& x) {
        const auto n = static_cast<std::ptrdiff_t>(x.size() / 3);
        return std::vector<float>(x.begin() + static_cast<std::ptrdiff_t>(b) * n,
                                  x.begin() + static_cast<std::ptrdiff_t>(b + 1) * n);
      };
      one.q = cut(all.q);
      one.k = cut(all.k);
      one.v = cut(all.v);
      std::vector<float> d_one = cut(d);
      const auto alone = gradients_of(one, d_one, options, context);
      EXPECT_TRUE(same_bits(alone.q, cut(together.q))) << name(isa);
      EXPECT_TRUE(same_bits(alone.k, cut(together.k))) << name(isa);
      EXPECT_TRUE(same_bits(alone.v, cut(together.v))) << name(isa);
    }
  }
}

// A mask is the pairs that it shows, however it is written.
TEST(BackwardBits, CausalIsItsDenseCopy) {
  const AttentionShape s = make_shape(1, 4, 2, 300, 700, 20);
  std::vector<std::uint8_t> dense(300 * 700);
  for (std::size_t i = 0; i < 300; ++i)
    for (std::size_t j = 0; j < 700; ++j) dense[i * 700 + j] = j <= i + 400;
  std::vector<float> d = flowing_in<float>(s);
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> p(s, 3);
    EXPECT_TRUE(same_bits(
        gradients_of(p, d, {.mask = Mask::causal(), .query_start = 400}, context),
        gradients_of(p, d, {.mask = Mask::dense(dense.data(), {1, 1, 300, 700})}, context)))
        << name(isa);
  }
}

TEST(BackwardBits, RaggedIsSeparate) {
  AttentionOptions options{
      .mask = Mask::causal(),
      .ragged = {.q_offsets = {0, 150, 150, 190, 500}, .k_offsets = {0, 150, 170, 600, 910}},
      .dropout = {.p = 0.2, .seed = 4, .streams = {5, 1, 2, 9}}};
  const AttentionShape s = make_shape(1, 4, 2, 500, 910, 16);
  Problem<float> all(s, 3);
  std::vector<float> d = flowing_in<float>(s);
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 3, .isa = isa});
    auto together = gradients_of(all, d, options, context);
    for (std::size_t n = 0; n < 4; ++n) {
      const Ragged& r = options.ragged;
      const std::int64_t q0 = r.q_offsets[n], ql = r.q_offsets[n + 1] - q0, k0 = r.k_offsets[n],
                         kl = r.k_offsets[n + 1] - k0;
      Gradients<float> g{std::vector<float>(all.q.size()), std::vector<float>(all.k.size()),
                         std::vector<float>(all.v.size())};
      AttentionShape part = s;
      part.q_len = ql;
      part.k_len = kl;
      const Plan made =
          plan(part,
               {.mask = Mask::causal(),
                .dropout = {.p = 0.2, .seed = 4, .streams = {options.dropout.streams[n]}}},
               context);
      const Tensor out = rows_of(all.ot(), q0, ql), lse = rows_of(all.lt(), q0, ql);
      const ConstTensor q = rows_of(all.qt(), q0, ql), k = rows_of(all.kt(), k0, kl),
                        v = rows_of(all.vt(), k0, kl);
      made.run(q, k, v, out, {.lse = lse});
      const Tensor dq = all.view(g.q, 4, 500, 16), dk = all.view(g.k, 2, 910, 16),
                   dv = all.view(g.v, 2, 910, 16);
      made.backward({q, k, v}, {.out = out, .lse = lse},
                    {.out = rows_of(all.view(d, 4, 500, 16), q0, ql)},
                    {.q = rows_of(dq, q0, ql), .k = rows_of(dk, k0, kl), .v = rows_of(dv, k0, kl)});
      const auto same = [](const Tensor& a, const Tensor& b, std::int64_t begin,
                           std::int64_t count) {
        for (std::int64_t h = 0; h < a.heads(); ++h) {
          for (std::int64_t l = begin; l < begin + count; ++l) {
            if (!std::equal(a.row<float>(0, h, l), a.row<float>(0, h, l) + a.width(),
                            b.row<float>(0, h, l)))
              return false;
          }
        }
        return true;
      };
      EXPECT_TRUE(same(dq, all.view(together.q, 4, 500, 16), q0, ql)) << name(isa) << " " << n;
      EXPECT_TRUE(same(dk, all.view(together.k, 2, 910, 16), k0, kl)) << name(isa) << " " << n;
      EXPECT_TRUE(same(dv, all.view(together.v, 2, 910, 16), k0, kl)) << name(isa) << " " << n;
    }
  }
}

}  // namespace
}  // namespace attn::test
