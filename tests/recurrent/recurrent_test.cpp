// The chunked recurrence and its step against the oracle, for every gate and instruction set.
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
    c.batch = 2, c.q_heads = 1, c.heads = 3, c.length = 131, c.width = 20, c.v_width = 33;
    c.state = true;
    c.name = name + "_grouped_state";
    all.push_back(c);
    c.q_heads = 3, c.beta = true, c.name = name + "_beta";
    all.push_back(c);
    c.normalise = true, c.name = name + "_normalised";
    all.push_back(c);
    c.normalise = c.beta = false, c.bonus = true, c.name = name + "_bonus";
    all.push_back(c);
    c.bonus = false, c.rule = StateRule::delta, c.beta = true, c.name = name + "_delta";
    all.push_back(c);
    c.state = c.beta = false, c.name = name + "_delta_no_beta";
    all.push_back(c);
    c.rule = StateRule::add, c.rank_one = c.state = true, c.name = name + "_rank_one";
    all.push_back(c);
    c = {};
    c.decay = decays[d];
    c.heads = c.q_heads = 2, c.length = 65, c.width = 257, c.v_width = 1;
    c.name = name + "_wide_key";
    all.push_back(c);
    c.width = 1, c.v_width = 257, c.name = name + "_wide_value";
    all.push_back(c);
    c.rule = StateRule::delta, c.name = name + "_wide_value_delta";
    all.push_back(c);
    c.width = 257, c.v_width = 2, c.length = 67, c.state = true, c.name = name + "_wide_key_delta";
    all.push_back(c);
    c.rule = StateRule::add, c.rank_one = true, c.name = name + "_wide_key_rank_one";
    all.push_back(c);
    c.rank_one = false, c.bonus = true, c.name = name + "_wide_key_bonus";
    all.push_back(c);
    c = {};
    c.decay = decays[d], c.batch = 2, c.q_heads = 2, c.heads = 14, c.length = 67, c.state = true;
    c.width = 13, c.v_width = 11, c.name = name + "_groups_of_seven";
    all.push_back(c);
    c.rule = StateRule::delta, c.beta = true, c.name = name + "_groups_of_seven_delta";
    all.push_back(c);
    for (std::int64_t length : {0, 1, 2, 63, 64, 127}) {
      RecurrentCase e;
      e.decay = decays[d];
      e.length = length, e.width = 7, e.v_width = 17, e.state = length % 2 == 1;
      e.bonus = length == 1 || length == 127;
      e.name = name + "_length_" + std::to_string(length);
      all.push_back(e);
    }
    c = {};
    c.decay = decays[d], c.strongest = 40;  // chunks of a few tokens
    c.heads = c.q_heads = 2, c.length = 100, c.width = 16, c.v_width = 16, c.state = true;
    c.name = name + "_strong";
    all.push_back(c);
    c.bonus = true, c.name = name + "_strong_bonus";
    all.push_back(c);
    c.bonus = false, c.rule = StateRule::delta, c.name = name + "_strong_delta";
    all.push_back(c);
    c.rule = StateRule::add, c.rank_one = true, c.name = name + "_strong_rank_one";
    all.push_back(c);
    c = {};
    c.decay = decays[d], c.heads = c.q_heads = 2, c.length = 150, c.width = c.v_width = 12;
    c.offsets = {0, 1, 1, 70, 71, 150}, c.state = true, c.name = name + "_ragged";
    all.push_back(c);
    c.bonus = true, c.name = name + "_ragged_bonus";
    all.push_back(c);
    c.bonus = false, c.normalise = true, c.name = name + "_ragged_normalised";
    all.push_back(c);
    c.normalise = false, c.rule = StateRule::delta, c.name = name + "_ragged_delta";
    all.push_back(c);
    c.rule = StateRule::add, c.rank_one = true, c.name = name + "_ragged_rank_one";
    all.push_back(c);
  }
  return all;
}

class Recurrent : public testing::TestWithParam<RecurrentCase> {};

template <class T>
void expect_agreement(const RecurrentCase& c, const Context& context) {
  RecurrentProblem<T> p(c);
  const RecurrentProblem<double> e = exact(p);
  const double bound = recurrent_bound(p);
  p.run(context);
  for (std::size_t i = 0; i < p.out.size(); ++i)
    ASSERT_TRUE(std::abs(static_cast<double>(p.out[i]) - e.out[i]) <= bound)
        << i << ": " << p.out[i] << " " << e.out[i] << " bound " << bound;
  for (std::size_t i = 0; i < p.after.size(); ++i)
    ASSERT_TRUE(std::abs(static_cast<double>(p.after[i]) - e.after[i]) <= bound)
        << "state " << i << ": " << p.after[i] << " " << e.after[i] << " bound " << bound;
}

TEST_P(Recurrent, AgreesWithTheOracle) {
  for (Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    const Context context({.threads = 2, .isa = isa});
    expect_agreement<float>(GetParam(), context);
    expect_agreement<double>(GetParam(), context);
  }
}

TEST_P(Recurrent, HasTheSameBitsForAnyThreadsAndInABatchOrAlone) {
  RecurrentProblem<float> one(GetParam());
  one.run(Context({.threads = 1}));
  for (int threads : {2, 3, 8}) {
    RecurrentProblem<float> p(GetParam());
    p.run(Context({.threads = threads}));
    EXPECT_EQ(p.out, one.out) << threads;
    EXPECT_EQ(p.after, one.after) << threads;
  }
  const RecurrentCase& c = GetParam();
  if (!c.offsets.empty()) return;
  // The last entry and head alone.
  RecurrentInputs in = one.inputs();
  const auto last = [&](ConstTensor x) {
    if (x.empty()) return x;
    const std::int64_t b = x.shape[0] - 1, h = x.shape[1] - 1;
    x.data = static_cast<const float*>(x.data) + b * x.strides[0] + h * x.strides[1];
    x.shape[0] = x.shape[1] = 1;
    return x;
  };
  for (ConstTensor* x :
       {&in.q, &in.k, &in.v, &in.log_decay, &in.beta, &in.bonus, &in.a, &in.b, &in.state})
    *x = last(*x);
  const auto count = static_cast<std::size_t>(c.length * c.v_width);
  Shape state = c.states();
  state[0] = state[1] = 1;
  std::vector<float> out(count), after(test::size_of(state));
  recurrent(in, {out.data(), {1, 1, c.length, c.v_width}}, {after.data(), state}, c.options());
  EXPECT_TRUE(
      std::equal(out.begin(), out.end(), one.out.end() - static_cast<std::ptrdiff_t>(count)));
}

// A sequence in two calls, and token by token, in the memory of one state.
TEST_P(Recurrent, ContinuesFromItsState) {
  const RecurrentCase& c = GetParam();
  if (!c.offsets.empty() || c.length == 0) return;
  RecurrentProblem<double> whole(c);
  const double bound = recurrent_bound(whole);
  whole.run(Context());
  const auto slice = [](ConstTensor x, std::int64_t begin, std::int64_t length) {
    if (x.empty() || x.shape[2] == 1) return x;
    x.data = static_cast<const double*>(x.data) + begin * x.strides[2];
    x.shape[2] = length;
    return x;
  };
  for (const std::int64_t step : {std::int64_t{1}, std::int64_t{50}}) {
    RecurrentProblem<double> p(c);
    p.after = p.before;
    p.after.resize(test::size_of(c.states()));
    for (std::int64_t t = 0; t < c.length; t += step) {
      const std::int64_t n = std::min(step, c.length - t);
      RecurrentInputs in = p.inputs();
      for (ConstTensor* x : {&in.q, &in.k, &in.v, &in.log_decay, &in.beta, &in.a, &in.b})
        *x = slice(*x, t, n);
      in.state = p.after_tensor();
      Tensor out = p.out_tensor();
      out.data = static_cast<double*>(out.data) + t * out.strides[2];
      out.shape[2] = n;
      recurrent(in, out, p.after_tensor(), c.options());
    }
    for (std::size_t i = 0; i < p.out.size(); ++i)
      ASSERT_TRUE(std::abs(p.out[i] - whole.out[i]) <= bound) << i << " by " << step;
    for (std::size_t i = 0; i < p.after.size(); ++i)
      ASSERT_TRUE(std::abs(p.after[i] - whole.after[i]) <= bound) << i << " by " << step;
  }
}

// NaN and infinities in a token change nothing before it but by rounding, as a chunk may end there,
// and no bit of another batch entry.
TEST_P(Recurrent, PoisonReachesNothingEarlier) {
  const RecurrentCase& c = GetParam();
  if (c.length < 60 || !c.offsets.empty()) return;
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity()};
  const std::int64_t at = 41;
  RecurrentProblem<float> cut(c);  // only what comes before
  RecurrentInputs in = cut.inputs();
  for (ConstTensor* x : {&in.q, &in.k, &in.v, &in.log_decay, &in.beta, &in.a, &in.b}) {
    if (x->shape[2] > 1) x->shape[2] = at;
  }
  Tensor out = cut.out_tensor();
  out.shape[2] = at;
  recurrent(in, out, {}, c.options());
  RecurrentProblem<float> clean(c);
  clean.run(Context());
  const std::size_t of_first = clean.out.size() / static_cast<std::size_t>(c.batch);
  for (float x : bad) {
    for (int which = 0; which < 6; ++which) {
      RecurrentProblem<float> p(c);
      std::vector<float>& poisoned = which == 0   ? p.q
                                     : which == 1 ? p.k
                                     : which == 2 ? p.v
                                     : which == 3 ? p.log_decay
                                     : which == 4 ? p.a
                                                  : p.b;
      if (which > 3 && !c.rank_one) continue;
      if (which == 3 && c.decay != Decay::token && c.decay != Decay::channel_and_token) continue;
      const std::size_t row =
          poisoned.size() /
          static_cast<std::size_t>(c.batch * (which == 2 || which == 3 ? c.heads : c.q_heads) *
                                   c.length);
      poisoned[static_cast<std::size_t>(at) * row] = x;
      p.run(Context());
      for (std::int64_t t = 0; t < at; ++t) {
        for (std::int64_t d = 0; d < c.v_width; ++d) {
          const auto i = static_cast<std::size_t>(t * c.v_width + d);
          ASSERT_TRUE(std::abs(p.out[i] - cut.out[i]) <= 1e-5f * (1 + std::abs(cut.out[i])))
              << which << " token " << t;
        }
      }
      bool reached = false;
      for (std::int64_t d = 0; d < c.v_width; ++d)
        reached |= !std::isfinite(p.out[static_cast<std::size_t>(at * c.v_width + d)]);
      EXPECT_TRUE(reached || which == 3) << "poison lost, " << which;
      for (std::size_t i = of_first; i < clean.out.size(); ++i)
        ASSERT_EQ(p.out[i], clean.out[i]) << "another batch entry, " << which << " " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Recurrent, testing::ValuesIn(cases()),
                         [](const auto& given) { return given.param.name; });

// Tensors laid out [B, L, H, D], misaligned, outputs guarded.
TEST(RecurrentLayout, StridesAndMisalignment) {
  RecurrentCase c;
  c.batch = 2, c.q_heads = c.heads = 3, c.length = 70, c.width = 16, c.v_width = 16;
  c.decay = Decay::channel_and_token;
  RecurrentProblem<float> p(c);
  p.run(Context());
  const std::size_t n = p.q.size();
  const auto moved = [&](const std::vector<float>& x) {
    std::vector<float> y(n + 1);
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t h = 0; h < 3; ++h)
        for (std::int64_t l = 0; l < 70; ++l)
          for (std::int64_t d = 0; d < 16; ++d)
            y[static_cast<std::size_t>(((b * 70 + l) * 3 + h) * 16 + d + 1)] =
                x[static_cast<std::size_t>(((b * 3 + h) * 70 + l) * 16 + d)];
    return y;
  };
  const std::vector<float> q = moved(p.q), k = moved(p.k), v = moved(p.v), w = moved(p.log_decay);
  std::vector<float> out(n + 2, 5.0f);
  const Shape s = c.qk();
  recurrent({.q = ConstTensor::blhd(q.data() + 1, s),
             .k = ConstTensor::blhd(k.data() + 1, s),
             .v = ConstTensor::blhd(v.data() + 1, s),
             .log_decay = ConstTensor::blhd(w.data() + 1, s)},
            Tensor::blhd(out.data() + 1, s));
  std::vector<float> expected = moved(p.out);
  expected[0] = 5.0f;
  expected.push_back(5.0f);
  EXPECT_EQ(out, expected);
}

// Gates at both extremes over a million tokens: the state stays what it must be.
TEST(RecurrentLength, AMillionTokens) {
  const std::int64_t length = 1'000'000;
  const auto run = [&](double decay) {
    std::vector<float> one(static_cast<std::size_t>(length), 1.0f);
    const auto log = static_cast<float>(decay);
    float state = 0;
    std::vector<float> out(static_cast<std::size_t>(length));
    const Shape s{1, 1, length, 1};
    recurrent({.q = {one.data(), s},
               .k = {one.data(), s},
               .v = {one.data(), s},
               .log_decay = {&log, {1, 1, 1, 1}}},
              {out.data(), s}, {&state, {1, 1, 1, 1}});
    for (float y : out) {
      if (!std::isfinite(y)) return std::numeric_limits<double>::quiet_NaN();
    }
    EXPECT_NEAR(out.back() / state, 1, 1e-6);
    return static_cast<double>(state);
  };
  EXPECT_EQ(run(0), 1e6);
  EXPECT_EQ(run(-std::numeric_limits<double>::infinity()), 1);
  EXPECT_EQ(run(-1e30), 1);
  EXPECT_NEAR(run(-1e-3), 1 / (1 - std::exp(-1e-3)), 1);
  EXPECT_NEAR(run(-20), 1 / (1 - std::exp(-20.0)), 1e-6);
}

// A hard reset between two texts makes the second what it is alone.
TEST(RecurrentLength, MinusInfinityForgets) {
  RecurrentCase c;
  c.length = 90, c.width = 8, c.v_width = 8, c.decay = Decay::token;
  RecurrentProblem<float> p(c);
  p.log_decay[40] = -std::numeric_limits<float>::infinity();
  p.run(Context());
  RecurrentInputs in = p.inputs();
  for (ConstTensor* x : {&in.q, &in.k, &in.v, &in.log_decay}) {
    x->data = static_cast<const float*>(x->data) + 40 * x->strides[2];
    x->shape[2] = 50;
  }
  std::vector<float> out(50 * 8);
  recurrent(in, {out.data(), {1, 1, 50, 8}});
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(out[i], p.out[40 * 8 + i], 1e-5) << i;
}

// Two parts that were run apart, as on two machines: the states of both make that of the whole.
// Where a token turns the state (the delta rule, a rank-one term), by the transition that the
// second part makes of the identity.
struct Merge {
  const char* name;
  Decay decay;
  StateRule rule;
  bool normalise, rank_one;
  bool turns() const { return rule == StateRule::delta || rank_one; }
};

TEST(RecurrentMerge, StatesOfPartsMakeTheWhole) {
  for (const Merge& merge :
       {Merge{"decays of channels", Decay::channel_and_token, StateRule::add, false, false},
        Merge{"normalised", Decay::token, StateRule::add, true, false},
        Merge{"delta", Decay::token, StateRule::delta, false, false},
        Merge{"rank-one term", Decay::channel_and_token, StateRule::add, false, true}}) {
    RecurrentCase c;
    c.batch = 2, c.q_heads = c.heads = 3, c.length = 90, c.width = 5, c.v_width = 4;
    c.decay = merge.decay, c.strongest = 0.1, c.beta = true, c.rule = merge.rule;
    c.normalise = merge.normalise, c.rank_one = merge.rank_one;
    RecurrentProblem<double> p(c);
    p.run(Context());
    const Shape states = c.states(), squares{2, 3, 5, 5};
    for (const std::int64_t cut : {0, 1, 37, 90}) {
      SCOPED_TRACE(std::string(merge.name) + ", cut at " + std::to_string(cut));
      std::vector<double> first(test::size_of(states)), second(first), merged(first);
      const auto part = [&](std::int64_t begin, std::int64_t n) {
        RecurrentInputs in = p.inputs();
        for (ConstTensor* x : {&in.q, &in.k, &in.v, &in.log_decay, &in.beta, &in.a, &in.b}) {
          if (x->empty()) continue;
          x->data = static_cast<const double*>(x->data) + begin * x->strides[2];
          x->shape[2] = n;
        }
        return in;
      };
      const RecurrentInputs rest = part(cut, c.length - cut);
      recurrent(part(0, cut), {}, {first.data(), states}, c.options());
      recurrent(rest, {}, {second.data(), states}, c.options());
      if (merge.turns()) {
        std::vector<double> nothing(static_cast<std::size_t>(2 * 3 * 90 * 5)), eye(2 * 3 * 25);
        for (std::size_t i = 0; i < eye.size(); i += 25)
          for (std::size_t d = 0; d < 5; ++d) eye[i + d * 6] = 1;
        RecurrentInputs in = rest;
        in.v = {nothing.data(), {2, 3, c.length - cut, 5}};
        in.state = {eye.data(), squares};
        recurrent(in, {}, {eye.data(), squares}, c.options());
        merge_delta_states({first.data(), states}, {second.data(), states}, {eye.data(), squares},
                           {merged.data(), states});
      } else {
        const std::int64_t width = rest.log_decay.shape[3];
        std::vector<double> sums(static_cast<std::size_t>(2 * 3 * width));
        for (std::int64_t b = 0; b < 2; ++b)
          for (std::int64_t h = 0; h < 3; ++h)
            for (std::int64_t l = 0; l < c.length - cut; ++l)
              for (std::int64_t d = 0; d < width; ++d)
                sums[static_cast<std::size_t>((b * 3 + h) * width + d)] +=
                    rest.log_decay.row<double>(b, h, l)[d];
        merge_states({first.data(), states}, {second.data(), states},
                     {sums.data(), {2, 3, 1, width}}, {merged.data(), states});
      }
      for (std::size_t i = 0; i < merged.size(); ++i)
        EXPECT_NEAR(merged[i], p.after[i], 1e-12) << i;
    }
  }
  const float x[4] = {};
  float y[4];
  EXPECT_THROW(merge_states({x, {1, 1, 2, 2}}, {x, {1, 1, 1, 2}}, {}, {y, {1, 1, 2, 2}}),
               std::invalid_argument);
  EXPECT_THROW(merge_delta_states({x, {1, 1, 2, 2}}, {x, {1, 1, 2, 2}}, {x, {1, 1, 1, 2}},
                                  {y, {1, 1, 2, 2}}),
               std::invalid_argument);
}

TEST(RecurrentErrors, SayWhatIsWrong) {
  RecurrentCase c;
  c.heads = c.q_heads = 2, c.length = 3, c.width = 4, c.v_width = 5, c.decay = Decay::token;
  RecurrentProblem<float> p(c);
  const auto refused = [&](const char* what, auto&& change) {
    RecurrentInputs in = p.inputs();
    RecurrentOptions options;
    Tensor out = p.out_tensor(), state = p.after_tensor();
    change(in, options, out, state);
    try {
      recurrent(in, out, state, options);
      FAIL() << what;
    } catch (const std::invalid_argument& e) {
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    }
  };
  refused("[recurrent] k has shape", [](auto& in, auto&, auto&, auto&) { in.k.shape[3] = 3; });
  refused("v has shape", [](auto& in, auto&, auto&, auto&) { in.v.shape[2] = 2; });
  refused("multiple of the 2 heads", [](auto& in, auto&, auto& out, auto&) {
    in.v.shape[1] = 1;
    out.shape[1] = 1;
  });
  refused("q is bfloat16", [](auto& in, auto&, auto&, auto&) { in.q.dtype = DType::bf16; });
  refused("log_decay has shape", [](auto& in, auto&, auto&, auto&) { in.log_decay.shape[2] = 2; });
  refused("bonus has shape", [](auto& in, auto&, auto&, auto&) { in.bonus = in.q; });
  refused("the delta rule has no normalisation", [](auto&, auto& options, auto&, auto&) {
    options.rule = StateRule::delta;
    options.normalise = true;
  });
  refused("a rank-one term needs both a and b", [](auto& in, auto&, auto&, auto&) { in.a = in.q; });
  refused("epsilon is", [](auto&, auto& options, auto&, auto&) { options.epsilon = -1; });
  refused("offsets run from 0 to 2", [](auto&, auto& options, auto&, auto&) {
    options.offsets = {0, 2};
  });
  refused("offsets descend", [](auto&, auto& options, auto&, auto&) {
    options.offsets = {0, 3, 1, 3};
  });
  refused("out has shape", [](auto&, auto&, auto& out, auto&) { out.shape[3] = 4; });
  refused("state has shape", [](auto&, auto&, auto&, auto& state) { state.shape[3] = 4; });
  refused("out lies in the memory of v",
          [&](auto&, auto&, auto& out, auto&) { out.data = p.v.data(); });
  refused("state is float64", [](auto&, auto&, auto&, auto& state) { state.dtype = DType::f64; });
}

}  // namespace
}  // namespace attn::test
