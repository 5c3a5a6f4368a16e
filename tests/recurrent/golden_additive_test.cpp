// Additive and multiplicative attention, the oracle and the fast path, against PyTorch
// (tools/golden_additive.py makes the file).
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attn/additive.h"
#include "attn/luong.h"
#include "attn/reference_recurrent.h"
#include "golden.h"

namespace attn {
namespace {

constexpr std::int64_t B = 2, H = 2, LQ = 3, LK = 7, D = 4, DV = 3, P = 5;
// Values and gradients are sums of at most some hundred terms of size 1.
constexpr double kBound = 1e-13;

struct Values {
  std::vector<double> x;
  Shape shape;
  Values(double phase, const Shape& s) : shape(s) {
    for (std::int64_t i = 0; i < s[0] * s[1] * s[2] * s[3]; ++i)
      x.push_back(std::sin(phase + 0.37 * static_cast<double>(i)));
  }
  explicit Values(const Shape& s)
      : x(static_cast<std::size_t>(s[0] * s[1] * s[2] * s[3]), 7), shape(s) {}
  ConstTensor in() const { return {x.data(), shape}; }
  Tensor out() { return {x.data(), shape}; }
};

class GoldenAdditive : public testing::TestWithParam<std::string> {
 protected:
  bool oracle() const { return GetParam() == "oracle"; }
  Context context() const { return Context({.threads = 2, .isa = isa_from_name(GetParam())}); }

  void compare(const std::string& name, const Values& got) const {
    const std::vector<double>& expected = golden_[name];
    ASSERT_EQ(got.x.size(), expected.size()) << name;
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(got.x[i], expected[i], kBound) << name << " element " << i;
  }
  Observed observed() {
    return {.lse = lse_.out(), .rows = {.queries = {0, 1, 2}, .probabilities = weights_.out()}};
  }
  void compare_forward(const std::string& name) const {
    compare(name + ".out", out_);
    compare(name + ".lse", lse_);
    compare(name + ".weights", weights_);
  }

  test::Golden golden_{"golden_additive.txt"};
  const Values q_{0.1, {B, H, LQ, D}}, k_{0.2, {B, H, LK, D}}, v_{0.3, {B, H, LK, DV}},
      v_a_{0.4, {1, H, 1, D}}, w_{0.5, {1, 1, D, D}}, w_concat_{0.6, {1, H, D, 2 * D}},
      d_out_{0.7, {B, H, LQ, DV}}, w_p_{0.8, {1, 1, P, D}}, v_p_{0.9, {1, H, 1, P}},
      d_lse_{1.1, {B, H, LQ, 1}};
  Values out_{{B, H, LQ, DV}}, lse_{{B, H, LQ, 1}}, weights_{{B, H, LQ, LK}}, dq_{q_.shape},
      dk_{k_.shape}, dv_{v_.shape}, dv_a_{v_a_.shape};
  const AttentionOptions options_ = {.mask = Mask::causal() & Mask::padding({LK, 5}),
                                     .query_start = 3};
  const OutputGradients from_ = {.out = d_out_.in(), .lse = d_lse_.in()};
};

std::vector<std::string> engines() {
  std::vector<std::string> names = {"oracle"};
  for (const Isa isa : supported_isas()) names.emplace_back(name(isa));
  return names;
}
INSTANTIATE_TEST_SUITE_P(By, GoldenAdditive, testing::ValuesIn(engines()),
                         [](const auto& test) { return test.param; });

TEST_P(GoldenAdditive, Bahdanau) {
  const AdditiveInputs in{q_.in(), k_.in(), v_.in(), v_a_.in()};
  const AdditiveGradients to{dq_.out(), dk_.out(), dv_.out(), dv_a_.out()};
  if (oracle()) {
    reference::additive(in, out_.out(), options_, observed());
    reference::additive_backward(in, from_, to, options_);
  } else {
    additive(in, out_.out(), options_, context(), observed());
    additive_backward(in, {.out = out_.in(), .lse = lse_.in()}, from_, to, options_, context());
  }
  compare_forward("additive");
  compare("additive.d_q", dq_);
  compare("additive.d_k", dk_);
  compare("additive.d_v", dv_);
  compare("additive.d_v_a", dv_a_);
}

TEST_P(GoldenAdditive, Luong) {
  for (const std::string form : {"dot", "general", "concat"}) {
    const AttentionInputs in{q_.in(), k_.in(), v_.in()};
    LuongWeights weights;
    if (form != "dot") weights.w = form == "general" ? w_.in() : w_concat_.in();
    if (form == "concat") weights.v_a = v_a_.in();
    if (oracle()) {
      reference::luong(in, weights, out_.out(), options_, observed());
      compare_forward(form);
      continue;
    }
    luong(in, weights, out_.out(), options_, context(), observed());
    compare_forward(form);
    Values dw(form == "concat" ? w_concat_.shape : w_.shape);
    LuongGradients to{.q = dq_.out(), .k = dk_.out(), .v = dv_.out()};
    if (form != "dot") to.w = dw.out();
    if (form == "concat") to.v_a = dv_a_.out();
    luong_backward(in, weights, {.out = out_.in(), .lse = lse_.in()}, from_, to, options_,
                   context());
    compare(form + ".d_q", dq_);
    compare(form + ".d_k", dk_);
    compare(form + ".d_v", dv_);
    if (form == "general") compare("general.d_w", dw);
    if (form == "concat") compare("concat.d_w_concat", dw);
    if (form == "concat") compare("concat.d_v_a", dv_a_);
  }
}

TEST_P(GoldenAdditive, LuongLocal) {
  for (const std::string form : {"dot", "general"}) {
    const AttentionInputs in{q_.in(), k_.in(), v_.in()};
    LuongLocal local{.w_p = w_p_.in(), .v_p = v_p_.in(), .window = 2, .lengths = {LK, 5}};
    if (form == "general") local.w = w_.in();
    const LuongLocalObserved observed{.positions = lse_.out(), .weights = weights_.out()};
    if (oracle())
      reference::luong_local(in, local, out_.out(), observed);
    else
      luong_local(in, local, out_.out(), context(), observed);
    compare("local_" + form + ".out", out_);
    compare("local_" + form + ".place", lse_);
    compare("local_" + form + ".weights", weights_);
    if (oracle()) continue;
    Values dw(w_.shape), dw_p(w_p_.shape), dv_p(v_p_.shape);
    LuongLocalGradients to{
        .q = dq_.out(), .k = dk_.out(), .v = dv_.out(), .w_p = dw_p.out(), .v_p = dv_p.out()};
    if (form == "general") to.w = dw.out();
    luong_local_backward(in, local, d_out_.in(), to, context());
    compare("local_" + form + ".d_q", dq_);
    compare("local_" + form + ".d_k", dk_);
    compare("local_" + form + ".d_v", dv_);
    compare("local_" + form + ".d_w_p", dw_p);
    compare("local_" + form + ".d_v_p", dv_p);
    if (form == "general") compare("local_general.d_w", dw);
  }
}

}  // namespace
}  // namespace attn
