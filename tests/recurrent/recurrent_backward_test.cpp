// Gradients of the recurrence: against finite differences of the oracle in double precision, and
// float32 against double.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "recurrent/problem.h"

namespace attn::test {
namespace {

std::vector<RecurrentCase> cases() {
  std::vector<RecurrentCase> all;
  const Decay decays[] = {Decay::none, Decay::head, Decay::token, Decay::channel,
                          Decay::channel_and_token};
  const char* names[] = {"none", "head", "token", "channel", "full"};
  for (std::size_t d = 0; d < 5; ++d) {
    const std::string name = names[d];
    RecurrentCase c;
    c.decay = decays[d];
    c.batch = 2, c.q_heads = 1, c.heads = 2, c.length = 67, c.width = 3, c.v_width = 5;
    c.state = true;
    c.name = name + "_grouped";
    all.push_back(c);
    c.beta = true, c.name = name + "_beta";
    all.push_back(c);
    c.normalise = true, c.name = name + "_normalised";
    all.push_back(c);
    c.normalise = c.beta = false, c.bonus = true, c.name = name + "_bonus";
    all.push_back(c);
    c.bonus = false, c.rule = StateRule::delta, c.beta = true, c.name = name + "_delta";
    all.push_back(c);
    c.state = c.beta = false, c.q_heads = 2, c.name = name + "_delta_no_beta";
    all.push_back(c);
    c.rule = StateRule::add, c.rank_one = c.state = c.beta = true, c.q_heads = 1;
    c.name = name + "_rank_one";
    all.push_back(c);
    for (std::int64_t length : {1, 2, 64}) {
      RecurrentCase e;
      e.decay = decays[d];
      e.length = length, e.width = 17, e.v_width = 1, e.state = true;
      e.bonus = length == 2;
      e.name = name + "_length_" + std::to_string(length);
      all.push_back(e);
    }
    c = {};
    c.decay = decays[d], c.strongest = 40, c.state = true;
    c.length = 30, c.width = 4, c.v_width = 3, c.name = name + "_strong";
    all.push_back(c);
    c.bonus = true, c.name = name + "_strong_bonus";
    all.push_back(c);
    c.bonus = false, c.rule = StateRule::delta, c.name = name + "_strong_delta";
    all.push_back(c);
    c.rule = StateRule::add, c.rank_one = true, c.name = name + "_strong_rank_one";
    all.push_back(c);
    c = {};
    c.decay = decays[d], c.heads = c.q_heads = 2, c.length = 75, c.width = c.v_width = 3;
    c.offsets = {0, 1, 1, 70, 75}, c.state = c.beta = true, c.name = name + "_ragged";
    all.push_back(c);
    c.rule = StateRule::delta, c.name = name + "_ragged_delta";
    all.push_back(c);
    c.rule = StateRule::add, c.rank_one = true, c.beta = false, c.name = name + "_ragged_rank_one";
    all.push_back(c);
    c = {};
    c.decay = decays[d], c.q_heads = 1, c.heads = 7, c.length = 11, c.width = 3, c.v_width = 2;
    c.state = c.beta = true, c.name = name + "_group_of_seven";
    all.push_back(c);
    c = {};
    c.decay = decays[d], c.length = 5, c.width = 257, c.v_width = 1, c.name = name + "_wide_key";
    all.push_back(c);
    c.width = 1, c.v_width = 257, c.rule = StateRule::delta, c.name = name + "_wide_value_delta";
    all.push_back(c);
  }
  return all;
}

template <class T>
struct Gradients {
  std::vector<T> q, k, v, log_decay, beta, bonus, a, b, state;
};

// Weights of the outputs and states in the loss.
template <class T>
std::vector<T> loss_weights(std::size_t count, double phase) {
  std::vector<T> w(count);
  for (std::size_t i = 0; i < count; ++i)
    w[i] = static_cast<T>(std::sin(phase + 1.7 * static_cast<double>(i)));
  return w;
}

template <class T>
Gradients<T> gradients(const RecurrentProblem<T>& p, const Context& context) {
  Gradients<T> g;
  const RecurrentInputs in = p.inputs();
  const std::vector<T> d_out = loss_weights<T>(p.out.size(), 0.3),
                       d_state = loss_weights<T>(p.after.size(), 0.9);
  RecurrentGradients to;
  const auto make = [](const ConstTensor& of, std::vector<T>& values) {
    if (of.empty()) return Tensor();
    values.assign(test::size_of(of.shape), T(-77));
    return Tensor(values.data(), of.shape);
  };
  to.q = make(in.q, g.q);
  to.k = make(in.k, g.k);
  to.v = make(in.v, g.v);
  to.log_decay = make(in.log_decay, g.log_decay);
  to.beta = make(in.beta, g.beta);
  to.bonus = make(in.bonus, g.bonus);
  to.a = make(in.a, g.a);
  to.b = make(in.b, g.b);
  to.state = make(in.state, g.state);
  recurrent_backward(in, {d_out.data(), p.c.values()}, {d_state.data(), p.c.states()}, to,
                     p.c.options(), context);
  return g;
}

double loss(RecurrentProblem<double>& p) {
  p.run_reference();
  const std::vector<double> d_out = loss_weights<double>(p.out.size(), 0.3),
                            d_state = loss_weights<double>(p.after.size(), 0.9);
  double sum = 0;
  for (std::size_t i = 0; i < p.out.size(); ++i) sum += p.out[i] * d_out[i];
  for (std::size_t i = 0; i < p.after.size(); ++i) sum += p.after[i] * d_state[i];
  return sum;
}

class RecurrentGradient : public testing::TestWithParam<RecurrentCase> {};

TEST_P(RecurrentGradient, EqualsFiniteDifferences) {
  RecurrentProblem<double> p(GetParam());
  for (Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    const Gradients<double> g = gradients(p, Context({.threads = 2, .isa = isa}));
    const auto check = [&](const char* what, std::vector<double>& x, const std::vector<double>& d) {
      ASSERT_EQ(x.size(), d.size()) << what;
      const std::size_t stride = std::max<std::size_t>(1, x.size() / 23);
      for (std::size_t i = 0; i < x.size(); i += stride) {
        constexpr double kStep = 1e-5;
        const double kept = x[i];
        x[i] = kept + kStep;
        const double above = loss(p);
        x[i] = kept - kStep;
        const double below = loss(p);
        x[i] = kept;
        const double expected = (above - below) / (2 * kStep);
        ASSERT_TRUE(std::abs(d[i] - expected) <= 2e-7 * (1 + std::abs(expected) + std::abs(above)))
            << what << " " << i << ": " << d[i] << ", finite difference " << expected;
      }
    };
    check("q", p.q, g.q);
    check("k", p.k, g.k);
    check("v", p.v, g.v);
    check("log_decay", p.log_decay, g.log_decay);
    check("beta", p.beta, g.beta);
    check("bonus", p.bonus, g.bonus);
    check("a", p.a, g.a);
    check("b", p.b, g.b);
    check("state", p.before, g.state);
  }
}

TEST_P(RecurrentGradient, Float32AgreesWithDouble) {
  RecurrentProblem<float> p(GetParam());
  RecurrentProblem<double> e = exact(p);
  const Gradients<double> expected = gradients(e, Context());
  const Gradients<float> one = gradients(p, Context({.threads = 1}));
  const Gradients<float> three = gradients(p, Context({.threads = 3}));
  // A decay's gradient is a sum of such products, which nearly cancel.
  double products = 0;
  for (std::size_t i = 0; i < e.q.size(); ++i)
    products += std::abs(e.q[i] * expected.q[i]) + std::abs(e.k[i] * expected.k[i]);
  const auto check = [&](const char* what, const std::vector<float>& x,
                         const std::vector<float>& again, const std::vector<double>& d,
                         double largest = 0) {
    EXPECT_EQ(x, again) << what << ": bits depend on threads";
    for (double y : d) largest = std::max(largest, std::abs(y));
    for (std::size_t i = 0; i < x.size(); ++i)
      ASSERT_TRUE(std::abs(static_cast<double>(x[i]) - d[i]) <= 3e-5 * largest + 1e-6)
          << what << " " << i << ": " << x[i] << " " << d[i];
  };
  check("q", one.q, three.q, expected.q);
  check("k", one.k, three.k, expected.k);
  check("v", one.v, three.v, expected.v);
  check("log_decay", one.log_decay, three.log_decay, expected.log_decay, products / 10);
  check("beta", one.beta, three.beta, expected.beta);
  check("bonus", one.bonus, three.bonus, expected.bonus);
  check("a", one.a, three.a, expected.a);
  check("b", one.b, three.b, expected.b);
  check("state", one.state, three.state, expected.state);
}

INSTANTIATE_TEST_SUITE_P(Cases, RecurrentGradient, testing::ValuesIn(cases()),
                         [](const auto& given) { return given.param.name; });

TEST(RecurrentGradientEdges, ForgottenDecayHasNoGradient) {
  RecurrentCase c;
  c.length = 9, c.width = 4, c.v_width = 3, c.decay = Decay::token;
  RecurrentProblem<float> p(c);
  p.log_decay[4] = -std::numeric_limits<float>::infinity();
  const Gradients<float> g = gradients(p, Context());
  EXPECT_EQ(g.log_decay[4], 0);
  for (const std::vector<float>* x : {&g.q, &g.k, &g.v, &g.log_decay}) {
    for (float e : *x) EXPECT_TRUE(std::isfinite(e));
  }
}

TEST(RecurrentGradientEdges, LengthZero) {
  RecurrentCase c;
  c.length = 0, c.width = 2, c.v_width = 2, c.state = true, c.decay = Decay::head;
  RecurrentProblem<float> p(c);
  const Gradients<float> g = gradients(p, Context());
  EXPECT_EQ(g.state, loss_weights<float>(p.after.size(), 0.9));
  EXPECT_EQ(g.log_decay, std::vector<float>{0});
}

TEST(RecurrentGradientEdges, WrongArguments) {
  RecurrentCase c;
  c.length = 3, c.width = 2, c.v_width = 2;
  RecurrentProblem<float> p(c);
  std::vector<float> d(p.q.size());
  const auto refused = [&](const char* what, const RecurrentGradients& to) {
    try {
      recurrent_backward(p.inputs(), {p.v.data(), c.values()}, {}, to);
      FAIL() << what;
    } catch (const std::invalid_argument& e) {
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    }
  };
  refused("[recurrent_backward] the gradient of beta is asked for, but there is none",
          {.beta = {d.data(), {1, 1, 3, 1}}});
  refused("the gradient of q has shape", {.q = {d.data(), {1, 1, 3, 1}}});
  refused("the gradient of q lies in the memory", {.q = {p.v.data(), c.qk()}});
  refused("the gradient of state has shape", {.state = {d.data(), {1, 1, 3, 1}}});
}

}  // namespace
}  // namespace attn::test
