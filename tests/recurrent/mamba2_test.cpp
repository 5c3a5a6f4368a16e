// Mamba-2's state space against the oracle, and its gradients against finite differences.
#include "attn/mamba2.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "attn/recurrent.h"
#include "attn/reference_recurrent.h"
#include "peak_memory.h"

namespace attn::test {
namespace {

template <class T>
struct Mamba2Problem {
  std::int64_t B, H, G, L, N, P;
  std::vector<T> x, dt, a, b, c, d, dt_bias, before, y, after;
  Mamba2Options options;

  Mamba2Problem(std::int64_t batch, std::int64_t heads, std::int64_t groups, std::int64_t length,
                std::int64_t states, std::int64_t width)
      : B(batch), H(heads), G(groups), L(length), N(states), P(width) {
    std::mt19937_64 random(5);
    std::normal_distribution<double> normal;
    const auto fill = [&](std::int64_t count, double mean, double size) {
      std::vector<T> v(static_cast<std::size_t>(count));
      for (T& e : v) e = static_cast<T>(static_cast<float>(mean + size * normal(random)));
      return v;
    };
    x = fill(B * H * L * P, 0, 1);
    dt = fill(B * L * H, -1, 1);
    a = fill(H, -3, 0.5);
    b = fill(B * G * L * N, 0, 1);
    c = fill(B * G * L * N, 0, 1);
    d = fill(H, 1, 0.5);
    dt_bias = fill(H, 0.5, 0.5);
    before = fill(B * H * N * P, 0, 1);
    y.assign(x.size(), T(-7));
    after.assign(before.size(), T(-7));
  }

  // dt and x as projections write them, [B, L, H, ...].
  Shape x_shape() const { return {B, H, L, P}; }
  Shape state_shape() const { return {B, H, N, P}; }
  Mamba2Inputs inputs() const {
    Mamba2Inputs in;
    in.x = ConstTensor::blhd(x.data(), x_shape());
    in.dt = ConstTensor::blhd(dt.data(), {B, H, L, 1});
    in.a = {a.data(), {1, H, 1, 1}};
    in.b = ConstTensor::blhd(b.data(), {B, G, L, N});
    in.c = ConstTensor::blhd(c.data(), {B, G, L, N});
    in.d = {d.data(), {1, H, 1, 1}};
    in.dt_bias = {dt_bias.data(), {1, H, 1, 1}};
    in.state = {before.data(), state_shape()};
    return in;
  }
  Tensor y_tensor() { return Tensor::blhd(y.data(), x_shape()); }
  Tensor after_tensor() { return {after.data(), state_shape()}; }
};

template <class T>
void expect_agreement(const Mamba2Problem<T>& given, double bound, const Mamba2Options& options,
                      const Context& context = Context()) {
  Mamba2Problem<T> p = given, e = given;
  mamba2(p.inputs(), p.y_tensor(), p.after_tensor(), options, context);
  reference::mamba2(e.inputs(), e.y_tensor(), e.after_tensor(), options);
  for (std::size_t i = 0; i < p.y.size(); ++i) ASSERT_NEAR(p.y[i], e.y[i], bound) << i;
  for (std::size_t i = 0; i < p.after.size(); ++i) ASSERT_NEAR(p.after[i], e.after[i], bound) << i;
}

TEST(Mamba2, AgreesWithTheOracle) {
  Mamba2Options limited, plain;
  limited.dt_min = 0.2;
  limited.dt_max = 0.9;
  plain.softplus = false;
  plain.dt_min = 0;
  for (const std::int64_t length : {0, 1, 2, 64, 133}) {
    for (const Mamba2Options& options : {Mamba2Options(), limited, plain}) {
      expect_agreement(Mamba2Problem<float>(2, 6, 2, length, 9, 11), 2e-4, options);
      expect_agreement(Mamba2Problem<double>(2, 6, 2, length, 9, 11), 1e-11, options);
    }
  }
}

TEST(Mamba2, AgreesInEveryShapeOnEveryInstructionSet) {
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    const Context context({.threads = 2, .isa = isa});
    for (const auto& [heads, groups, states, width] :
         {std::array{7, 1, 13, 3}, std::array{14, 2, 5, 1}, std::array{1, 1, 257, 2},
          std::array{2, 1, 1, 257}, std::array{1, 1, 1, 1}}) {
      SCOPED_TRACE(states);
      expect_agreement(Mamba2Problem<float>(1, heads, groups, 67, states, width), 2e-4, {},
                       context);
      expect_agreement(Mamba2Problem<double>(1, heads, groups, 67, states, width), 1e-11, {},
                       context);
    }
  }
}

// Steps of 0 and of 1e30, nothing forgotten and everything: nothing overflows.
TEST(Mamba2, AMillionTokensBetweenExtremes) {
  Mamba2Problem<float> p(1, 3, 1, 1'000'000, 2, 1);
  const float steps[] = {-1e30f, -3, 0, 3, 1e30f};
  for (std::size_t i = 0; i < p.dt.size(); ++i) {
    p.dt[i] = steps[i * 7919 % 101 % 5];  // [L, H], as x is
    if (p.dt[i] > 1e29f) p.x[i] *= 1e-30f;
  }
  p.a = {-1e-20f, -1, -1e20f};
  mamba2(p.inputs(), p.y_tensor(), p.after_tensor());
  for (const float y : p.y) ASSERT_TRUE(std::isfinite(y));
  for (const float s : p.after) ASSERT_TRUE(std::isfinite(s));
}

TEST(Mamba2, GradientsEqualFiniteDifferences) {
  for (const std::int64_t length : {1, 70}) {
    for (const bool limited : {false, true}) {
      Mamba2Problem<double> p(2, length == 1 ? 7 : 4, length == 1 ? 1 : 2, length, 5, 3);
      if (limited) p.options.dt_min = 0.3, p.options.dt_max = 0.8;
      std::vector<double> d_y(p.y.size()), d_after(p.after.size());
      for (std::size_t i = 0; i < d_y.size(); ++i) d_y[i] = std::sin(static_cast<double>(i));
      for (std::size_t i = 0; i < d_after.size(); ++i)
        d_after[i] = std::cos(static_cast<double>(i));
      std::vector<double> x(p.x.size()), dt(p.dt.size()), a(p.a.size()), b(p.b.size()),
          c(p.c.size()), d(p.d.size()), bias(p.dt_bias.size()), before(p.before.size());
      const Shape of_heads{1, p.H, 1, 1};
      Mamba2Gradients to;
      to.x = Tensor::blhd(x.data(), p.x_shape());
      to.dt = Tensor::blhd(dt.data(), {p.B, p.H, p.L, 1});
      to.a = {a.data(), of_heads};
      to.b = Tensor::blhd(b.data(), {p.B, p.G, p.L, p.N});
      to.c = Tensor::blhd(c.data(), {p.B, p.G, p.L, p.N});
      to.d = {d.data(), of_heads};
      to.dt_bias = {bias.data(), of_heads};
      to.state = {before.data(), p.state_shape()};
      mamba2_backward(p.inputs(), ConstTensor::blhd(d_y.data(), p.x_shape()),
                      {d_after.data(), p.state_shape()}, to, p.options);
      const auto loss = [&] {
        reference::mamba2(p.inputs(), p.y_tensor(), p.after_tensor(), p.options);
        double sum = 0;
        for (std::size_t i = 0; i < d_y.size(); ++i) sum += d_y[i] * p.y[i];
        for (std::size_t i = 0; i < d_after.size(); ++i) sum += d_after[i] * p.after[i];
        return sum;
      };
      const auto check = [&](const char* what, std::vector<double>& of,
                             const std::vector<double>& gradient) {
        const std::size_t stride = std::max<std::size_t>(1, of.size() / 29);
        for (std::size_t i = 0; i < of.size(); i += stride) {
          constexpr double kStep = 1e-6;
          const double kept = of[i];
          of[i] = kept + kStep;
          const double above = loss();
          of[i] = kept - kStep;
          const double below = loss();
          of[i] = kept;
          const double expected = (above - below) / (2 * kStep);
          ASSERT_NEAR(gradient[i], expected, 1e-6 * (1 + std::abs(expected) + std::abs(above)))
              << what << " " << i;
        }
      };
      check("x", p.x, x);
      check("dt", p.dt, dt);
      check("a", p.a, a);
      check("b", p.b, b);
      check("c", p.c, c);
      check("d", p.d, d);
      check("dt_bias", p.dt_bias, bias);
      check("state", p.before, before);
    }
  }
}

// Steps of time are made as the state comes to them: the bits are those of steps made before.
template <class T>
void expect_the_recurrence(double a_scale, const std::vector<std::int64_t>& offsets,
                           const Context& context) {
  Mamba2Problem<T> p(offsets.empty() ? 2 : 1, 3, 1, offsets.empty() ? 333 : offsets.back(), 5, 19);
  const std::int64_t sequences =
      offsets.empty() ? p.B : static_cast<std::int64_t>(offsets.size()) - 1;
  const Shape states{sequences, p.H, p.N, p.P}, of_tokens{p.B, p.H, p.L, 1};
  for (T& a : p.a) a *= static_cast<T>(a_scale);
  p.options.offsets = offsets;
  std::vector<T> step, log_decay, after(static_cast<std::size_t>(sequences * p.H * p.N * p.P)),
      expected_after(after.size()), y(p.y.size());
  for (std::int64_t b = 0; b < p.B; ++b) {
    for (std::int64_t h = 0; h < p.H; ++h) {
      const auto head = static_cast<std::size_t>(h);
      for (std::int64_t l = 0; l < p.L; ++l) {
        const T x = p.dt[static_cast<std::size_t>((b * p.L + l) * p.H + h)] + p.dt_bias[head];
        step.push_back(x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)));
        log_decay.push_back(p.a[head] * step.back());
      }
    }
  }
  Mamba2Inputs in = p.inputs();
  in.d = {};
  in.state = {};
  mamba2(in, p.y_tensor(), {after.data(), states}, p.options, context);
  RecurrentInputs same;
  same.q = in.c;
  same.k = in.b;
  same.v = in.x;
  same.log_decay = {log_decay.data(), of_tokens};
  same.beta = {step.data(), of_tokens};
  RecurrentOptions options;
  options.offsets = offsets;
  recurrent(same, Tensor::blhd(y.data(), p.x_shape()), {expected_after.data(), states}, options,
            context);
  EXPECT_EQ(p.y, y);
  EXPECT_EQ(after, expected_after);
}

TEST(Mamba2, HasTheBitsOfTheRecurrence) {
  for (const int threads : {1, 5}) {  // 5: columns are divided
    const Context context({.threads = threads});
    for (const double a_scale : {0.1, 1.0, 30.0}) {  // chunks that end early, of a token at last
      for (const std::vector<std::int64_t>& offsets :
           {std::vector<std::int64_t>(), {0, 1, 1, 130, 131, 200}}) {
        expect_the_recurrence<float>(a_scale, offsets, context);
        expect_the_recurrence<double>(a_scale, offsets, context);
      }
    }
  }
}

TEST(Mamba2, AStepHasThem) {
  Mamba2Problem<float> p(1, 4, 2, 1, 5, 19), once = p;
  p.options.dt_max = once.options.dt_max = 1;
  const Tensor state(p.before.data(), p.state_shape());
  mamba2(once.inputs(), once.y_tensor(), once.after_tensor(), once.options);
  mamba2(p.inputs(), p.y_tensor(), state, p.options);  // in place
  EXPECT_EQ(p.y, once.y);
  EXPECT_EQ(p.before, once.after);
}

TEST(Mamba2, MemoryDoesNotGrowWithTheLength) {
  Mamba2Problem<float> p(1, 16, 1, 65536, 1, 1);
  const std::int64_t before = peak_kb();
  if (before == 0) GTEST_SKIP() << "no /proc/self/status";
  mamba2(p.inputs(), p.y_tensor(), p.after_tensor(), p.options, Context({.threads = 2}));
  EXPECT_LT(peak_kb() - before, 3 * 1024);  // a number a token and head: 4 MiB
}

// Its states are the recurrence's, whose decays are the steps times a.
TEST(Mamba2, StatesOfPartsMerge) {
  constexpr std::int64_t kLength = 71, kCut = 30;
  const Mamba2Problem<double> given(2, 7, 1, kLength, 5, 3);
  Mamba2Problem<double> whole = given, first = given, second = given;
  mamba2(whole.inputs(), whole.y_tensor(), whole.after_tensor());
  const auto part = [](const Mamba2Problem<double>& p, std::int64_t begin, std::int64_t n) {
    Mamba2Inputs in = p.inputs();
    for (ConstTensor* x : {&in.x, &in.dt, &in.b, &in.c}) {
      x->data = static_cast<const double*>(x->data) + begin * x->strides[2];
      x->shape[2] = n;
    }
    return in;
  };
  const auto run = [](const Mamba2Inputs& in, Mamba2Problem<double>& to) {
    Tensor y = to.y_tensor();
    y.shape[2] = in.x.shape[2];
    mamba2(in, y, to.after_tensor());
  };
  run(part(given, 0, kCut), first);
  Mamba2Inputs rest = part(given, kCut, kLength - kCut);
  rest.state = {};
  run(rest, second);
  std::vector<double> log_decay(2 * 7);
  for (std::size_t b = 0; b < 2; ++b) {
    for (std::size_t h = 0; h < 7; ++h) {
      for (std::size_t l = kCut; l < kLength; ++l) {
        const double x = given.dt[(b * kLength + l) * 7 + h] + given.dt_bias[h];
        log_decay[b * 7 + h] += given.a[h] * std::log1p(std::exp(x));
      }
    }
  }
  merge_states(first.after_tensor(), second.after_tensor(), {log_decay.data(), {2, 7, 1, 1}},
               first.after_tensor());
  for (std::size_t i = 0; i < whole.after.size(); ++i)
    EXPECT_NEAR(first.after[i], whole.after[i], 1e-12) << i;
}

TEST(Mamba2, SaysWhatIsWrong) {
  Mamba2Problem<float> p(1, 4, 2, 3, 5, 3);
  const auto refused = [&](const char* what, auto&& change) {
    Mamba2Inputs in = p.inputs();
    Mamba2Options options;
    change(in, options);
    try {
      mamba2(in, p.y_tensor(), {}, options);
      FAIL() << what;
    } catch (const std::invalid_argument& e) {
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    }
  };
  refused("[mamba2] dt has shape", [](auto& in, auto&) { in.dt.shape[2] = 2; });
  refused("a has shape", [](auto& in, auto&) { in.a.shape[1] = 3; });
  refused("c has shape", [](auto& in, auto&) { in.c.shape[3] = 3; });
  refused("multiple of the 3 groups", [](auto& in, auto&) { in.b.shape[1] = in.c.shape[1] = 3; });
  refused("dt_min is 2", [](auto&, auto& options) { options.dt_min = 2, options.dt_max = 1; });
  refused("x is float16", [](auto& in, auto&) { in.x.dtype = DType::f16; });
  refused("y lies in the memory of dt", [&](auto& in, auto&) {
    in.dt = {p.y.data(), {1, 4, 3, 1}};
  });
}

}  // namespace
}  // namespace attn::test
