// The oracle by hand: tiny cases with known answers, and every edge of the contract.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "attn/position.h"
#include "attn/reference.h"

namespace attn {
namespace {

using testing::Each;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <class T>
std::vector<T> random_values(std::int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<T> x(static_cast<std::size_t>(n));
  for (T& v : x) v = static_cast<T>(normal(generator));
  return x;
}

struct Result {
  std::vector<double> out, lse;
  bool operator==(const Result&) const = default;
};

Result run(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
           const AttentionOptions& options = {}) {
  const Shape rows = {q.batch(), q.heads(), q.length(), 1};
  const Shape shape = {q.batch(), q.heads(), q.length(), v.width()};
  Result r;
  r.out.resize(static_cast<std::size_t>(q.batch() * q.heads() * q.length() * v.width()), -99);
  r.lse.resize(static_cast<std::size_t>(q.batch() * q.heads() * q.length()), -99);
  reference::attention(q, k, v, Tensor(r.out.data(), shape), options,
                       {.lse = Tensor(r.lse.data(), rows)});
  return r;
}

void expect_near(const Result& a, const Result& b, double bound = 1e-14) {
  ASSERT_EQ(a.out.size(), b.out.size());
  for (std::size_t i = 0; i < a.out.size(); ++i) EXPECT_NEAR(a.out[i], b.out[i], bound) << i;
  for (std::size_t i = 0; i < a.lse.size(); ++i) EXPECT_NEAR(a.lse[i], b.lse[i], bound) << i;
}

// One query of width 1, scale 1: the scores are the keys.
Result scores(const std::vector<double>& keys, const std::vector<double>& values,
              AttentionOptions options = {}) {
  const std::vector<double> one = {1};
  const auto n = static_cast<std::int64_t>(keys.size());
  if (!options.score.scale) options.score.scale = 1;
  return run(ConstTensor(one.data(), {1, 1, 1, 1}), ConstTensor(keys.data(), {1, 1, n, 1}),
             ConstTensor(values.data(), {1, 1, n, 1}), options);
}

TEST(Reference, ByHand) {
  // Weights 1/4 and 3/4.
  const Result two = scores({0, std::log(3.0)}, {10, 20});
  EXPECT_NEAR(two.out[0], 17.5, 1e-14);
  EXPECT_NEAR(two.lse[0], std::log(4.0), 1e-15);
  // A sink as large as the rest takes half.
  const Result half = scores({0, 0}, {10, 20}, {.score = {.sinks = {std::log(2.0f)}}});
  EXPECT_NEAR(half.out[0], 7.5, 1e-6);  // the sink is float
  EXPECT_NEAR(half.lse[0], std::log(2.0), 1e-15) << "the sink is no part of the log-sum-exp";
  // Cap, then bias: 2 tanh(s/2) + b.
  const std::vector<double> bias = {0.5};
  const Result capped =
      scores({3}, {1}, {.score = {.soft_cap = 2, .bias = ConstTensor(bias.data(), {1, 1, 1, 1})}});
  EXPECT_NEAR(capped.lse[0], 2 * std::tanh(1.5) + 0.5, 1e-15);
  // ALiBi of one head (slope 2^-8), query at 2, both sides.
  const Result alibi =
      scores({0, 0, 0, 0}, {0, 0, 0, 256}, {.score = Score::alibi(), .query_start = 2});
  const double e1 = std::exp(-1 / 256.0), e2 = std::exp(-2 / 256.0);
  EXPECT_NEAR(alibi.out[0], 256 * e1 / (e2 + e1 + 1 + e1), 1e-12);
  // Default scale 1/sqrt(D).
  const std::vector<double> ones(4, 1.0);
  const ConstTensor x(ones.data(), {1, 1, 1, 4});
  EXPECT_NEAR(run(x, x, x).lse[0], 2.0, 1e-15);
}

TEST(Reference, LargeLogitsAreExact) {
  const Result r = scores({1e4, 1e4 - std::log(3.0), -1e4}, {4, 0, 7});
  EXPECT_NEAR(r.out[0], 3, 1e-11);
  EXPECT_NEAR(r.lse[0], 1e4 + std::log(4.0 / 3), 1e-11);
  const Result low = scores({-1e4, -1e4}, {4, 0});
  EXPECT_EQ(low.out[0], 2);
  EXPECT_NEAR(low.lse[0], -1e4 + std::log(2.0), 1e-11);
  // A sink far above or below neither overflows nor counts.
  EXPECT_EQ(scores({-1e4}, {4}, {.score = {.sinks = {1e4f}}}).out[0], 0);
  EXPECT_EQ(scores({1e4}, {4}, {.score = {.sinks = {-1e4f}}}).out[0], 4);
  EXPECT_EQ(
      scores({0}, {4}, {.score = {.sinks = {-std::numeric_limits<float>::infinity()}}}).out[0], 4);
}

TEST(Reference, EmptyRows) {
  const std::vector<double> x = random_values<double>(12, 1);
  const ConstTensor t(x.data(), {1, 1, 3, 4});
  // Queries before every key see nothing, with or without a sink.
  for (const std::vector<float>& sinks : {std::vector<float>{}, std::vector<float>{1.0f}}) {
    const Result r =
        run(t, t, t, {.mask = Mask::causal(), .score = {.sinks = sinks}, .query_start = -2});
    EXPECT_THAT(std::vector<double>(r.out.begin(), r.out.begin() + 8), Each(0.0));
    EXPECT_EQ(r.lse[0], -kInf);
    EXPECT_EQ(r.lse[1], -kInf);
    EXPECT_TRUE(std::isfinite(r.lse[2]));
  }
  // No keys at all.
  const Result none =
      run(t, ConstTensor(x.data(), {1, 1, 0, 4}), ConstTensor(x.data(), {1, 1, 0, 2}));
  EXPECT_EQ(none.out, std::vector<double>(6, 0.0));
  EXPECT_EQ(none.lse, std::vector<double>(3, -kInf));
  // No queries, no batch: nothing is written.
  EXPECT_TRUE(run(ConstTensor(x.data(), {1, 1, 0, 4}), t, t).out.empty());
  const ConstTensor no_batch(x.data(), {0, 1, 3, 4});
  EXPECT_TRUE(run(no_batch, no_batch, no_batch).out.empty());
  // All hidden by the bias.
  const std::vector<double> hide = {-kInf};
  const AttentionOptions hidden = {.score = {.bias = ConstTensor(hide.data(), {1, 1, 1, 1})}};
  EXPECT_EQ(scores({1, 2}, {3, 4}, hidden), (Result{{0.0}, {-kInf}}));
}

TEST(Reference, HiddenPoisonIsNeverRead) {
  constexpr std::int64_t L = 6, D = 4;
  const std::vector<double> q = random_values<double>(L * D, 1),
                            k = random_values<double>(L * D, 2),
                            v = random_values<double>(L * D, 3);
  const Shape shape = {1, 1, L, D};
  for (const double poison : {kNan, kInf, -kInf}) {
    for (const bool hide_by_bias : {false, true}) {
      std::vector<double> bias(L * L, 0.0);
      AttentionOptions options = {.score = {.bias = ConstTensor(bias.data(), {1, 1, L, L})}};
      for (std::int64_t i = 0; i < L; ++i) {
        for (std::int64_t j = i + 1; j < L; ++j) {
          bias[static_cast<std::size_t>(i * L + j)] = hide_by_bias ? -kInf : poison;
        }
      }
      if (!hide_by_bias) options.mask = Mask::causal();
      const Result clean = run(ConstTensor(q.data(), shape), ConstTensor(k.data(), shape),
                               ConstTensor(v.data(), shape), options);
      for (int which = 0; which < 3; ++which) {  // q, k, v of token 3
        std::vector<double> bad[3] = {q, k, v};
        bad[which][3 * D + 1] = poison;
        const Result r = run(ConstTensor(bad[0].data(), shape), ConstTensor(bad[1].data(), shape),
                             ConstTensor(bad[2].data(), shape), options);
        for (std::size_t i = 0; i < L; ++i) {
          const bool touched = which == 0 ? i == 3 : i >= 3;
          bool finite = true, same = r.lse[i] == clean.lse[i];
          for (std::size_t d = 0; d < D; ++d) {
            finite = finite && std::isfinite(r.out[i * D + d]);
            same = same && r.out[i * D + d] == clean.out[i * D + d];
          }
          EXPECT_TRUE(touched || same) << "row " << i << " tensor " << which;
          // An infinite product may be -infinity, which hides; NaN always shows.
          if (touched && (std::isnan(poison) || which == 2)) {
            EXPECT_FALSE(finite) << "row " << i << " tensor " << which;
          }
        }
      }
    }
  }
}

TEST(Reference, MinusInfinityBiasHidesEvenAnInfiniteScore) {
  const std::vector<double> bias = {0, -kInf};
  const AttentionOptions options = {.score = {.bias = ConstTensor(bias.data(), {1, 1, 1, 2})}};
  EXPECT_EQ(scores({0, kInf}, {5, kNan}, options).out[0], 5);
  EXPECT_EQ(scores({0, kNan}, {5, kNan}, options).out[0], 5);
  // The smallest finite bias stays a bias: it alone is 100 %.
  const std::vector<double> least = {std::numeric_limits<double>::lowest(), -kInf};
  EXPECT_EQ(
      scores({0, 0}, {5, 6}, {.score = {.bias = ConstTensor(least.data(), {1, 1, 1, 2})}}).out[0],
      5);
}

TEST(Reference, BiasBroadcastsOverAnyAxis) {
  constexpr std::int64_t B = 2, H = 3, LQ = 4, LK = 5, D = 2;
  const auto q = random_values<double>(B * H * LQ * D, 1),
             k = random_values<double>(B * H * LK * D, 2);
  const ConstTensor tq(q.data(), {B, H, LQ, D}), tk(k.data(), {B, H, LK, D});
  const Shape full = {B, H, LQ, LK};
  const auto values = random_values<double>(B * H * LQ * LK, 3);
  for (int axes = 0; axes < 16; ++axes) {
    Shape shape;
    for (std::size_t i = 0; i < 4; ++i) shape[i] = (axes >> i & 1) ? full[i] : 1;
    const ConstTensor small(values.data(), shape);
    std::vector<double> expanded(static_cast<std::size_t>(B * H * LQ * LK));
    const Tensor big(expanded.data(), full);
    for (std::int64_t b = 0; b < B; ++b) {
      for (std::int64_t h = 0; h < H; ++h) {
        for (std::int64_t i = 0; i < LQ; ++i) {
          for (std::int64_t j = 0; j < LK; ++j) {
            big.row<double>(b, h, i)[j] = small.row<double>(axes & 1 ? b : 0, axes & 2 ? h : 0,
                                                            axes & 4 ? i : 0)[axes & 8 ? j : 0];
          }
        }
      }
    }
    EXPECT_EQ(run(tq, tk, tk, {.score = {.bias = small}}),
              run(tq, tk, tk, {.score = {.bias = big}}))
        << "axes " << axes;
  }
}

TEST(Reference, BatchEntriesAndHeadsStandAlone) {
  constexpr std::int64_t B = 3, H = 2, L = 4, D = 2;
  const auto x = random_values<double>(B * H * L * D, 1),
             bias = random_values<double>(B * H * L * L, 2);
  const ConstTensor t(x.data(), {B, H, L, D}), tb(bias.data(), {B, H, L, L});
  const Result all = run(t, t, t, {.score = {.bias = tb}});
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      const ConstTensor one(t.row<double>(b, h, 0), {1, 1, L, D});
      const ConstTensor own(tb.row<double>(b, h, 0), {1, 1, L, L});
      const auto at = all.out.begin() + (b * H + h) * L * D;
      EXPECT_EQ(run(one, one, one, {.score = {.bias = own}}).out,
                std::vector<double>(at, at + L * D));
    }
  }
}

TEST(Reference, CustomScore) {
  constexpr std::int64_t B = 2, H = 2, L = 5, D = 3;
  const auto x = random_values<double>(B * H * L * D, 4);
  const ConstTensor t(x.data(), {B, H, L, D});
  // ALiBi written as a custom score, with a cap before it.
  AttentionOptions custom = {.mask = Mask::causal(), .score = {.soft_cap = 1.5}};
  const std::vector<float> slopes = alibi_slopes(H);
  custom.score.custom = [&](const ScoreTile& tile) {
    ASSERT_NE(tile.s64, nullptr);
    for (std::size_t r = 0; r < tile.q.size(); ++r) {
      for (std::int64_t c = 0; c < tile.k_count; ++c) {
        double& s = tile.s64[static_cast<std::int64_t>(r) * tile.stride + c];
        s -= slopes[static_cast<std::size_t>(tile.head)] *
             std::abs(static_cast<double>(tile.k_begin + c - tile.q[r]));
      }
    }
  };
  expect_near(run(t, t, t, custom),
              run(t, t, t,
                  {.mask = Mask::causal(),
                   .score = {.soft_cap = 1.5, .alibi_slopes = std::vector<float>{}}}));
  // It hides, but shows nothing that the mask hides, and sees batch, head and query.
  custom.score.custom = [&](const ScoreTile& tile) {
    for (std::size_t r = 0; r < tile.q.size(); ++r) {
      for (std::int64_t c = 0; c < tile.k_count; ++c) {
        const std::int64_t j = tile.k_begin + c;
        const bool keep = (tile.batch + tile.head + tile.q[r] + j) % 2 == 0;
        tile.s64[static_cast<std::int64_t>(r) * tile.stride + c] = keep ? 1.0 : -kInf;
      }
    }
  };
  const Result r = run(t, t, t, custom);
  std::vector<double> weights(B * H * L * L);
  reference::weights(t, t, custom, Tensor(weights.data(), {B, H, L, L}));
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      for (std::int64_t i = 0; i < L; ++i) {
        double count = 0;
        for (std::int64_t j = 0; j <= i; ++j) count += (b + h + i + j) % 2 == 0;
        const std::int64_t row = (b * H + h) * L + i;
        if (count == 0) {
          EXPECT_EQ(r.lse[static_cast<std::size_t>(row)], -kInf);
        } else {
          EXPECT_NEAR(r.lse[static_cast<std::size_t>(row)], 1 + std::log(count), 1e-14);
        }
        for (std::int64_t j = 0; j < L; ++j) {
          const bool seen = j <= i && (b + h + i + j) % 2 == 0;
          EXPECT_NEAR(weights[static_cast<std::size_t>(row * L + j)], seen ? 1 / count : 0, 1e-15);
        }
      }
    }
  }
}

TEST(Reference, GroupedHeadsAreRepeatedHeads) {
  constexpr std::int64_t L = 4, D = 3, DV = 5;
  for (const std::int64_t group : {1, 2, 5}) {
    const std::int64_t kv = 2, heads = kv * group;
    const auto q = random_values<double>(heads * L * D, 1),
               k = random_values<double>(kv * L * D, 2), v = random_values<double>(kv * L * DV, 3);
    std::vector<double> k_repeated, v_repeated;
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t g = h / group;
      k_repeated.insert(k_repeated.end(), k.begin() + g * L * D, k.begin() + (g + 1) * L * D);
      v_repeated.insert(v_repeated.end(), v.begin() + g * L * DV, v.begin() + (g + 1) * L * DV);
    }
    const ConstTensor tq(q.data(), {1, heads, L, D});
    EXPECT_EQ(run(tq, ConstTensor(k.data(), {1, kv, L, D}), ConstTensor(v.data(), {1, kv, L, DV})),
              run(tq, ConstTensor(k_repeated.data(), {1, heads, L, D}),
                  ConstTensor(v_repeated.data(), {1, heads, L, DV})));
  }
}

TEST(Reference, StridesAliasesAndTypes) {
  constexpr std::int64_t B = 2, H = 3, L = 4, D = 5, DV = 2;
  const auto x = random_values<float>(B * L * H * D, 1);
  // [B, L, H, D] memory and its contiguous copy; values are the first columns of the keys.
  const ConstTensor strided = ConstTensor::blhd(x.data(), {B, H, L, D});
  ConstTensor front = strided;
  front.shape[3] = DV;
  std::vector<float> copied, copied_front;
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      for (std::int64_t l = 0; l < L; ++l) {
        const float* row = strided.row<float>(b, h, l);
        copied.insert(copied.end(), row, row + D);
        copied_front.insert(copied_front.end(), row, row + DV);
      }
    }
  }
  const ConstTensor plain(copied.data(), {B, H, L, D});
  const ConstTensor plain_front(copied_front.data(), {B, H, L, DV});
  // float32 out through [B, L, H, DV] memory with guards.
  std::vector<float> out(B * L * H * (DV + 1), 77), out_plain(B * H * L * DV);
  const Tensor guarded(out.data(), {B, H, L, DV}, {L * H * (DV + 1), DV + 1, H * (DV + 1), 1});
  const Tensor contiguous(out_plain.data(), {B, H, L, DV});
  reference::attention(strided, strided, front, guarded, {.mask = Mask::causal()});
  reference::attention(plain, plain, plain_front, contiguous, {.mask = Mask::causal()});
  std::size_t guards = 0;
  for (float f : out) guards += f == 77;
  EXPECT_EQ(guards, static_cast<std::size_t>(B * L * H));
  // The same in double, from the same values.
  const std::vector<double> x64(copied.begin(), copied.end()),
      v64(copied_front.begin(), copied_front.end());
  const ConstTensor t64(x64.data(), {B, H, L, D});
  const Result wide =
      run(t64, t64, ConstTensor(v64.data(), {B, H, L, DV}), {.mask = Mask::causal()});
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      for (std::int64_t l = 0; l < L; ++l) {
        for (std::int64_t d = 0; d < DV; ++d) {
          EXPECT_EQ(guarded.row<float>(b, h, l)[d], contiguous.row<float>(b, h, l)[d]);
          EXPECT_EQ(guarded.row<float>(b, h, l)[d],
                    static_cast<float>(
                        wide.out[static_cast<std::size_t>(contiguous.offset(b, h, l) + d)]));
        }
      }
    }
  }
  // Negative strides: keys and values reversed together change nothing without a mask.
  ConstTensor reversed(x64.data() + (L - 1) * D, DType::f64, {B, H, L, D},
                       {H * L * D, L * D, -D, 1});
  expect_near(run(t64, reversed, reversed), run(t64, t64, t64));
}

TEST(Reference, ExplicitPositions) {
  constexpr std::int64_t L = 6, D = 3;
  const auto x = random_values<double>(L * D, 1);
  const ConstTensor t(x.data(), {1, 1, L, D});
  const AttentionOptions by_start = {
      .mask = Mask::causal() & Mask::window(3, 0), .score = Score::alibi(), .query_start = 2};
  AttentionOptions by_list = by_start;
  by_list.query_start = 0;
  by_list.q_positions = {2, 3, 4, 5, 6, 7};
  EXPECT_EQ(run(t, t, t, by_start), run(t, t, t, by_list));
  // Everything shifted.
  by_list.q_positions = {-98, -97, -96, -95, -94, -93};
  by_list.k_positions = {-100, -99, -98, -97, -96, -95};
  EXPECT_EQ(run(t, t, t, by_start), run(t, t, t, by_list));
  // Keys in any order, positions travelling with them.
  std::vector<double> shuffled;
  const std::vector<std::int64_t> order = {4, 0, 5, 2, 1, 3};
  for (std::int64_t j : order) shuffled.insert(shuffled.end(), &x[j * D], &x[j * D] + D);
  AttentionOptions permuted = by_start;
  permuted.k_positions = order;
  const ConstTensor s(shuffled.data(), {1, 1, L, D});
  expect_near(run(t, s, s, permuted), run(t, t, t, by_start));
}

TEST(Reference, WeightsAreOfTheOutput) {
  constexpr std::int64_t H = 4, LQ = 3, LK = 5, D = 3;
  const auto q = random_values<double>(H * LQ * D, 1), k = random_values<double>(2 * LK * D, 2),
             v = random_values<double>(2 * LK * D, 3);
  const ConstTensor tq(q.data(), {1, H, LQ, D}), tk(k.data(), {1, 2, LK, D}),
      tv(v.data(), {1, 2, LK, D});
  const AttentionOptions options = {
      .mask = Mask::causal(), .score = {.sinks = {0.5f, -1.0f, 2.0f, 0.0f}}, .query_start = 1};
  std::vector<double> w(H * LQ * LK, -1);
  reference::weights(tq, tk, options, Tensor(w.data(), {1, H, LQ, LK}));
  const Result r = run(tq, tk, tv, options);
  for (std::int64_t h = 0; h < H; ++h) {
    for (std::int64_t i = 0; i < LQ; ++i) {
      const double* row = &w[static_cast<std::size_t>((h * LQ + i) * LK)];
      double sum = 0;
      for (std::int64_t j = 0; j < LK; ++j) {
        sum += row[j];
        EXPECT_TRUE(j <= i + 1 || row[j] == 0) << "row " << i << " key " << j;
      }
      const double lse = r.lse[static_cast<std::size_t>(h * LQ + i)];
      const double sink = options.score.sinks[static_cast<std::size_t>(h)];
      EXPECT_NEAR(sum, std::exp(lse) / (std::exp(lse) + std::exp(sink)), 1e-14);
      for (std::int64_t d = 0; d < D; ++d) {
        double o = 0;
        for (std::int64_t j = 0; j < LK; ++j) o += row[j] * tv.row<double>(0, h / 2, j)[d];
        EXPECT_NEAR(r.out[static_cast<std::size_t>((h * LQ + i) * D + d)], o, 1e-14);
      }
    }
  }
  std::vector<float> w32(H * LQ * LK);
  EXPECT_THAT(
      [&] {
        reference::weights(tq, tk, options, Tensor(w32.data(), {1, H, LQ, LK}));
      },
      ThrowsMessage<std::invalid_argument>(HasSubstr("[weights] out is float32")));
}

}  // namespace
}  // namespace attn
