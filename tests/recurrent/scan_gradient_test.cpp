// Gradients of every instruction set against finite differences in float64, every coordinate; the
// same bits for any thread count; float32 is the same rounded.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>

#include "recurrent/scan_problem.h"

namespace attn::test {
namespace {

// Five points, h = 2^-12: the truncation is h^4 / 30 = 1.2e-16 times a fifth derivative, which by a
// decay reaches the fifth power of the time elapsed, some 40^5; and the rounding of a loss of some
// tens is 1e-14 / h.
constexpr double kStep = 0x1p-12, kBound = 1e-7;

double slope(const std::function<double(double)>& f) {
  return (8 * (f(kStep) - f(-kStep)) - (f(2 * kStep) - f(-2 * kStep))) / (12 * kStep);
}

// Numbers that a gradient belongs to, and where it is.
struct Checked {
  Made<double>* x;
  const Made<double>* gradient;
};

void expect_slopes(const std::function<double()>& loss, const std::map<std::string, Checked>& all,
                   const std::string& label) {
  for (const auto& [name, checked] : all) {
    if (!checked.x->there()) continue;
    ASSERT_EQ(checked.x->x.size(), checked.gradient->x.size()) << name;
    for (std::size_t i = 0; i < checked.x->x.size(); ++i) {
      double& number = checked.x->x[i];
      const double before = number;
      const double expected = slope([&, &number = number](double step) {
        number = before + step;
        return loss();
      });
      number = before;
      EXPECT_NEAR(checked.gradient->x[i], expected, kBound) << label << ": " << name << " " << i;
    }
  }
}

double dot(const Made<double>& a, const Made<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.x.size(); ++i) sum += a.x[i] * b.x[i];
  return sum;
}

template <class T>
struct ScanGradientsOf {
  Made<T> u, delta, a, b, c, d, z, bias, state;
  ScanGradients views() {
    return {u.view(), delta.view(), a.view(),    b.view(),    c.view(),
            d.view(), z.view(),     bias.view(), state.view()};
  }
};

template <class T>
ScanGradientsOf<T> scan_gradients(const ScanProblem<T>& p, const Made<T>& d_out,
                                  const Made<T>& d_state, const Context& context) {
  ScanGradientsOf<T> g;
  const auto like = [](const Made<T>& x) { return x.there() ? Made<T>(x.shape) : Made<T>(); };
  g = {like(p.u), like(p.delta), like(p.a),    like(p.b),    like(p.c),
       like(p.d), like(p.z),     like(p.bias), like(p.state)};
  selective_scan_backward(p.inputs(), {d_out.view(), d_state.view()}, g.views(), p.options,
                          context);
  return g;
}

class ScanGradient : public testing::TestWithParam<std::string> {
 protected:
  Context context() const { return Context({.threads = 2, .isa = isa_from_name(GetParam())}); }
};

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Isa isa : supported_isas()) names.emplace_back(name(isa));
  return names;
}
INSTANTIATE_TEST_SUITE_P(By, ScanGradient, testing::ValuesIn(isas()),
                         [](const auto& test) { return test.param; });

void check_scan_gradient(ScanProblem<double> p, const Context& context) {
  const ScanCase& s = p.shape;
  Numbers numbers(6);
  const auto sequences =
      p.options.offsets.empty() ? s.batch : static_cast<std::int64_t>(p.options.offsets.size()) - 1;
  const Made<double> d_out(p.u.shape, numbers, -1, 1),
      d_state({sequences, 1, s.states, s.channels}, numbers, -1, 1);
  const auto g = scan_gradients(p, d_out, d_state, context);
  const auto loss = [&] {
    const auto r = scan_of(p, &context);
    return dot(r.out, d_out) + dot(r.state, d_state);
  };
  expect_slopes(loss,
                {{"u", {&p.u, &g.u}},
                 {"delta", {&p.delta, &g.delta}},
                 {"a", {&p.a, &g.a}},
                 {"b", {&p.b, &g.b}},
                 {"c", {&p.c, &g.c}},
                 {"d", {&p.d, &g.d}},
                 {"z", {&p.z, &g.z}},
                 {"bias", {&p.bias, &g.bias}},
                 {"state", {&p.state, &g.state}}},
                s.name());
}

TEST_P(ScanGradient, OfTheScan) {
  for (const ScanCase& shape : {ScanCase{1, 1, 1, 1, 1, true}, ScanCase{2, 5, 3, 2, 1, true},
                                ScanCase{1, 19, 6, 3, 2, true}, ScanCase{1, 37, 2, 1, 1, true},
                                ScanCase{1, 3, 2, 17, 1, false}, ScanCase{1, 0, 2, 2, 1, true}}) {
    check_scan_gradient(ScanProblem<double>(shape), context());
  }
}

TEST_P(ScanGradient, OfRaggedScans) {
  ScanProblem<double> p({1, 9, 3, 2, 1, true});
  p.options.offsets = {0, 4, 4, 9};
  Numbers numbers(7);
  p.state = {{3, 1, 2, 3}, numbers, -1, 1};
  check_scan_gradient(p, context());
}

TEST_P(ScanGradient, OfTheConvolution) {
  for (const std::int64_t length : {0, 1, 2, 7}) {
    for (const bool optional : {false, true}) {
      ConvolutionProblem<double> p(2, length, 3, 4, optional);
      Numbers numbers(8);
      const Made<double> d_out(p.x.shape, numbers, -1, 1), d_state({2, 1, 3, 3}, numbers, -1, 1);
      Made<double> x(p.x.shape), weight(p.weight.shape), bias({1, 1, 1, 3}), state({2, 1, 3, 3});
      causal_convolution_backward(p.inputs(), {d_out.view(), d_state.view()},
                                  {x.view(), weight.view(), bias.view(), state.view()}, p.options,
                                  context());
      expect_slopes(
          [&] {
            const Context here = context();
            const auto r = convolution_of(p, &here);
            return dot(r.out, d_out) + dot(r.state, d_state);
          },
          {{"x", {&p.x, &x}},
           {"weight", {&p.weight, &weight}},
           {"bias", {&p.bias, &bias}},
           {"state", {&p.state, &state}}},
          std::to_string(length));
    }
  }
}

TEST_P(ScanGradient, OfWkv4) {
  for (const std::int64_t length : {0, 1, 2, 19, 37}) {
    for (const bool with_state : {false, true}) {
      Wkv4Problem<double> p(2, length, 3, with_state);
      Numbers numbers(8);
      const Made<double> d_out(p.k.shape, numbers, -1, 1), d_state({2, 1, 3, 3}, numbers, -1, 1);
      Made<double> k(p.k.shape), v(p.k.shape), decay(p.decay.shape), bonus(p.bonus.shape),
          state({2, 1, 3, 3});
      wkv4_backward(p.inputs(), {d_out.view(), d_state.view()},
                    {k.view(), v.view(), decay.view(), bonus.view(), state.view()}, {}, context());
      expect_slopes(
          [&] {
            const Context here = context();
            const auto r = wkv4_of(p, &here);
            return dot(r.out, d_out) + dot(r.state, d_state);
          },
          {{"k", {&p.k, &k}},
           {"v", {&p.v, &v}},
           {"decay", {&p.decay, &decay}},
           {"bonus", {&p.bonus, &bonus}},
           {"state", {&p.state, &state}}},
          std::to_string(length) + (with_state ? " from a state" : ""));
    }
  }
}

TEST_P(ScanGradient, BitsDoNotDependOnThreads) {
  const Isa isa = isa_from_name(GetParam());
  const ScanProblem<float> p({2, 50, 200, 16, 2, true});
  const Wkv4Problem<float> w(2, 50, 2100, true);
  Numbers numbers(8);
  const Made<float> d_out(p.u.shape, numbers, -1, 1), d_state(p.state.shape, numbers, -1, 1),
      dw_out(w.k.shape, numbers, -1, 1);
  const auto run = [&](int threads) {
    const Context context({.threads = threads, .isa = isa});
    auto g = scan_gradients(p, d_out, d_state, context);
    std::vector<std::vector<float>> all = {g.u.x, g.delta.x, g.a.x,    g.b.x,    g.c.x,
                                           g.d.x, g.z.x,     g.bias.x, g.state.x};
    Made<float> k(w.k.shape), v(w.k.shape), decay(w.decay.shape), bonus(w.bonus.shape);
    wkv4_backward(w.inputs(), {dw_out.view()}, {k.view(), v.view(), decay.view(), bonus.view()}, {},
                  context);
    for (const auto* made : {&k, &v, &decay, &bonus}) all.push_back(made->x);
    return all;
  };
  const auto expected = run(1);
  EXPECT_EQ(run(2), expected);
  EXPECT_EQ(run(5), expected);
}

// Float32 against float64, relative to the largest gradient of its kind.
TEST_P(ScanGradient, Float32IsTheSameRounded) {
  const ScanProblem<float> p({1, 60, 20, 16, 1, true});
  ScanProblem<double> e({1, 60, 20, 16, 1, true});
  Numbers one(8), other(8);
  const Made<float> d_out(p.u.shape, one, -1, 1), d_state(p.state.shape, one, -1, 1);
  const Made<double> de_out(p.u.shape, other, -1, 1), de_state(p.state.shape, other, -1, 1);
  const auto g = scan_gradients(p, d_out, d_state, context());
  const auto h = scan_gradients(e, de_out, de_state, context());
  const auto compare = [](const Made<float>& x, const Made<double>& y, const char* what) {
    double largest = 0;
    for (const double number : y.x) largest = std::max(largest, std::abs(number));
    for (std::size_t i = 0; i < x.x.size(); ++i)
      EXPECT_NEAR(x.x[i], y.x[i], 2e-5 * largest) << what << " " << i;
  };
  compare(g.u, h.u, "u"), compare(g.delta, h.delta, "delta"), compare(g.a, h.a, "a");
  compare(g.b, h.b, "b"), compare(g.c, h.c, "c"), compare(g.d, h.d, "d");
  compare(g.z, h.z, "z"), compare(g.bias, h.bias, "bias"), compare(g.state, h.state, "state");
}

}  // namespace
}  // namespace attn::test
