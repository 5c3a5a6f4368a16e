// The recurrence against its members as their authors and Transformers compute them
// (tools/golden_recurrent.py makes the file), in chunks and token by token.
#include "golden.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "attn/linear_attention.h"
#include "attn/mamba2.h"
#include "recurrent/problem.h"

namespace attn::test {
namespace {

constexpr std::int64_t H = 2, L = 68, DK = 6, DV = 3;

// As the script makes them.
std::vector<double> made(std::int64_t seed, std::int64_t count) {
  std::vector<double> x;
  for (std::int64_t i = 0; i < count; ++i)
    x.push_back(static_cast<double>((i * i * 7 + i * seed * 13 + seed * 101) % 1009) / 504 - 1);
  return x;
}

double softplus(double x) { return std::log1p(std::exp(x)); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

template <class Function>
std::vector<double> mapped(std::vector<double> x, const Function& f) {
  for (double& e : x) e = f(e);
  return x;
}

template <class T>
std::vector<T> as(const std::vector<double>& x) {
  return {x.begin(), x.end()};
}

// One member of the family: what it is, and its numbers.
struct Member {
  RecurrentCase c;
  std::vector<double> q = made(1, H*L*DK), k = made(2, H*L*DK), log_decay = {}, beta = {},
                      bonus = {}, a = {}, b = {};

  explicit Member(const std::string& name, Decay decay = Decay::none) {
    c.name = name, c.decay = decay;
    c.q_heads = c.heads = H, c.length = L, c.width = DK, c.v_width = DV;
    c.state = true;
  }
};

Member retnet() {
  Member m("retnet", Decay::head);
  m.c.state = false;
  for (int h = 0; h < H; ++h) m.log_decay.push_back(std::log(1 - std::exp2(-5 - h)));
  return m;
}

Member gla() {
  Member m("gla", Decay::channel_and_token);
  m.log_decay = mapped(made(5, H * L * DK), [](double x) { return std::log(sigmoid(4 * x)) / 16; });
  return m;
}

Member rwkv(const std::string& name, Decay decay) {
  Member m(name, decay);
  m.c.bonus = true;
  m.bonus = made(6, H * DK);
  m.log_decay = decay == Decay::channel
                    ? mapped(made(10, H * DK), [](double x) { return -std::exp(x); })
                    : mapped(made(11, H * L * DK), [](double x) { return -std::exp(2 * x); });
  return m;
}

// Every row divided by its length.
void normalise(std::vector<double>& x) {
  for (std::size_t row = 0; row < x.size(); row += DK) {
    double square = 0;
    for (std::size_t d = row; d < row + DK; ++d) square += x[d] * x[d];
    for (std::size_t d = row; d < row + DK; ++d) x[d] /= std::sqrt(square);
  }
}

Member rwkv7() {
  Member m("rwkv7", Decay::channel_and_token);
  m.c.rank_one = true;
  m.log_decay =
      mapped(made(12, H * L * DK), [](double x) { return -std::exp(-0.5) * sigmoid(2 * x); });
  m.b = made(13, H * L * DK);
  normalise(m.b);
  const std::vector<double> rate =
      mapped(made(14, H * L * DK), [](double x) { return sigmoid(3 * x); });
  for (std::size_t i = 0; i < rate.size(); ++i) m.a.push_back(-m.b[i] * rate[i]);
  return m;
}

Member deltanet(const std::string& name, Decay decay) {
  Member m(name, decay);
  m.c.rule = StateRule::delta;
  m.c.beta = true;
  normalise(m.k);
  m.beta = mapped(made(7, H * L), [](double x) { return sigmoid(3 * x); });
  if (decay == Decay::token)
    m.log_decay = mapped(made(8, H * L), [](double x) { return -0.5 * softplus(x); });
  return m;
}

Member mamba2_as_recurrence() {
  Member m("mamba2", Decay::token);
  m.c.q_heads = 1, m.c.beta = true;
  m.q.resize(L * DK);
  m.k.resize(L * DK);
  m.beta = mapped(made(9, H * L), [](double x) { return softplus(2 * x - 1); });
  for (std::size_t i = 0; i < m.beta.size(); ++i)
    m.log_decay.push_back(m.beta[i] * (i < L ? -0.5 : -2));
  return m;
}

std::vector<Member> members() {
  return {retnet(),
          gla(),
          rwkv("rwkv5", Decay::channel),
          rwkv("rwkv6", Decay::channel_and_token),
          rwkv7(),
          deltanet("deltanet", Decay::none),
          deltanet("gated_deltanet", Decay::token),
          deltanet("gated_deltanet_transformers", Decay::token),
          mamba2_as_recurrence()};
}

// Goldens have 12 digits, those of Transformers' float32 fewer that are right.
double rounding(const std::string& name) {
  return name.find("_transformers") == std::string::npos ? 1e-11 : 4e-6;
}

template <class T>
void expect_near(const std::vector<T>& x, const std::vector<double>& expected, double bound,
                 const std::string& what) {
  ASSERT_EQ(x.size(), expected.size()) << what;
  for (std::size_t i = 0; i < x.size(); ++i)
    ASSERT_TRUE(std::abs(static_cast<double>(x[i]) - expected[i]) <= bound)
        << what << " " << i << ": " << x[i] << " " << expected[i] << " bound " << bound;
}

class RecurrentGolden : public testing::TestWithParam<Member> {
 protected:
  Golden golden_{"golden_recurrent.txt"};

  template <class T>
  RecurrentProblem<T> problem() const {
    const Member& m = GetParam();
    RecurrentProblem<T> p(m.c);
    p.q = as<T>(m.q);
    p.k = as<T>(m.k);
    p.v = as<T>(made(3, H * L * DV));
    p.log_decay = as<T>(m.log_decay);
    p.beta = as<T>(m.beta);
    p.bonus = as<T>(m.bonus);
    p.a = as<T>(m.a);
    p.b = as<T>(m.b);
    if (m.c.state) p.before = as<T>(made(4, H * DK * DV));
    return p;
  }

  template <class T>
  void expect_golden(const RecurrentProblem<T>& p, const std::string& how) const {
    const std::string& name = p.c.name;
    const double bound = recurrent_bound(p) + rounding(name);
    expect_near(p.out, golden_[name + ".out"], bound, how + " out");
    if (p.c.state) expect_near(p.after, golden_[name + ".state"], bound, how + " state");
  }

  template <class T>
  void check() const {
    RecurrentProblem<T> p = problem<T>();
    p.run_reference();
    expect_golden(p, "oracle");
    for (const Isa isa : supported_isas()) {
      SCOPED_TRACE(name(isa));
      const Context context({.threads = 2, .isa = isa});
      p = problem<T>();
      p.run(context);
      expect_golden(p, "chunks");
      p = problem<T>();
      run_by_token(p, context);
      expect_golden(p, "tokens");
    }
  }

 private:
  template <class T>
  static void run_by_token(RecurrentProblem<T>& p, const Context& context) {
    if (p.c.state)
      p.after = p.before;
    else
      p.after.assign(p.after.size(), T(0));
    const auto token = [](auto x, std::int64_t l) {
      if (x.empty() || x.shape[2] == 1) return x;
      using Byte = std::conditional_t<std::is_same_v<decltype(x), Tensor>, char, const char>;
      x.data = static_cast<Byte*>(x.data) +
               l * x.strides[2] * static_cast<std::int64_t>(size_of(x.dtype));
      x.shape[2] = 1;
      return x;
    };
    for (std::int64_t l = 0; l < L; ++l) {
      RecurrentInputs in = p.inputs();
      for (ConstTensor* x : {&in.q, &in.k, &in.v, &in.log_decay, &in.beta, &in.a, &in.b})
        *x = token(*x, l);
      in.state = p.after_tensor();
      recurrent(in, token(p.out_tensor(), l), p.after_tensor(), p.c.options(), context);
    }
  }
};

TEST_P(RecurrentGolden, Float32) { check<float>(); }
TEST_P(RecurrentGolden, Float64) { check<double>(); }

INSTANTIATE_TEST_SUITE_P(Members, RecurrentGolden, testing::ValuesIn(members()),
                         [](const auto& member) { return member.param.c.name; });

template <class T>
void check_linear_attention(double bound) {
  const std::vector<T> q = as<T>(made(1, H * L * DK)), k = as<T>(made(2, H * L * DK)),
                       v = as<T>(made(3, H * L * DV));
  const Shape wide{1, H, L, DK}, narrow{1, H, L, DV};
  std::vector<T> out(v.size());
  linear_attention({q.data(), wide}, {k.data(), wide}, {v.data(), narrow}, {out.data(), narrow});
  expect_near(out, Golden("golden_recurrent.txt")["linear.out"], bound, "out");
}

// Outputs are near 1, and sums of 68 terms: 1e-5 is about that many epsilons of float32.
TEST(LinearAttentionGolden, OfKatharopoulos) {
  check_linear_attention<float>(1e-5);
  check_linear_attention<double>(1e-11);
}

// With D, dt_bias, softplus and limits, by Mamba2Mixer's code.
template <class T>
void check_mamba2() {
  const std::vector<T> x = as<T>(made(3, H * L * DV)), a{T(-0.5), T(-2)}, d{T(0.75), T(-1.25)},
                       bias{T(0.25), T(-0.5)}, before = as<T>(made(4, H * DK * DV)),
                       dt = as<T>(mapped(made(9, H * L), [](double e) { return 2 * e - 1; })),
                       b = as<T>(made(2, L * DK)), c = as<T>(made(1, L * DK));
  const Shape values{1, H, L, DV}, groups{1, 1, L, DK}, heads{1, H, 1, 1}, states{1, H, DK, DV};
  std::vector<T> y(x.size()), after(before.size());
  Mamba2Inputs in;
  in.x = {x.data(), values};
  in.dt = {dt.data(), {1, H, L, 1}};
  in.a = {a.data(), heads};
  in.b = {b.data(), groups};
  in.c = {c.data(), groups};
  in.d = {d.data(), heads};
  in.dt_bias = {bias.data(), heads};
  in.state = {before.data(), states};
  Mamba2Options options;
  options.dt_min = 0.125, options.dt_max = 0.75;
  mamba2(in, {y.data(), values}, {after.data(), states}, options);
  const Golden golden("golden_recurrent.txt");
  expect_near(y, golden["mamba2_transformers.out"], 1e-5, "y");
  expect_near(after, golden["mamba2_transformers.state"], 1e-5, "state");
}

TEST(Mamba2Golden, OfTransformers) {
  check_mamba2<float>();
  check_mamba2<double>();
}

}  // namespace
}  // namespace attn::test
