// Gradients of what was broadcast or shared are sums: of biases, slopes, tables, sinks, and of keys
// that several heads read.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "attention/gradients.h"

namespace attn::test {
namespace {

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

}  // namespace
}  // namespace attn::test
