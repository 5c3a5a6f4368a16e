// Gradients of additive attention and of projections against finite differences, in float64.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "recurrent/additive_problem.h"

namespace attn::test {
namespace {

// (f(x + h) - f(x - h)) / 2h with its h^2 term removed: about 1e-11 for a loss of some units.
double slope(const std::function<double(double)>& f) {
  const auto central = [&](double h) { return (f(h) - f(-h)) / (2 * h); };
  constexpr double kStep = 1e-3;
  return (4 * central(kStep / 2) - central(kStep)) / 3;
}
constexpr double kBound = 1e-9;

double loss(const AdditiveProblem<double>& p, const Context* context) {
  AdditiveResult<double> r = p.made();
  const Tensor out = p.view(r.out, p.shape.q_len, p.shape.v_width),
               lse = p.view(r.lse, p.shape.q_len, 1);
  if (context != nullptr)
    additive(p.inputs(), out, p.options, *context, {.lse = lse});
  else
    reference::additive(p.inputs(), out, p.options, {.lse = lse});
  double sum = 0;
  for (std::size_t i = 0; i < r.out.size(); ++i) sum += p.d_out[i] * r.out[i];
  for (std::size_t i = 0; i < r.lse.size(); ++i) {
    if (!std::isinf(r.lse[i])) sum += p.d_lse[i] * r.lse[i];
  }
  return sum;
}

void expect_slopes(const AdditiveProblem<double>& p, const Context* context,
                   const std::string& label) {
  using P = AdditiveProblem<double>;
  using R = AdditiveResult<double>;
  const R g = context != nullptr ? p.run(*context) : p.oracle();
  struct Part {
    const char* name;
    std::vector<double> P::*values;
    std::vector<double> R::*gradient;
  };
  for (const Part& part : {Part{"q", &P::q, &R::dq}, Part{"k", &P::k, &R::dk},
                           Part{"v", &P::v, &R::dv}, Part{"v_a", &P::v_a, &R::dv_a}}) {
    for (std::size_t i = 0; i < (p.*part.values).size(); ++i) {
      P moved = p;
      const double expected = slope([&](double step) {
        (moved.*part.values)[i] = (p.*part.values)[i] + step;
        return loss(moved, context);
      });
      EXPECT_NEAR((g.*part.gradient)[i], expected, kBound) << label << " " << part.name << " " << i;
    }
  }
}

TEST(AdditiveGradient, MatchesFiniteDifferences) {
  std::vector<Context> fast;
  for (const Isa isa : supported_isas())
    fast.emplace_back(ContextOptions{.threads = 2, .isa = isa});
  std::vector<const Context*> all = {nullptr};  // the oracle
  for (const Context& context : fast) all.push_back(&context);
  for (const Context* context : all) {
    const std::string who = context == nullptr ? "oracle" : name(context->isa());
    for (const AdditiveShape& shape :
         {AdditiveShape{1, 1, 1, 1, 1, 1}, AdditiveShape{2, 2, 3, 5, 3, 2},
          AdditiveShape{1, 2, 2, 7, 5, 1, false}, AdditiveShape{1, 1, 3, 0, 2, 2},
          AdditiveShape{1, 1, 0, 3, 2, 2}}) {
      AdditiveProblem<double> p(shape);
      expect_slopes(p, context, who + " full " + shape.label());
      p.options.mask = Mask::causal();
      p.options.query_start = -1;
      expect_slopes(p, context, who + " causal " + shape.label());
    }
    AdditiveProblem<double> wide({1, 1, 1, 2, 257, 1});
    expect_slopes(wide, context, who + " wide");
    // Far pairs, saturated and not.
    AdditiveProblem<double> far({1, 1, 3, 5, 3, 2});
    for (std::size_t c = 0; c < 3; ++c) {
      far.q[c] += 400;
      far.k[3 + c] -= 400;
    }
    expect_slopes(far, context, who + " far");
  }
}

TEST(ProjectGradient, MatchesFiniteDifferences) {
  Random random(4);
  std::vector<double> x(2 * 3 * 2 * 5), w(3 * 4 * 5), b(3 * 4), d_y(2 * 3 * 2 * 4);
  for (auto* all : {&x, &w, &b, &d_y}) {
    for (double& e : *all) e = random.normal();
  }
  const Shape x_shape{2, 3, 2, 5}, y_shape{2, 3, 2, 4};
  for (const std::int64_t heads : {1, 3}) {
    const Shape w_shape{1, heads, 4, 5}, b_shape{1, heads, 1, 4};
    const auto value = [&] {
      std::vector<double> y(d_y.size());
      project(ConstTensor(x.data(), x_shape), ConstTensor(w.data(), w_shape),
              ConstTensor(b.data(), b_shape), Tensor(y.data(), y_shape));
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * d_y[i];
      return sum;
    };
    std::vector<double> dx(x.size(), 9), dw(w.size(), 9), db(b.size(), 9);
    project_backward(ConstTensor(x.data(), x_shape), ConstTensor(w.data(), w_shape),
                     ConstTensor(d_y.data(), y_shape),
                     {.x = Tensor(dx.data(), x_shape),
                      .w = Tensor(dw.data(), w_shape),
                      .b = Tensor(db.data(), b_shape)});
    const auto check = [&](std::vector<double>& at, const std::vector<double>& found,
                           std::size_t n) {
      for (std::size_t i = 0; i < n; ++i) {
        const double before = at[i];
        const double expected = slope([&](double step) {
          at[i] = before + step;
          return value();
        });
        at[i] = before;
        EXPECT_NEAR(found[i], expected, kBound) << heads << " " << i;
      }
    };
    check(x, dx, x.size());
    check(w, dw, static_cast<std::size_t>(heads * 20));
    check(b, db, static_cast<std::size_t>(heads * 4));
  }
}

}  // namespace
}  // namespace attn::test
