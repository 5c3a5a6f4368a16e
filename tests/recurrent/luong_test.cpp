// Multiplicative attention at its edges; tests/recurrent/golden_additive_test.cpp has its values
// and gradients.
#include "attn/luong.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attention/cases.h"
#include "attn/additive.h"
#include "attn/reference_recurrent.h"

namespace attn::test {
namespace {

template <class T>
struct LocalProblem {
  std::int64_t b, h, lq, lk, d, dv, hidden = 3;
  LuongLocal local;
  std::vector<T> q, k, v, w, w_p, v_p, d_out;

  LocalProblem(std::int64_t batch, std::int64_t heads, std::int64_t q_len, std::int64_t k_len,
               std::int64_t width, std::int64_t v_width)
      : b(batch), h(heads), lq(q_len), lk(k_len), d(width), dv(v_width) {
    Random random(3);
    const auto fill = [&](std::vector<T>& x, std::int64_t n) {
      x.resize(static_cast<std::size_t>(n));
      for (T& e : x) e = static_cast<T>(static_cast<float>(random.normal()));
    };
    fill(q, b * h * lq * d);
    fill(k, b * h * lk * d);
    fill(v, b * h * lk * dv);
    fill(w, d * d);
    fill(w_p, h * hidden * d);
    fill(v_p, hidden);
    fill(d_out, b * h * lq * dv);
    local.window = 2.5;
  }
  AttentionInputs inputs() const {
    return {ConstTensor(q.data(), {b, h, lq, d}), ConstTensor(k.data(), {b, h, lk, d}),
            ConstTensor(v.data(), {b, h, lk, dv})};
  }
  LuongLocal weights() const {
    LuongLocal all = local;
    all.w = ConstTensor(w.data(), {1, 1, d, d});
    all.w_p = ConstTensor(w_p.data(), {1, h, hidden, d});
    all.v_p = ConstTensor(v_p.data(), {1, 1, 1, hidden});
    return all;
  }
  Shape out_shape() const { return {b, h, lq, dv}; }
  std::vector<T> run(const Context* context) const {
    std::vector<T> out(d_out.size(), T(7));
    const Tensor to(out.data(), out_shape());
    if (context != nullptr)
      luong_local(inputs(), weights(), to, *context);
    else
      reference::luong_local(inputs(), weights(), to);
    return out;
  }
  // All gradients, one after the other.
  std::vector<T> gradients(const Context& context) const {
    std::vector<std::vector<T>> g = {q, k, v, w, w_p, v_p};
    for (auto& x : g) std::fill(x.begin(), x.end(), T(7));
    const auto view = [](std::vector<T>& x, const ConstTensor& of) {
      return Tensor(x.data(), of.shape);
    };
    const AttentionInputs in = inputs();
    const LuongLocal all = weights();
    luong_local_backward(in, all, ConstTensor(d_out.data(), out_shape()),
                         {view(g[0], in.q), view(g[1], in.k), view(g[2], in.v), view(g[3], all.w),
                          view(g[4], all.w_p), view(g[5], all.v_p)},
                         context);
    std::vector<T> joined;
    for (const auto& x : g) joined.insert(joined.end(), x.begin(), x.end());
    return joined;
  }
};

TEST(LuongLocal, AgreesWithTheOracle) {
  const Context context({.threads = 2});
  for (const auto& [lq, lk, heads, width, v_width] :
       {std::array{1, 1, 2, 3, 2}, std::array{5, 17, 2, 3, 2}, std::array{0, 4, 2, 3, 2},
        std::array{4, 0, 2, 3, 2}, std::array{7, 131, 2, 3, 2}, std::array{3, 37, 7, 1, 1}}) {
    const LocalProblem<double> p(2, heads, lq, lk, width, v_width);
    const LocalProblem<float> f(2, heads, lq, lk, width, v_width);
    const std::vector<double> truth = p.run(nullptr), found = p.run(&context);
    const std::vector<float> rounded = f.run(&context);
    for (std::size_t i = 0; i < truth.size(); ++i) {
      EXPECT_NEAR(found[i], truth[i], 1e-13) << lk;
      EXPECT_NEAR(rounded[i], truth[i], 1e-4) << lk;  // a place is off by 1e-7 of the length
    }
  }
}

TEST(LuongLocal, SameBitsForAnyThreads) {
  LocalProblem<float> p(2, 3, 40, 50, 4, 3);
  p.local.lengths = {50, 31};
  const Context one({.threads = 1}), three({.threads = 3});
  EXPECT_EQ(p.run(&one), p.run(&three));
  EXPECT_EQ(p.gradients(one), p.gradients(three));
}

// Keys past the length and outside of windows, and queries of texts without keys, hold what they
// like.
TEST(LuongLocal, PoisonStaysWhereItIs) {
  LocalProblem<float> p(2, 1, 3, 9, 4, 3);
  p.local.lengths = {6, 0};
  const Context context;
  const std::vector<float> out = p.run(&context), gradients = p.gradients(context);
  for (std::size_t i = 9; i < 18; ++i) EXPECT_EQ(out[i], 0);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t j = 6; j < 18; ++j) p.k[4 * j] = p.v[3 * j] = nan;
  for (std::size_t i = 3; i < 6; ++i) p.q[4 * i] = p.d_out[3 * i] = nan;
  EXPECT_EQ(p.run(&context), out);
  EXPECT_EQ(p.gradients(context), gradients);
}

TEST(LuongLocal, VisiblePoisonShows) {
  LocalProblem<float> p(1, 1, 2, 9, 4, 3);
  p.q[1] = std::numeric_limits<float>::quiet_NaN();
  const Context context;
  const std::vector<float> out = p.run(&context);
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(std::isnan(out[i]), i < 3);
}

TEST(LuongLocal, HugeScoresStayFinite) {
  LocalProblem<float> p(1, 1, 3, 9, 4, 3);
  for (float& x : p.k) x *= 1e6f;
  const Context context;
  for (const float x : p.run(&context)) EXPECT_TRUE(std::isfinite(x));
  for (const float x : p.gradients(context)) EXPECT_TRUE(std::isfinite(x));
}

TEST(LuongLocal, RefusesWhatDoesNotFit) {
  LocalProblem<float> p(2, 1, 3, 9, 4, 3);
  const Context context;
  const auto message = [&] {
    try {
      p.run(&context);
    } catch (const std::invalid_argument& e) {
      return std::string(e.what());
    }
    return std::string("taken");
  };
  p.local.window = 0;
  EXPECT_EQ(message(), "[luong_local] window is 0, must be above 0");
  p.local.window = 2;
  p.local.lengths = {3};
  EXPECT_EQ(message(), "[luong_local] lengths has entries 1, the batch has 2");
  p.local.lengths = {3, 10};
  EXPECT_EQ(message(), "[luong_local] a length is 10, must be 0 to 9");
}

// Masked keys and queries may hold NaN: it reaches no gradient of a shared matrix.
TEST(Luong, PoisonReachesNoWeights) {
  const std::int64_t n = 6, width = 3;
  Random random(1);
  std::vector<float> q(18), k(18), v(18), w(18), v_a(3), d_out(18);
  for (auto* x : {&q, &k, &v, &w, &v_a, &d_out}) {
    for (float& e : *x) e = static_cast<float>(random.normal());
  }
  const Shape shape{1, 1, n, width};
  const AttentionOptions options{.mask = Mask::padding({4}) & Mask::causal(), .query_start = -1};
  for (const bool concat : {false, true}) {
    const auto run = [&] {
      std::vector<float> out(18), lse(6), dq(18), dk(18), dv(18), dw(concat ? 18 : 9), dv_a(3);
      const AttentionInputs in{ConstTensor(q.data(), shape), ConstTensor(k.data(), shape),
                               ConstTensor(v.data(), shape)};
      LuongWeights weights{.w = ConstTensor(w.data(), {1, 1, 3, concat ? 6 : 3})};
      LuongGradients to{.q = Tensor(dq.data(), shape),
                        .k = Tensor(dk.data(), shape),
                        .v = Tensor(dv.data(), shape),
                        .w = Tensor(dw.data(), weights.w.shape)};
      if (concat) {
        weights.v_a = ConstTensor(v_a.data(), {1, 1, 1, 3});
        to.v_a = Tensor(dv_a.data(), {1, 1, 1, 3});
      }
      const Tensor o(out.data(), shape), l(lse.data(), {1, 1, n, 1});
      luong(in, weights, o, options, Context(), {.lse = l});
      luong_backward(in, weights, {.out = o, .lse = l}, {.out = ConstTensor(d_out.data(), shape)},
                     to, options);
      std::vector<float> all = out;
      for (const auto* x : {&lse, &dq, &dk, &dv, &dw, &dv_a})
        all.insert(all.end(), x->begin(), x->end());
      return all;
    };
    const std::vector<float> clean = run(), old_q = q, old_k = k, old_v = v;
    q[0] = k[13] = v[16] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(same_bits(run(), clean)) << concat;
    q = old_q;
    k = old_k;
    v = old_v;
  }
}

TEST(Luong, RefusesAScale) {
  std::vector<float> x(12);
  const ConstTensor t(x.data(), {1, 1, 3, 4});
  std::vector<float> out(12);
  try {
    luong({t, t, t}, {}, Tensor(out.data(), {1, 1, 3, 4}), {.score = {.scale = 0.5}});
    FAIL();
  } catch (const std::invalid_argument& e) {
    EXPECT_EQ(std::string(e.what()), "[luong] a scale of 0.5 is given: there is none");
  }
  EXPECT_THROW(luong({t, t, t}, {.v_a = t}, Tensor(out.data(), {1, 1, 3, 4})),
               std::invalid_argument);
}

}  // namespace
}  // namespace attn::test
