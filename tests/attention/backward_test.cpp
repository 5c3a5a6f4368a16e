// Gradients of plans: agreement with the oracle, the same bits, poison, shared sums, work, memory.
// Finite differences are in finite_difference_test.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "attention/bound.h"
#include "attention/gradients.h"

namespace attn::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Backward : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, Backward, testing::ValuesIn(gradient_cases()),
                         [](const auto& test) { return test.param.label; });

// Worst case of each element, from the oracle's probabilities: those are off by a relative error e,
// and so are sums of n terms by n roundings; magnitudes are sums of absolute values.
// What is below the smallest normal number is zero: `least` stands for sums of such terms.
struct GradientBound {
  std::vector<double> q, k, v;

  GradientBound(Problem<double>& p, std::vector<double>& d_out, const AttentionOptions& options,
                double epsilon, double least)
      : q(p.q.size(), least), k(p.k.size(), least), v(p.v.size(), least) {
    const AttentionShape& s = p.shape;
    const Score& score = options.score;
    std::vector<double> weights(static_cast<std::size_t>(s.batch * s.q_heads * s.q_len * s.k_len));
    const Tensor w(weights.data(), {s.batch, s.q_heads, s.q_len, s.k_len});
    reference::weights(p.qt(), p.kt(), options, w);
    p.run_reference(options);
    const Tensor d = p.view(d_out, s.q_heads, s.q_len, s.v_width);
    const double scale =
        std::abs(score.scale.value_or(1 / std::sqrt(static_cast<double>(s.width))));
    double logit = 0;
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t h = 0; h < s.q_heads; ++h) {
        for (std::int64_t i = 0; i < s.q_len; ++i) {
          for (std::int64_t j = 0; j < s.k_len; ++j) {
            logit = std::max(logit, scale * sum(p.qt().row<double>(b, h, i),
                                                p.kt().row<double>(b, kv(s, h), j), s.width));
          }
        }
      }
    }
    // Biases of these cases are below 500 in size: slopes of at most 1 at 300 tokens, tables of 5.
    const auto terms = static_cast<double>(s.width + s.v_width + s.k_len + s.q_len * s.q_heads);
    const double relative =
        epsilon * (2 * static_cast<double>(s.width + 16) * logit + 4 * 500 + 4 * terms + 64);
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t h = 0; h < s.q_heads; ++h) {
        for (std::int64_t i = 0; i < s.q_len; ++i) {
          const double* di = d.row<double>(b, h, i);
          const double mean = sum(di, p.ot().row<double>(b, h, i), s.v_width);
          for (std::int64_t j = 0; j < s.k_len; ++j) {
            const double weight = w.row<double>(b, h, i)[j] * relative;
            const double ds =
                weight * (sum(di, p.vt().row<double>(b, kv(s, h), j), s.v_width) + mean) * scale;
            add(p.view(v, s.kv_heads, s.k_len, s.v_width).row<double>(b, kv(s, h), j), weight, di,
                s.v_width);
            add(p.view(k, s.kv_heads, s.k_len, s.width).row<double>(b, kv(s, h), j), ds,
                p.qt().row<double>(b, h, i), s.width);
            add(p.view(q, s.q_heads, s.q_len, s.width).row<double>(b, h, i), ds,
                p.kt().row<double>(b, kv(s, h), j), s.width);
          }
        }
      }
    }
  }

 private:
  static std::int64_t kv(const AttentionShape& s, std::int64_t h) {
    return h / (s.q_heads / s.kv_heads);
  }
  static double sum(const double* a, const double* b, std::int64_t n) {
    double total = 0;
    for (std::int64_t i = 0; i < n; ++i) total += std::abs(a[i] * b[i]);
    return total;
  }
  static void add(double* to, double x, const double* y, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) to[i] += std::abs(x * y[i]);
  }
};

template <class T>
void expect_near(const std::vector<T>& found, const std::vector<double>& expected,
                 const std::vector<double>& bound, const char* what) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double error = std::abs(static_cast<double>(found[i]) - expected[i]);
    ASSERT_TRUE(error <= bound[i]) << what << " " << i << ": " << found[i] << " for " << expected[i]
                                   << ", may be off by " << bound[i];
  }
}

template <class T>
void expect_agreement(const Case& c) {
  Problem<float> p32(c.shape, 17, c.q_size);
  Problem<double> oracle = in_double(p32);
  std::vector<double> d = flowing_in<double>(c.shape);
  const Gradients<double> expected = oracle_gradients(oracle, d, c.options);
  const GradientBound bound(oracle, d, c.options, std::numeric_limits<T>::epsilon(),
                            1e6 * static_cast<double>(std::numeric_limits<T>::min()));
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    Problem<T> p(c.shape, 17);
    p.q.assign(p32.q.begin(), p32.q.end());
    p.k.assign(p32.k.begin(), p32.k.end());
    p.v.assign(p32.v.begin(), p32.v.end());
    std::vector<T> d_out = flowing_in<T>(c.shape);
    const Gradients<T> g = gradients_of(p, d_out, c.options, Context({.threads = 2, .isa = isa}));
    expect_near(g.q, expected.q, bound.q, "dq");
    expect_near(g.k, expected.k, bound.k, "dk");
    expect_near(g.v, expected.v, bound.v, "dv");
  }
}

TEST_P(Backward, AgreesWithTheOracle) { expect_agreement<float>(GetParam()); }
TEST_P(Backward, AgreesInFloat64) { expect_agreement<double>(GetParam()); }

TEST_P(Backward, SameBitsForAnyThreadCount) {
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
TEST_P(Backward, SameBitsInChunksOfQueries) {
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
      const auto rows = [&](const Tensor& all) {
        Tensor some = all;
        some.data = all.row<float>(0, 0, begin);
        some.shape[2] = count;
        return some;
      };
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

TEST_P(Backward, SameBitsInAnyMemoryLayout) {
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

// What the oracle says does not change, changes no bit; where its gradient is NaN ours is.
TEST_P(Backward, PoisonStaysWhereItIsSeen) {
  const Case& c = GetParam();
  const AttentionShape& s = c.shape;
  if (s.q_len < 20 || s.k_len < 20 || s.width > 64 || s.k_len > 300) return;
  Random random(78);
  std::vector<float> d = flowing_in<float>(s);
  Problem<float> clean(s, 5, c.q_size);
  const auto oracle = [&](Problem<float>& p, const std::vector<float>& flowing) {
    Problem<double> twice = in_double(p);
    std::vector<double> d64(flowing.begin(), flowing.end());
    return oracle_gradients(twice, d64, c.options);
  };
  const Gradients<double> truth = oracle(clean, d);
  for (int trial = 0; trial < 4; ++trial) {
    Problem<float> bad = clean;
    std::vector<float> bad_d = d;
    std::vector<float>* parts[] = {&bad.k, &bad.v, &bad.q, &bad_d};
    std::vector<float>& part = *parts[trial % 4];
    part[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(part.size())))] = kNan;
    const Gradients<double> bad_truth = oracle(bad, bad_d);
    for (const Isa isa : supported_isas()) {
      SCOPED_TRACE(std::string(name(isa)) + ", trial " + std::to_string(trial));
      const Context context({.threads = 2, .isa = isa});
      const auto before = gradients_of(clean, d, c.options, context);
      const auto after = gradients_of(bad, bad_d, c.options, context);
      const auto compare = [](const std::vector<double>& was, const std::vector<double>& is,
                              const std::vector<float>& a, const std::vector<float>& b,
                              const char* what) {
        for (std::size_t i = 0; i < a.size(); ++i) {
          if (std::isnan(is[i])) {
            ASSERT_FALSE(std::isfinite(b[i])) << what << " " << i;
          } else if (was[i] == is[i]) {
            ASSERT_EQ(a[i], b[i]) << what << " " << i;
          }
        }
      };
      compare(truth.q, bad_truth.q, before.q, after.q, "dq");
      compare(truth.k, bad_truth.k, before.k, after.k, "dk");
      compare(truth.v, bad_truth.v, before.v, after.v, "dv");
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

// A dropped pair weighs 0, and 0 * NaN is NaN: where the oracle's gradient is not finite, ours is
// not, and no other moves.
TEST(BackwardPoison, IsSeenThroughDropout) {
  const AttentionShape s = make_shape(1, 2, 1, 40, 70, 8);
  const AttentionOptions options{
      .mask = Mask::causal(), .query_start = 20, .dropout = {.p = 0.5, .seed = 3}};
  const std::vector<float> d = flowing_in<float>(s);
  const Problem<float> clean(s, 5);
  const auto truth_of = [&](const Problem<float>& p, const std::vector<float>& flowing) {
    Problem<double> twice = in_double(p);
    std::vector<double> d64(flowing.begin(), flowing.end());
    return oracle_gradients(twice, d64, options);
  };
  const auto was = truth_of(clean, d);
  for (int part = 0; part < 4; ++part) {
    Problem<float> bad = clean;
    std::vector<float> bad_d = d;
    std::vector<float>* parts[] = {&bad.q, &bad.k, &bad.v, &bad_d};
    (*parts[part])[17 * 8 + 2] = kNan;
    const auto is = truth_of(bad, bad_d);
    for (const Isa isa : supported_isas()) {
      const Context context({.threads = 2, .isa = isa});
      Problem<float> good = clean;
      std::vector<float> good_d = d;
      const auto before = gradients_of(good, good_d, options, context),
                 after = gradients_of(bad, bad_d, options, context);
      const auto compare = [&](const auto& old_truth, const auto& truth, const auto& a,
                               const auto& b, const char* what) {
        for (std::size_t i = 0; i < a.size(); ++i) {
          if (!std::isfinite(truth[i])) {
            ASSERT_FALSE(std::isfinite(b[i])) << name(isa) << " " << part << what << i;
          } else if (truth[i] == old_truth[i]) {
            ASSERT_EQ(a[i], b[i]) << name(isa) << " " << part << what << i;
          }
        }
      };
      compare(was.q, is.q, before.q, after.q, " dq ");
      compare(was.k, is.k, before.k, after.k, " dk ");
      compare(was.v, is.v, before.v, after.v, " dv ");
    }
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
      const auto rows = [](const Tensor& x, std::int64_t begin, std::int64_t count) {
        Tensor some = x;
        some.data = x.row<float>(0, 0, begin);
        some.shape[2] = count;
        return some;
      };
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
      const Tensor out = rows(all.ot(), q0, ql), lse = rows(all.lt(), q0, ql);
      const ConstTensor q = rows(all.qt(), q0, ql), k = rows(all.kt(), k0, kl),
                        v = rows(all.vt(), k0, kl);
      made.run(q, k, v, out, {.lse = lse});
      const Tensor dq = all.view(g.q, 4, 500, 16), dk = all.view(g.k, 2, 910, 16),
                   dv = all.view(g.v, 2, 910, 16);
      made.backward({q, k, v}, {.out = out, .lse = lse},
                    {.out = rows(all.view(d, 4, 500, 16), q0, ql)},
                    {.q = rows(dq, q0, ql), .k = rows(dk, k0, kl), .v = rows(dv, k0, kl)});
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

// Sums over whatever was broadcast: against the oracle, and the same bits for any thread count.
TEST(BackwardShared, BiasOfEveryShape) {
  const AttentionShape s = make_shape(2, 4, 2, 150, 530, 12, 0, DType::f64);
  std::vector<double> d = flowing_in<double>(s);
  for (int broadcast = 0; broadcast < 16; ++broadcast) {
    const Shape shape{broadcast & 1 ? 1 : 2, broadcast & 2 ? 1 : 4, broadcast & 4 ? 1 : 150,
                      broadcast & 8 ? 1 : 530};
    const auto size = static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]);
    std::vector<double> bias(size), expected(size, 0.5);
    Random random(6);
    for (double& x : bias) x = random.normal();
    const AttentionOptions options{
        .mask = Mask::causal(),
        .score = {.bias = ConstTensor(bias.data(), shape), .sinks = {0.5f, 1, -1, 0}},
        .query_start = 380};
    Problem<double> p(s, 3);
    reference::backward({p.qt(), p.kt(), p.vt()}, {.out = p.view(d, 4, 150, 12)},
                        {.bias = Tensor(expected.data(), shape), .accumulate = true}, options);
    for (const Isa isa : supported_isas()) {
      if (isa == Isa::scalar) continue;
      std::vector<double> first;
      for (const int threads : {1, 2, 8}) {
        std::vector<double> found(size, 0.5);
        Gradients<double> start{std::vector<double>(p.q.size()), std::vector<double>(p.k.size()),
                                std::vector<double>(p.v.size())};
        gradients_of(p, d, options, Context({.threads = threads, .isa = isa}),
                     {.bias = Tensor(found.data(), shape), .accumulate = true}, start);
        for (std::size_t i = 0; i < size; ++i)
          ASSERT_NEAR(found[i], expected[i], 1e-11) << to_string(shape) << " " << i;
        if (first.empty()) first = found;
        EXPECT_EQ(found, first) << to_string(shape) << " " << name(isa) << " " << threads;
      }
    }
  }
}

TEST(BackwardShared, SlopesTablesAndSinks) {
  for (const DType type : {DType::f32, DType::f64}) {
    const AttentionShape s = make_shape(2, 6, 3, 200, 530, 12, 0, type);
    T5Bias t5;
    Random random(5);
    for (int i = 0; i < 32 * 6; ++i) t5.table.push_back(static_cast<float>(random.normal()));
    const AttentionOptions options{
        .mask = Mask::causal(),
        .score = {.alibi_slopes = std::vector<float>{0.5f, 0.1f, 0.01f, 0.3f, 0, 0.2f},
                  .t5 = t5,
                  .sinks = {0.5f, 1, -1, 0, 2, 3}},
        .query_start = 330};
    const auto all = [&]<class T>(T, const auto& run) {
      std::vector<T> sums(6 + 32 * 6 + 6, T(7));
      run(InputGradients{.alibi_slopes = Tensor(sums.data(), {1, 1, 1, 6}),
                         .t5 = Tensor(sums.data() + 6, {1, 1, 32, 6}),
                         .sinks = Tensor(sums.data() + 198, {1, 1, 1, 6})});
      return sums;
    };
    Problem<double> oracle(s, 3);
    for (auto* x : {&oracle.q, &oracle.k, &oracle.v})
      for (double& e : *x) e = static_cast<float>(e);
    std::vector<double> d = flowing_in<double>(s);
    const auto expected = all(double{}, [&](const InputGradients& to) {
      reference::backward({oracle.qt(), oracle.kt(), oracle.vt()},
                          {.out = oracle.view(d, 6, 200, 12)}, to, options);
    });
    const auto compare = [&]<class T>(T) {
      Problem<T> p(s, 3);
      p.q.assign(oracle.q.begin(), oracle.q.end());
      p.k.assign(oracle.k.begin(), oracle.k.end());
      p.v.assign(oracle.v.begin(), oracle.v.end());
      std::vector<T> d_out = flowing_in<T>(s);
      for (const Isa isa : supported_isas()) {
        std::vector<T> first;
        for (const int threads : {1, 3, 8}) {
          const auto found = all(T{}, [&](const InputGradients& to) {
            gradients_of(p, d_out, options, Context({.threads = threads, .isa = isa}), to);
          });
          // Sums of 2 x 200 rows of at most 530 pairs, distances up to 530; p sums to 1 a row, and
          // |dO . v - dO . out| stays below 40.
          const double bound =
              400.0 * 530 * 40 * (530 + 16) * std::numeric_limits<T>::epsilon() / 100;
          for (std::size_t i = 0; i < found.size(); ++i)
            ASSERT_NEAR(found[i], expected[i], bound) << name(isa) << " " << i;
          if (first.empty()) first = found;
          EXPECT_EQ(found, first) << name(isa) << " " << threads;
        }
      }
    };
    if (type == DType::f64)
      compare(double{});
    else
      compare(float{});
  }
}

// dk and dv of a shared head are the sums over the heads that share it.
TEST(BackwardMetamorphic, GroupedIsRepeated) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    const AttentionShape grouped = make_shape(1, 14, 2, 90, 300, 24, 0, DType::f64);
    AttentionShape repeated = grouped;
    repeated.kv_heads = 14;
    Problem<double> g(grouped, 3), r(repeated, 3);
    const AttentionOptions options{.mask = Mask::causal(), .query_start = 210};
    r.q = g.q;
    for (std::int64_t h = 0; h < 14; ++h) {
      std::copy_n(g.kt().row<double>(0, h / 7, 0), 300 * 24, r.kt().row<double>(0, h, 0));
      std::copy_n(g.vt().row<double>(0, h / 7, 0), 300 * 24, r.vt().row<double>(0, h, 0));
    }
    std::vector<double> d = flowing_in<double>(grouped);
    const auto a = gradients_of(g, d, options, context), b = gradients_of(r, d, options, context);
    for (std::size_t i = 0; i < a.q.size(); ++i) ASSERT_NEAR(a.q[i], b.q[i], 1e-13);
    for (std::size_t h = 0; h < 2; ++h) {
      for (std::size_t i = 0; i < 300 * 24; ++i) {
        double k = 0, v = 0;
        for (std::size_t j = 0; j < 7; ++j) {
          k += b.k[(h * 7 + j) * 300 * 24 + i];
          v += b.v[(h * 7 + j) * 300 * 24 + i];
        }
        ASSERT_NEAR(a.k[h * 300 * 24 + i], k, 1e-12);
        ASSERT_NEAR(a.v[h * 300 * 24 + i], v, 1e-12);
      }
    }
  }
}

// Gradients that nobody asks for are not touched, and asking for some changes no bit of them.
TEST(BackwardAsked, OnlySome) {
  const AttentionShape s = make_shape(1, 2, 1, 70, 300, 20);
  std::vector<float> d = flowing_in<float>(s);
  for (const Isa isa : supported_isas()) {
    Problem<float> p(s, 3);
    const Context context({.threads = 2, .isa = isa});
    const auto all = gradients_of(p, d, {}, context);
    const Plan made = plan(s, {}, context);
    for (int asked = 0; asked < 8; ++asked) {
      Gradients<float> g{std::vector<float>(p.q.size(), 7), std::vector<float>(p.k.size(), 7),
                         std::vector<float>(p.v.size(), 7)};
      InputGradients to;
      if ((asked & 1) != 0) to.q = p.view(g.q, 2, 70, 20);
      if ((asked & 2) != 0) to.k = p.view(g.k, 1, 300, 20);
      if ((asked & 4) != 0) to.v = p.view(g.v, 1, 300, 20);
      made.backward({p.qt(), p.kt(), p.vt()}, {.out = p.ot(), .lse = p.lt()},
                    {.out = p.view(d, 2, 70, 20)}, to);
      const std::vector<float> untouched(p.k.size(), 7), untouched_q(p.q.size(), 7);
      EXPECT_EQ(g.q, (asked & 1) != 0 ? all.q : untouched_q);
      EXPECT_EQ(g.k, (asked & 2) != 0 ? all.k : untouched);
      EXPECT_EQ(g.v, (asked & 4) != 0 ? all.v : untouched);
    }
  }
}

// An exception of a custom score ends the call, also while other threads wait for their turn.
TEST(BackwardErrors, OfACustomScorePassThrough) {
  const AttentionShape s = make_shape(1, 1, 1, 900, 1500, 8);
  std::vector<float> d = flowing_in<float>(s);
  for (const int threads : {1, 2, 8}) {
    const Context context({.threads = threads});
    std::atomic<int> calls{0};
    std::atomic<bool> armed{false};
    const AttentionOptions options{.score = {.custom =
                                                 [&](const ScoreTile&) {
                                                   if (armed && ++calls == 40)
                                                     throw std::runtime_error("mine");
                                                 },
                                             .custom_gradient = [](const ScoreGradientTile&) {}}};
    Problem<float> p(s, 3);
    const auto whole = gradients_of(p, d, options, context);
    const Plan made = plan(s, options, context);
    Gradients<float> g = whole;
    const auto again = [&] {
      made.backward({p.qt(), p.kt(), p.vt()}, {.out = p.ot(), .lse = p.lt()},
                    {.out = p.view(d, 1, 900, 8)},
                    {.q = p.view(g.q, 1, 900, 8),
                     .k = p.view(g.k, 1, 1500, 8),
                     .v = p.view(g.v, 1, 1500, 8)});
    };
    armed = true;
    EXPECT_THROW(again(), std::runtime_error);
    armed = false;
    again();  // the context is free again
    EXPECT_TRUE(same_bits(g, whole));
  }
}

// Every visible tile of pairs is computed once: the custom score is called for no more than its
// rows need.
TEST(BackwardWork, IsProportionalToVisibleTiles) {
  const Context context({.threads = 1});
  const AttentionShape s = make_shape(1, 1, 1, 4096, 4096, 8);
  std::vector<float> d = flowing_in<float>(s);
  const auto pairs = [&](const Mask& mask) {
    std::atomic<std::int64_t> count{0};
    const AttentionOptions options{
        .mask = mask,
        .score = {.custom = [](const ScoreTile&) {},
                  .custom_gradient =
                      [&](const ScoreGradientTile& t) {
                        count += static_cast<std::int64_t>(t.s.q.size()) * t.s.k_count;
                      }}};
    Problem<float> p(s, 3);
    gradients_of(p, d, options, context);
    return count.load();
  };
  constexpr std::int64_t kAll = 4096 * 4096;
  EXPECT_EQ(pairs(Mask::full()), kAll);
  EXPECT_GE(pairs(Mask::causal()), kAll / 2);
  EXPECT_LE(pairs(Mask::causal()), kAll * 0.51);
  EXPECT_GE(pairs(Mask::window(63, 0)), 4096 * 64 - 64 * 63 / 2);
  // A strip of at most 14 rows sees 64 + 13 keys, in whole vectors.
  EXPECT_LE(pairs(Mask::window(63, 0)), 4096 * (64 + 13 + 2 * 15));
}

// Scratch of threads does not grow with the length.
TEST(BackwardMemory, WorkspaceIsBounded) {
  std::size_t at_shortest = 0;
  for (const std::int64_t length : {16384, 32768}) {
    const Context context({.threads = 2});
    const AttentionShape s = make_shape(1, 2, 2, length, length, 64);
    Problem<float> p(s, 3);
    std::vector<float> d = flowing_in<float>(s);
    gradients_of(p, d, {.mask = Mask::window(31, 0)}, context);
    if (at_shortest == 0) at_shortest = context.workspace_bytes();
    EXPECT_EQ(context.workspace_bytes(), at_shortest);
    EXPECT_LE(context.workspace_bytes(), std::size_t{2} * (4 << 20));
  }
}

}  // namespace
}  // namespace attn::test
