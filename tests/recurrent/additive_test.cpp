// Additive attention: against the oracle, at edges, its bits, what it refuses.
#include "attn/additive.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "peak_memory.h"
#include "recurrent/additive_problem.h"

namespace attn::test {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::vector<Context> contexts() {
  std::vector<Context> all;
  for (const Isa isa : supported_isas()) all.emplace_back(ContextOptions{.threads = 2, .isa = isa});
  return all;
}

const std::vector<AdditiveShape> kShapes = {{1, 1, 1, 1, 1, 1},     {1, 1, 0, 3, 2, 2},
                                            {1, 1, 3, 0, 2, 2},     {0, 2, 3, 3, 2, 2},
                                            {2, 3, 5, 7, 3, 2},     {1, 2, 13, 31, 4, 5},
                                            {1, 1, 2, 17, 5, 1},    {2, 2, 3, 33, 257, 3, false},
                                            {1, 1, 1, 257, 64, 16}, {1, 2, 29, 300, 7, 9, false}};

struct Masked {
  const char* name;
  AttentionOptions options;
};
std::vector<Masked> masks(const AdditiveShape& s) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t b = 0; b < s.batch; ++b) lengths.push_back(b % 2 == 0 ? s.k_len : s.k_len / 2);
  std::vector<Masked> all = {
      {"full", {}},
      {"causal", {.mask = Mask::causal(), .query_start = s.k_len / 2 - 1}},
      {"window", {.mask = Mask::window(3, 2) | Mask::prefix(2), .query_start = 4}},
      {"predicate",
       {.mask = Mask::predicate(
            [](std::int64_t, std::int64_t, std::int64_t q, std::span<std::uint8_t> row) {
              for (std::size_t j = 0; j < row.size(); ++j)
                row[j] = (static_cast<std::size_t>(q) + j) % 3 != 0;
            })}}};
  if (s.batch > 0) all.push_back({"padding", {.mask = Mask::padding(lengths)}});
  return all;
}

// A weight v_a times a tanh that is off by 4 units at most, and sums of these in float or double;
// gradients are sums over the keys (or queries) of such terms, and of these times numbers of
// size 1.
template <class T>
void expect_near(const std::vector<T>& found, const std::vector<double>& truth, double bound,
                 const std::string& label) {
  ASSERT_EQ(found.size(), truth.size());
  for (std::size_t i = 0; i < truth.size(); ++i) {
    if (truth[i] == -kInf) {
      ASSERT_EQ(static_cast<double>(found[i]), -kInf) << label << " " << i;
    } else {
      ASSERT_TRUE(std::abs(static_cast<double>(found[i]) - truth[i]) <= bound)
          << label << " " << i << ": " << found[i] << ", must be " << truth[i];
    }
  }
}

template <class T>
void expect_agreement(const AdditiveProblem<T>& p, const AdditiveResult<double>& truth,
                      const Context& context, const std::string& label) {
  const AdditiveResult<T> found = p.run(context);
  const double epsilon = std::numeric_limits<T>::epsilon();
  double size = 0, largest = 0;
  for (const T x : p.v_a) {
    size += std::abs(static_cast<double>(x));
    largest = std::max(largest, std::abs(static_cast<double>(x)));
  }
  if (p.shape.shared == false)
    size /= static_cast<double>(std::max<std::int64_t>(1, p.shape.heads));
  // Of a score, of a mean of values of size up to 4 by weights that are off by twice as much, and
  // of sums of up to as many terms as there are pairs of a row or column.
  const double score = epsilon * (8 * size + 16);
  const double terms = static_cast<double>(std::max(p.shape.q_len, p.shape.k_len) + 1);
  expect_near(found.out, truth.out, 8 * score, label + " out");
  expect_near(found.lse, truth.lse, 4 * score, label + " lse");
  expect_near(found.dv, truth.dv, 8 * terms * score, label + " dv");
  expect_near(found.dq, truth.dq, 16 * terms * score * (largest + 1), label + " dq");
  expect_near(found.dk, truth.dk, 16 * terms * score * (largest + 1), label + " dk");
  expect_near(found.dv_a, truth.dv_a, 64 * terms * score, label + " dv_a");
}

TEST(Additive, AgreesWithTheOracle) {
  for (const AdditiveShape& shape : kShapes) {
    for (const Masked& mask : masks(shape)) {
      AdditiveProblem<double> p(shape);
      AdditiveProblem<float> f(shape);
      p.options = f.options = mask.options;
      const AdditiveResult<double> truth = p.oracle();
      for (const Context& context : contexts()) {
        const std::string label = shape.label() + " " + mask.name + " " + name(context.isa());
        expect_agreement(p, truth, context, label + " float64");
        expect_agreement(f, truth, context, label + " float32");
      }
    }
  }
}

// The promise of docs/architecture.md, for arguments of size 1: at most four times the error of the
// formula in plain float32.
TEST(Additive, IsAsExactAsPlainFloat32) {
  for (const std::int64_t width : {16, 64, 300}) {
    AdditiveProblem<float> p({1, 1, 24, 48, width, 8});
    const AdditiveResult<double> truth = AdditiveProblem<double>(p.shape).oracle();
    double plain = 0;
    for (std::size_t i = 0; i < 24; ++i) {
      float scores[48], sum = 0, out[8] = {};
      for (std::size_t j = 0; j < 48; ++j) {
        scores[j] = 0;
        for (std::size_t c = 0; c < p.v_a.size(); ++c)
          scores[j] += p.v_a[c] * std::tanh(p.q[i * p.v_a.size() + c] + p.k[j * p.v_a.size() + c]);
      }
      const float top = *std::max_element(scores, scores + 48);
      for (float& s : scores) sum += s = std::exp(s - top);
      for (std::size_t j = 0; j < 48; ++j) {
        for (std::size_t d = 0; d < 8; ++d) out[d] += scores[j] / sum * p.v[j * 8 + d];
      }
      for (std::size_t d = 0; d < 8; ++d)
        plain = std::max(plain, std::abs(static_cast<double>(out[d]) - truth.out[i * 8 + d]));
    }
    for (const Context& context : contexts()) {
      const AdditiveResult<float> found = p.run(context);
      double worst = 0;
      for (std::size_t i = 0; i < found.out.size(); ++i)
        worst = std::max(worst, std::abs(static_cast<double>(found.out[i]) - truth.out[i]));
      EXPECT_TRUE(worst <= 4 * plain) << name(context.isa()) << " " << worst << " " << plain;
    }
  }
}

TEST(Additive, OtherPartsOfAScoreAreAdded) {
  AdditiveProblem<double> p({1, 2, 5, 9, 3, 2});
  std::vector<double> bias(45);
  Random random(5);
  for (double& x : bias) x = random.normal();
  bias[3] = -kInf;
  p.options.score.bias = ConstTensor(bias.data(), {1, 1, 5, 9});
  p.options.score.alibi_slopes = std::vector<float>{0.5f, 0.25f};
  p.options.score.sinks = {0.5f, -1.0f};
  p.options.dropout = {.p = 0.25, .seed = 3};
  for (const Context& context : contexts()) expect_agreement(p, p.oracle(), context, "parts");
}

// Queries and keys beyond the range of e^(2x), some cancelling: near and far pairs side by side.
TEST(Additive, HugeArguments) {
  for (const double size : {20.0, 60.0, 1e4, 1e30}) {
    AdditiveProblem<double> p({1, 1, 9, 40, 5, 3}, 3);
    AdditiveProblem<float> f(p.shape, 3);
    const auto enlarge = [&](auto& x) {
      using E = std::remove_reference_t<decltype(x.q[0])>;
      for (std::size_t i = 0; i < x.q.size(); i += 7) x.q[i] *= static_cast<E>(size);
      for (std::size_t i = 0; i < x.k.size(); i += 11) x.k[i] *= static_cast<E>(size);
      for (std::size_t c = 0; c < 5; ++c) {  // query 2 against key 3
        x.q[10 + c] = static_cast<E>(static_cast<float>(size)) + x.q[10 + c];
        x.k[15 + c] = -static_cast<E>(static_cast<float>(size));
      }
      for (std::size_t c = 0; c < 5; ++c)
        x.q[10 + c] = static_cast<E>(static_cast<float>(x.q[10 + c]));
    };
    enlarge(f);
    enlarge(p);
    p.q.assign(f.q.begin(), f.q.end());
    p.k.assign(f.k.begin(), f.k.end());
    const AdditiveResult<double> truth = p.oracle();
    for (const Context& context : contexts()) {
      const std::string label = std::to_string(size) + " " + name(context.isa());
      expect_agreement(p, truth, context, label + " float64");
      expect_agreement(f, truth, context, label + " float32");
    }
  }
}

TEST(Additive, HugeWeights) {
  AdditiveProblem<double> p({1, 1, 5, 20, 6, 3});
  AdditiveProblem<float> f(p.shape);
  for (std::size_t c = 0; c < 6; ++c) {
    p.v_a[c] *= 1e12;
    f.v_a[c] *= 1e12f;
  }
  for (const Context& context : contexts()) {
    const AdditiveResult<double> truth = p.oracle();
    const AdditiveResult<float> found = f.run(context);
    for (std::size_t i = 0; i < truth.out.size(); ++i)
      EXPECT_NEAR(found.out[i], truth.out[i], 1e-5) << name(context.isa());
    for (const float x : found.dq) EXPECT_TRUE(std::isfinite(x));
  }
}

TEST(Additive, InfiniteArgumentsSaturate) {
  AdditiveProblem<double> p({1, 1, 4, 6, 3, 2});
  p.q[4] = kInf;
  p.k[7] = -kInf;
  const AdditiveResult<double> truth = p.oracle();  // inf - inf in row 1, column 1
  for (const Context& context : contexts()) {
    const AdditiveResult<double> found = p.run(context);
    for (std::size_t i = 0; i < truth.out.size(); ++i) {
      if (std::isnan(truth.out[i]))
        EXPECT_TRUE(std::isnan(found.out[i])) << i;
      else
        EXPECT_NEAR(found.out[i], truth.out[i], 1e-13) << i;
    }
  }
}

template <class T>
void expect_same_bits_everywhere(const Context& context) {
  for (const AdditiveShape& shape :
       {AdditiveShape{2, 3, 7, 40, 9, 5}, AdditiveShape{1, 1, 250, 1500, 6, 4}}) {
    AdditiveProblem<T> p(shape);
    p.options = {.mask = Mask::causal() | Mask::prefix(9), .query_start = 30};
    // Some far ones.
    for (std::size_t i = 0; i < p.q.size(); i += 101) p.q[i] = 500;
    for (std::size_t i = 0; i < p.k.size(); i += 67) p.k[i] = -500;
    const AdditiveResult<T> all = p.run(context);
    for (const int threads : {1, 3, 5}) {
      const Context other({.threads = threads, .isa = context.isa()});
      EXPECT_TRUE(same_bits(all, p.run(other))) << shape.label() << " " << threads;
    }
    // Every query by itself, with keys prepared once.
    const AdditiveKeys keys(p.inputs().k, context);
    const std::int64_t step = shape.q_len > 50 ? 37 : 1;
    for (std::int64_t i = 0; i < shape.q_len; i += step) {
      const auto row = [i](const ConstTensor& x) {
        ConstTensor one = x;
        one.data = x.row<T>(0, 0, i);
        one.shape[2] = 1;
        return one;
      };
      std::vector<T> out(static_cast<std::size_t>(shape.batch * shape.heads * shape.v_width));
      AttentionOptions options = p.options;
      options.query_start += i;
      additive(row(p.inputs().q), keys, p.inputs().v, p.inputs().v_a,
               Tensor(out.data(), {shape.batch, shape.heads, 1, shape.v_width}), options, context);
      const ConstTensor whole(all.out.data(),
                              {shape.batch, shape.heads, shape.q_len, shape.v_width});
      for (std::int64_t n = 0; n < shape.batch * shape.heads; ++n) {
        EXPECT_EQ(std::memcmp(out.data() + n * shape.v_width,
                              whole.row<T>(n / shape.heads, n % shape.heads, i),
                              static_cast<std::size_t>(shape.v_width) * sizeof(T)),
                  0)
            << i;
      }
    }
  }
}

TEST(Additive, SameBitsForAnyThreadsAndOneQueryAtATime) {
  for (const Context& context : contexts()) {
    SCOPED_TRACE(name(context.isa()));
    expect_same_bits_everywhere<float>(context);
    expect_same_bits_everywhere<double>(context);
  }
}

TEST(Additive, OtherMemoryLayoutsGiveTheSameBits) {
  AdditiveProblem<float> p({2, 3, 5, 37, 6, 4, false});
  AdditiveProblem<float> turned = p;
  turned.blhd = true;
  const auto turn = [&](const std::vector<float>& x, std::int64_t length, std::int64_t width) {
    std::vector<float> y(x.size());
    const ConstTensor from(x.data(), {2, 3, length, width});
    const Tensor to = Tensor::blhd(y.data(), {2, 3, length, width});
    for (std::int64_t n = 0; n < 6 * length; ++n) {
      std::copy_n(from.row<float>(n / length / 3, n / length % 3, n % length), width,
                  to.row<float>(n / length / 3, n / length % 3, n % length));
    }
    return y;
  };
  turned.q = turn(p.q, 5, 6);
  turned.k = turn(p.k, 37, 6);
  turned.v = turn(p.v, 37, 4);
  turned.d_out = turn(p.d_out, 5, 4);
  turned.d_lse = turn(p.d_lse, 5, 1);
  for (const Context& context : contexts()) {
    const AdditiveResult<float> a = p.run(context), b = turned.run(context);
    EXPECT_TRUE(same_bits(turn(a.out, 5, 4), b.out));
    EXPECT_TRUE(same_bits(turn(a.dq, 5, 6), b.dq));
    EXPECT_TRUE(same_bits(turn(a.dk, 37, 6), b.dk));
    EXPECT_TRUE(same_bits(turn(a.dv, 37, 4), b.dv));
    EXPECT_TRUE(same_bits(a.dv_a, b.dv_a));
  }
}

TEST(Additive, RowsThatSeeNothingAreZero) {
  AdditiveProblem<float> p({1, 2, 6, 8, 3, 2});
  p.options = {.mask = Mask::causal(), .query_start = -2};
  for (const Context& context : contexts()) {
    const AdditiveResult<float> r = p.run(context);
    for (std::size_t head = 0; head < 2; ++head) {
      for (std::size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(r.lse[head * 6 + i], -kInf);
        for (std::size_t d = 0; d < 2; ++d) EXPECT_EQ(r.out[(head * 6 + i) * 2 + d], 0);
        for (std::size_t c = 0; c < 3; ++c) EXPECT_EQ(r.dq[(head * 6 + i) * 3 + c], 0);
      }
    }
  }
}

// Hidden keys and rows that see nothing hold what they like.
TEST(Additive, PoisonStaysWhereItIs) {
  AdditiveProblem<float> p({2, 1, 6, 300, 5, 3});
  p.options = {.mask = Mask::causal() & Mask::padding({280, 3}), .query_start = -1};
  for (const Context& context : contexts()) {
    const AdditiveResult<float> clean = p.run(context);
    for (const double poison : {kNan, kInf, -kInf, 1e38}) {
      AdditiveProblem<float> bad = p;
      const auto x = static_cast<float>(poison);
      // Row 0 sees nothing; batch 0: keys from 5 on; batch 1: keys from 3 on.
      for (std::size_t b = 0; b < 2; ++b) {
        for (std::size_t c = 0; c < 5; ++c) bad.q[b * 30 + c] = x;
        for (std::size_t c = 0; c < 3; ++c) bad.d_out[b * 18 + c] = x;
        bad.d_lse[b * 6] = x;
        for (std::size_t j = b == 0 ? 5 : 3; j < 300; j += 2) {
          bad.k[(b * 300 + j) * 5 + j % 5] = x;
          bad.v[(b * 300 + j) * 3 + j % 3] = x;
        }
      }
      EXPECT_TRUE(same_bits(clean, bad.run(context))) << poison << " " << name(context.isa());
    }
  }
}

TEST(Additive, VisiblePoisonReachesWhoSeesIt) {
  AdditiveProblem<float> p({1, 1, 6, 20, 5, 3});
  p.options = {.mask = Mask::causal(), .query_start = 10};
  p.k[12 * 5] = std::numeric_limits<float>::quiet_NaN();  // seen by rows 2 and later
  for (const Context& context : contexts()) {
    AdditiveProblem<float> without = p;
    without.k[12 * 5] = 0;
    const AdditiveResult<float> r = p.run(context), clean = without.run(context);
    for (std::size_t i = 0; i < 6; ++i) {
      for (std::size_t c = 0; c < 3; ++c) {
        if (i < 2)
          EXPECT_EQ(r.out[i * 3 + c], clean.out[i * 3 + c]) << i;
        else
          EXPECT_TRUE(std::isnan(r.out[i * 3 + c])) << i;
      }
    }
  }
}

TEST(Additive, WeightsOfChosenQueries) {
  AdditiveProblem<double> p({1, 2, 4, 9, 3, 2});
  std::vector<double> out(16), found(2 * 2 * 9), truth(found.size());
  const auto observed = [](std::vector<double>& to) {
    return Observed{.rows = {.queries = {3, 0}, .probabilities = Tensor(to.data(), {1, 2, 2, 9})}};
  };
  additive(p.inputs(), Tensor(out.data(), {1, 2, 4, 2}), {}, Context(), observed(found));
  reference::additive(p.inputs(), Tensor(out.data(), {1, 2, 4, 2}), {}, observed(truth));
  for (std::size_t i = 0; i < truth.size(); ++i) EXPECT_NEAR(found[i], truth[i], 1e-14);
}

void expect_refused(const AdditiveProblem<float>& p, const AdditiveInputs& inputs,
                    const std::string& message, const Context& context = Context()) {
  std::vector<float> out(p.d_out.size());
  try {
    additive(inputs, Tensor(out.data(), {2, 2, 3, 5}), p.options, context);
    FAIL() << "taken: " << message;
  } catch (const std::invalid_argument& e) {
    EXPECT_EQ(std::string(e.what()), message);
  }
}

TEST(Additive, RefusesWhatDoesNotFit) {
  AdditiveProblem<float> p({2, 2, 3, 4, 6, 5});
  const auto changed = [&](const auto& change) {
    AdditiveInputs in = p.inputs();
    change(in);
    return in;
  };
  expect_refused(p, changed([](AdditiveInputs& in) { in.q.shape[3] = 5; }),
                 "[additive] q has width 5, k has 6");
  expect_refused(p, changed([](AdditiveInputs& in) { in.q.shape[1] = 1; }),
                 "[additive] q has heads 1, k has 2");
  expect_refused(p, changed([](AdditiveInputs& in) { in.v.shape[2] = 3; }),
                 "[additive] v has length 3, k has 4");
  expect_refused(p, changed([](AdditiveInputs& in) { in.v_a.shape[3] = 5; }),
                 "[additive] v_a has shape [1, 1, 1, 5], must be [1, 1, 1, 6]");
  expect_refused(p, changed([](AdditiveInputs& in) { in.q.dtype = DType::bf16; }),
                 "[additive] q is bfloat16, must be float32 or float64");
  expect_refused(p, changed([](AdditiveInputs& in) { in.v.shape[3] = 4; }),
                 "[additive] out has shape [2, 2, 3, 5], must be [2, 2, 3, 4]");
  AdditiveProblem<float> scaled = p;
  scaled.options.score.scale = 0.5;
  expect_refused(scaled, p.inputs(), "[additive] a scale of 0.5 is given: there is none");
  AdditiveProblem<float> capped = p;
  capped.options.score.soft_cap = 30;
  expect_refused(capped, p.inputs(), "[additive] a soft cap of 30 is given: there is none");
}

// Nothing of the size of all pairs, 16 MiB, is made; nor of all pairs by the width, 512 MiB.
TEST(Additive, MemoryDoesNotGrowWithPairs) {
  const AdditiveProblem<float> p({1, 1, 2048, 2048, 32, 32});
  AdditiveResult<float> r = p.made();
  const std::int64_t before = peak_kb();
  if (before == 0) GTEST_SKIP() << "no /proc/self/status";
  const Context context({.threads = 2});
  const Tensor out = p.view(r.out, 2048, 32), lse = p.view(r.lse, 2048, 1);
  additive(p.inputs(), out, {}, context, {.lse = lse});
  additive_backward(p.inputs(), {.out = out, .lse = lse}, p.from(), p.to(r), {}, context);
  EXPECT_LT(peak_kb() - before, 12 * 1024);
}

TEST(Additive, KeysServeOneInstructionSet) {
  const std::vector<Isa> isas = supported_isas();
  if (isas.size() < 2) GTEST_SKIP() << "one instruction set";
  AdditiveProblem<float> p({1, 1, 3, 4, 6, 5});
  const AdditiveKeys keys(p.inputs().k, Context({.isa = isas[0]}));
  std::vector<float> out(15);
  EXPECT_THROW(additive(p.inputs().q, keys, p.inputs().v, p.inputs().v_a,
                        Tensor(out.data(), {1, 1, 3, 5}), {}, Context({.isa = isas[1]})),
               std::invalid_argument);
}

TEST(Additive, SomeGradientsAlone) {
  AdditiveProblem<float> p({1, 2, 5, 300, 3, 2});
  const Context context;
  AdditiveResult<float> all = p.run(context), one = p.made();
  const Tensor out = p.view(all.out, 5, 2), lse = p.view(all.lse, 5, 1);
  const AdditiveGradients places = p.to(one);
  for (Tensor AdditiveGradients::*part : {&AdditiveGradients::q, &AdditiveGradients::k,
                                          &AdditiveGradients::v, &AdditiveGradients::v_a}) {
    AdditiveGradients only;
    only.*part = places.*part;
    additive_backward(p.inputs(), {.out = out, .lse = lse}, p.from(), only, {}, context);
  }
  one.out = all.out;
  one.lse = all.lse;
  EXPECT_TRUE(same_bits(all, one));
}

TEST(Project, IsWXPlusB) {
  Random random(2);
  std::vector<double> x(2 * 3 * 4 * 5), w(3 * 7 * 9), b(7), y(2 * 3 * 4 * 7);
  for (auto* all : {&x, &w, &b}) {
    for (double& e : *all) e = random.normal();
  }
  // Five of the nine columns of w: [W_q W_k] of concat.
  const ConstTensor part(w.data() + 2, {1, 3, 7, 5}, {189, 63, 9, 1});
  project(ConstTensor(x.data(), {2, 3, 4, 5}), part, ConstTensor(b.data(), {1, 1, 1, 7}),
          Tensor(y.data(), {2, 3, 4, 7}));
  for (std::size_t n = 0; n < 24; ++n) {
    for (std::size_t o = 0; o < 7; ++o) {
      double sum = b[o];
      for (std::size_t i = 0; i < 5; ++i) sum += w[(n / 4 % 3 * 7 + o) * 9 + 2 + i] * x[n * 5 + i];
      EXPECT_NEAR(y[n * 7 + o], sum, 1e-14);
    }
  }
}

}  // namespace
}  // namespace attn::test
