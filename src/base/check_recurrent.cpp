#include "base/check_recurrent.h"

#include <cmath>
#include <string>
#include <utility>

namespace attn {

namespace {

constexpr std::int64_t kMaxStateWidth = 1024;

void check_spread(const Checker& check, const char* what, const ConstTensor& x, const Shape& most,
                  DType dtype) {
  if (x.empty()) return;
  check.view(what, x);
  check.dtype(what, x, dtype);
  for (std::size_t i = 0; i < 4; ++i) {
    if (x.shape[i] != most[i] && x.shape[i] != 1)
      check.fail(std::string(what) + " has shape " + to_string(x.shape) + ", must be " +
                 to_string(most) + " with 1 in any dimension");
  }
}

void check_offsets(const Checker& check, const std::vector<std::int64_t>& offsets,
                   std::int64_t batch, std::int64_t length) {
  if (offsets.empty()) return;
  if (batch != 1) check.fail("offsets need batch 1, q has batch " + text(batch));
  if (offsets.front() != 0 || offsets.back() != length)
    check.fail("offsets run from " + text(offsets.front()) + " to " + text(offsets.back()) +
               ", must run from 0 to " + text(length));
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    if (offsets[s] > offsets[s + 1])
      check.fail("offsets descend after sequence " + std::to_string(s));
  }
}

}  // namespace

std::int64_t sequence_count(std::int64_t batch, const std::vector<std::int64_t>& offsets) {
  return offsets.empty() ? batch : static_cast<std::int64_t>(offsets.size()) - 1;
}

Shape state_shape(const RecurrentInputs& in, const RecurrentOptions& options) {
  return {sequence_count(in.q.batch(), options.offsets), in.v.heads(), in.q.width(),
          in.v.width() + (options.normalise ? 1 : 0)};
}

void check_recurrent(const RecurrentInputs& in, const RecurrentOptions& options,
                     const Checker& check) {
  check.view("q", in.q);
  check.view("k", in.k);
  check.view("v", in.v);
  const DType dtype = in.q.dtype;
  if (dtype != DType::f32 && dtype != DType::f64)
    check.fail("q is " + std::string(name(dtype)) + ", must be float32 or float64");
  check.dtype("k", in.k, dtype);
  check.dtype("v", in.v, dtype);
  const std::int64_t B = in.q.batch(), H = in.v.heads(), L = in.q.length();
  const std::int64_t Dk = in.q.width(), Dv = in.v.width();
  check.shape("k", in.k, in.q.shape);
  check.shape("v", in.v, {B, H, L, Dv});
  for (const auto& [what, width] : {std::pair{"q", Dk}, std::pair{"v", Dv}}) {
    if (width < 1 || width > kMaxStateWidth)
      check.fail(std::string(what) + " has width " + text(width) + ", must be 1 to " +
                 text(kMaxStateWidth));
  }
  if (in.q.heads() < 1 || H < 1 || H % in.q.heads() != 0)
    check.fail("v has " + text(H) + " heads, must be a multiple of the " + text(in.q.heads()) +
               " heads of q");
  check_spread(check, "log_decay", in.log_decay, {B, H, L, Dk}, dtype);
  check_spread(check, "beta", in.beta, {B, H, L, 1}, dtype);
  if (!in.bonus.empty()) {
    check.view("bonus", in.bonus);
    check.dtype("bonus", in.bonus, dtype);
    check.shape("bonus", in.bonus, {1, H, 1, Dk});
  }
  if (in.a.empty() != in.b.empty()) check.fail("a rank-one term needs both a and b");
  if (!in.a.empty()) {
    for (const auto& [what, x] : {std::pair{"a", in.a}, std::pair{"b", in.b}}) {
      check.view(what, x);
      check.dtype(what, x, dtype);
      check.shape(what, x, in.q.shape);
    }
    if (options.normalise) check.fail("a rank-one term has no normalisation");
    if (!in.bonus.empty()) check.fail("a rank-one term has no bonus");
  }
  if (options.rule == StateRule::delta) {
    if (options.normalise) check.fail("the delta rule has no normalisation");
    if (!in.bonus.empty()) check.fail("the delta rule has no bonus");
    if (!in.a.empty()) check.fail("the delta rule has no other rank-one term");
  }
  if (!std::isfinite(options.epsilon) || options.epsilon < 0)
    check.fail("epsilon is " + text(options.epsilon) + ", must be 0 or more");
  check_offsets(check, options.offsets, B, L);
  if (in.state.empty()) return;
  check.view("state", in.state);
  check.dtype("state", in.state, dtype);
  check.shape("state", in.state, state_shape(in, options));
}

void check_linear_attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                            const LinearAttentionOptions& options, const Checker& check) {
  check.view("q", q);
  check.view("k", k);
  check.view("v", v);
  if (q.dtype != DType::f32 && q.dtype != DType::f64)
    check.fail("q is " + std::string(name(q.dtype)) + ", must be float32 or float64");
  check.dtype("k", k, q.dtype);
  check.dtype("v", v, q.dtype);
  check.shape("k", k, q.shape);
  check.shape("v", v, {q.batch(), v.heads(), q.length(), v.width()});
  if (q.heads() < 1 || v.heads() < 1 || v.heads() % q.heads() != 0)
    check.fail("v has " + text(v.heads()) + " heads, must be a multiple of the " + text(q.heads()) +
               " heads of q");
  if (options.map == FeatureMap::favor) {
    if (options.random == nullptr) check.fail("favor needs random features");
    check.same("the random features", options.random->width(), "q", q.width(), "width");
    if (!options.normalise) check.fail("favor needs the normalisation");
  } else if (options.random != nullptr) {
    check.fail("random features are for favor");
  }
  check_offsets(check, options.offsets, q.batch(), q.length());
}

void check_mamba2(const Mamba2Inputs& in, const Mamba2Options& options, const Checker& check) {
  const DType dtype = in.x.dtype;
  if (dtype != DType::f32 && dtype != DType::f64)
    check.fail("x is " + std::string(name(dtype)) + ", must be float32 or float64");
  const Shape of_heads{1, in.x.heads(), 1, 1};
  const Shape of_tokens{in.x.batch(), in.x.heads(), in.x.length(), 1};
  const auto given = [&](const char* what, const ConstTensor& x, const Shape& shape, bool needed) {
    if (x.empty() && !needed) return;
    check.view(what, x);
    check.dtype(what, x, dtype);
    check.shape(what, x, shape);
  };
  given("x", in.x, in.x.shape, true);
  given("dt", in.dt, of_tokens, true);
  given("a", in.a, of_heads, true);
  given("d", in.d, of_heads, false);
  given("dt_bias", in.dt_bias, of_heads, false);
  const Shape of_groups{in.x.batch(), in.b.heads(), in.x.length(), in.b.width()};
  given("b", in.b, of_groups, true);
  given("c", in.c, of_groups, true);
  if (in.b.heads() < 1 || in.x.heads() < 1 || in.x.heads() % in.b.heads() != 0)
    check.fail("x has " + text(in.x.heads()) + " heads, must be a multiple of the " +
               text(in.b.heads()) + " groups of b");
  if (!(options.dt_min <= options.dt_max))
    check.fail("dt_min is " + text(options.dt_min) + ", must be at most dt_max, " +
               text(options.dt_max));
  // Widths, offsets and the state: as of the recurrence that this is.
  RecurrentInputs core;
  core.q = in.c;
  core.k = in.b;
  core.v = in.x;
  core.state = in.state;
  RecurrentOptions as;
  as.offsets = options.offsets;
  check_recurrent(core, as, check);
}

}  // namespace attn
