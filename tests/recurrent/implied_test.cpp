// The attention that recurrences imply, against their oracles: a value that is 1 at one token and 0
// elsewhere puts that token's a_ij out.
#include "attn/implied.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "attn/reference.h"
#include "problem.h"
#include "scan_problem.h"

namespace attn::test {
namespace {

using Rows = std::vector<double>;  // [heads][tokens][tokens]

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::vector<Context> all_isas() {
  std::vector<Context> all;
  for (const Isa isa : supported_isas()) all.emplace_back(ContextOptions{.threads = 2, .isa = isa});
  return all;
}

// Rows by their sums.
Rows weights_of(Rows a, std::int64_t tokens) {
  for (double& x : a) x = std::abs(x);
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(a.size()); i += tokens) {
    const double sum = std::accumulate(a.begin() + i, a.begin() + i + tokens, 0.0);
    for (std::int64_t j = i; j < i + tokens && sum != 0; ++j) a[at(j)] /= sum;
  }
  return a;
}

Rows rows_of(const ImpliedAttention& implied, const Context& context) {
  const std::int64_t n = implied.tokens();
  Rows rows(at(implied.heads() * n * n));
  for (std::int64_t i = 0; i < implied.heads() * n; ++i)
    implied.row(i / n, i % n, rows.data() + i * n, context);
  return rows;
}

void expect_near(const Rows& rows, const Rows& expected, const Rows& bounds) {
  ASSERT_EQ(rows.size(), expected.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ASSERT_NEAR(rows[i], expected[i], bounds[i]) << "number " << i;
  }
}

std::vector<RecurrentCase> state_cases() {
  std::vector<RecurrentCase> cases;
  const auto add = [&](const std::string& name, Decay decay, auto change) {
    RecurrentCase c{.name = name, .q_heads = 1, .heads = 2, .length = 37, .width = 20};
    c.decay = decay;
    change(c);
    c.v_width = std::max<std::int64_t>(c.length, 1);
    cases.push_back(c);
  };
  const auto nothing = [](RecurrentCase&) {};
  add("linear", Decay::none, nothing);
  add("retnet", Decay::head, nothing);
  add("mamba2", Decay::token, [](RecurrentCase& c) { c.beta = true; });
  add("rwkv5", Decay::channel, [](RecurrentCase& c) { c.bonus = true; });
  add("rwkv6", Decay::channel_and_token, [](RecurrentCase& c) { c.bonus = true; });
  add("gla", Decay::channel_and_token, [](RecurrentCase& c) { c.q_heads = 2; });
  add("delta", Decay::none, [](RecurrentCase& c) {
    c.rule = StateRule::delta;
    c.beta = true;
  });
  add("gated delta", Decay::token, [](RecurrentCase& c) {
    c.rule = StateRule::delta;
    c.beta = true;
  });
  add("rwkv7", Decay::channel_and_token, [](RecurrentCase& c) { c.rank_one = true; });
  add("bonus alone", Decay::token, [](RecurrentCase& c) { c.bonus = true; });
  add("one token", Decay::token, [](RecurrentCase& c) { c.length = 1; });
  add("nothing", Decay::token, [](RecurrentCase& c) { c.length = 0; });
  add("width 1", Decay::channel, [](RecurrentCase& c) { c.width = 1; });
  add("width 257", Decay::channel_and_token, [](RecurrentCase& c) { c.width = 257; });
  add("long", Decay::token, [](RecurrentCase& c) { c.length = 130; });
  add("forgetful", Decay::channel, [](RecurrentCase& c) {
    c.length = 130;
    c.strongest = 60;
  });
  return cases;
}

// |a_ij| of the oracle, and what float may be off by: rounding at each step of the sizes of terms.
template <class T>
void check_states(RecurrentCase c, const std::vector<Context>& contexts) {
  SCOPED_TRACE(c.name);
  RecurrentProblem<T> p(c);
  std::fill(p.v.begin(), p.v.end(), T(0));
  for (std::int64_t i = 0; i < c.heads * c.length; ++i) p.v[at(i * c.v_width + i % c.length)] = 1;
  const Rows a = exact(p).out;
  RecurrentProblem<double> sizes = exact(p);
  for (std::vector<double>* x : {&sizes.q, &sizes.k, &sizes.bonus})
    for (double& e : *x) e = std::abs(e);
  sizes.c.rule = StateRule::add;
  sizes.a.clear();
  sizes.b.clear();
  sizes.run_reference();
  const double steps = static_cast<double>(c.width + c.length + 16) *
                       static_cast<double>(std::numeric_limits<T>::epsilon()) *
                       (c.rule == StateRule::delta || c.rank_one ? 4 : 1);
  Rows bounds(a.size());
  for (std::size_t i = 0; i < a.size(); i += at(c.length)) {
    double sum = 0, size = 0;
    for (std::size_t j = i; j < i + at(c.length); ++j) {
      sum += std::abs(a[j]);
      size += sizes.out[j];
    }
    std::fill_n(bounds.begin() + static_cast<std::ptrdiff_t>(i), c.length,
                std::numeric_limits<T>::min() + steps * size / sum);
  }
  const ImpliedAttention implied = ImpliedAttention::of(p.inputs(), c.options());
  EXPECT_EQ(implied.heads(), c.heads);
  EXPECT_EQ(implied.tokens(), c.length);
  for (const Context& context : contexts)
    expect_near(rows_of(implied, context), weights_of(a, c.length), bounds);
}

TEST(Implied, RowsOfStatesAreThoseOfTheOracle) {
  for (const RecurrentCase& c : state_cases()) {
    check_states<float>(c, all_isas());
    check_states<double>(c, all_isas());
  }
}

TEST(Implied, RowsOfMamba2AreThoseOfTheOracle) {
  const std::int64_t heads = 3, groups = 1, tokens = 29, states = 5;
  Numbers numbers(4);
  Made<double> x({1, heads, tokens, tokens}), dt({1, heads, tokens, 1}, numbers, -3, 2),
      a({1, heads, 1, 1}, numbers, -2, -0.1), b({1, groups, tokens, states}, numbers, -1, 1),
      c({1, groups, tokens, states}, numbers, -1, 1), bias({1, heads, 1, 1}, numbers, -1, 1),
      d({1, heads, 1, 1}, numbers, 1, 2);
  for (std::int64_t i = 0; i < heads * tokens; ++i) x.x[at(i * tokens + i % tokens)] = 1;
  Mamba2Inputs in{.x = x.view(), .dt = dt.view(), .a = a.view(), .b = b.view(), .c = c.view()};
  in.dt_bias = bias.view();
  const Mamba2Options options{.dt_min = 0.1, .dt_max = 1.5};
  Made<double> y(x.shape);
  reference::mamba2(in, y.view(), {}, options);
  in.d = d.view();  // goes around the state
  const ImpliedAttention implied = ImpliedAttention::of(in, options);
  const Rows rows = rows_of(implied, Context());
  expect_near(rows, weights_of(y.x, tokens), Rows(rows.size(), 1e-13));
}

// Sums over channels of |a_ij|, from one run of the oracle a token.
Rows sums_over_channels(std::int64_t tokens, const auto& out_of_token) {
  Rows a(at(tokens * tokens));
  for (std::int64_t j = 0; j < tokens; ++j) {
    const Made<double> out = out_of_token(j);
    for (std::int64_t i = 0; i < tokens; ++i) {
      for (std::int64_t c = 0; c < out.shape[3]; ++c)
        a[at(i * tokens + j)] += std::abs(out.x[at(i * out.shape[3] + c)]);
    }
  }
  return weights_of(a, tokens);
}
void only(std::int64_t token, Made<double>& x) {
  const std::int64_t width = x.shape[3];
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(x.x.size()); ++i)
    x.x[at(i)] = i / width == token ? 1 : 0;
}

template <class T>
Made<double> in_double(const Made<T>& from) {
  Made<double> to;
  to.shape = from.shape;
  to.x.assign(from.x.begin(), from.x.end());
  return to;
}

template <class T>
void check_scan_rows(const ScanCase& s, double bound) {
  SCOPED_TRACE(s.name());
  ScanProblem<T> p(s);
  p.d = p.z = {};
  ScanProblem<double> e(s);
  e.d = e.z = e.state = {};
  e.delta = in_double(p.delta);
  e.a = in_double(p.a);
  e.b = in_double(p.b);
  e.c = in_double(p.c);
  e.bias = in_double(p.bias);
  const Rows expected = sums_over_channels(s.length, [&](std::int64_t j) {
    only(j, e.u);
    return scan_of(e, nullptr).out;
  });
  const ImpliedAttention implied = ImpliedAttention::of(p.inputs(), p.options);
  EXPECT_EQ(implied.heads(), 1);
  for (const Context& context : all_isas())
    expect_near(rows_of(implied, context), expected, Rows(expected.size(), bound));
}

TEST(Implied, RowsOfTheSelectiveScanAreThoseOfTheOracle) {
  for (const ScanCase& s : std::initializer_list<ScanCase>{{1, 0, 5, 3, 1, false},
                                                           {1, 1, 1, 1, 1, false},
                                                           {1, 37, 17, 16, 1, true},
                                                           {1, 33, 48, 16, 3, true},
                                                           {1, 260, 6, 5, 2, false}}) {
    check_scan_rows<float>(s, 4e-6);
    check_scan_rows<double>(s, 1e-13);
  }
}

TEST(Implied, RowsOfRwkv4AreThoseOfTheOracle) {
  for (const std::int64_t tokens : {0, 1, 7, 67}) {
    Wkv4Problem<double> p(1, tokens, 19, false);
    const Rows expected = sums_over_channels(tokens, [&](std::int64_t j) {
      only(j, p.v);
      return wkv4_of(p, nullptr).out;
    });
    for (const Context& context : all_isas()) {
      const Rows rows = rows_of(ImpliedAttention::of(p.inputs()), context);
      expect_near(rows, expected, Rows(rows.size(), 1e-12));
    }
  }
}

TEST(Implied, KeysOfRwkv4MayBeHuge) {
  Wkv4Problem<float> p(1, 40, 3, false);
  for (std::size_t i = 0; i < p.k.x.size(); ++i) p.k.x[i] *= i / 3 == 20 ? 1000 : 100;
  const Rows rows = rows_of(ImpliedAttention::of(p.inputs()), Context());
  for (std::int64_t i = 0; i < 40; ++i) {
    EXPECT_NEAR(std::accumulate(rows.begin() + i * 40, rows.begin() + (i + 1) * 40, 0.0), 1, 1e-9);
  }
}

TEST(Implied, DecayOfMinusInfinityForgetsEverythingBefore) {
  RecurrentCase c{.name = "", .length = 9, .width = 3, .decay = Decay::token};
  RecurrentProblem<float> p(c);
  p.log_decay[4] = -std::numeric_limits<float>::infinity();
  const Rows rows = rows_of(ImpliedAttention::of(p.inputs()), Context());
  for (std::int64_t i = 4; i < 9; ++i) {
    for (std::int64_t j = 0; j < 4; ++j) EXPECT_EQ(rows[at(i * 9 + j)], 0);
  }
  EXPECT_EQ(rows[at(4 * 9 + 4)], 1);
}

// Every question at once, with places for the answers.
template <class T>
struct Asked {
  std::int64_t heads, n, top = 3, bins = 7;
  std::vector<T> lse, largest, entropy, relative, most, variance, top_weights, sets, cells, means,
      exact;
  std::vector<double> columns, distances, offsets, offset_queries;
  std::vector<std::int32_t> top_keys;

  Asked(std::int64_t head_count, std::int64_t tokens) : heads(head_count), n(tokens) {}

  Observed observed() {
    Observed o;
    const auto tensor = [&](auto& x, std::int64_t rows, std::int64_t width) {
      x.assign(at(heads * rows * width), -77);
      return Tensor(x.data(), Shape{1, heads, rows, width});
    };
    o.lse = tensor(lse, n, 1);
    o.max_logit = tensor(largest, n, 1);
    o.entropy = tensor(entropy, n, 1);
    o.relative_entropy = tensor(relative, n, 1);
    o.max_probability = tensor(most, n, 1);
    o.mean_variance = tensor(variance, n, 1);
    o.column_mass = tensor(columns, 1, n);
    top_keys.assign(at(heads * n * top), -77);
    o.top = {.k = top, .weights = tensor(top_weights, n, top), .keys = top_keys};
    o.distances = {.first = -1, .step = 2, .bins = bins, .mass = tensor(distances, 1, bins)};
    o.offsets = {.offsets = {5, -1, 0, 1},
                 .mass = tensor(offsets, 1, 4),
                 .queries = tensor(offset_queries, 1, 4)};
    o.key_sets = {.sets = {{0}, {}, {3, 1, 3}}, .mass = tensor(sets, n, 3)};
    o.picture = {.q_begin = 2,
                 .q_end = n,
                 .k_begin = 1,
                 .k_end = n - 1,
                 .rows = 4,
                 .columns = 3,
                 .largest = tensor(cells, 4, 3),
                 .mean = tensor(means, 4, 3)};
    o.rows = {.queries = {0, n - 1, 4}, .probabilities = tensor(exact, 3, n)};
    return o;
  }
};

// Exact attention whose scores are logarithms of the weights answers the same.
TEST(Implied, AnswersAreThoseOfAttentionWithSuchWeights) {
  RecurrentCase c{.name = "", .q_heads = 2, .heads = 2, .length = 23, .width = 5};
  c.decay = Decay::channel_and_token;
  c.bonus = true;
  const RecurrentProblem<double> p(c);
  const ImpliedAttention implied = ImpliedAttention::of(p.inputs());
  Asked<double> ours(2, 23), theirs(2, 23);
  implied.observe(ours.observed(), Context({.threads = 3}));

  Rows bias = rows_of(implied, Context());
  for (double& x : bias) x = std::log(x);
  const std::vector<double> zeros(2 * 23);
  std::vector<double> out(2 * 23);
  const Shape shape{1, 2, 23, 1};
  AttentionOptions options{.mask = Mask::causal()};
  options.score.bias = {bias.data(), {1, 2, 23, 23}};
  const ConstTensor none(zeros.data(), shape);
  reference::attention(none, none, none, {out.data(), shape}, options, theirs.observed());

  const auto same = [](const auto& x, const auto& y, const char* what) {
    ASSERT_EQ(x.size(), y.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      ASSERT_NEAR(x[i], y[i], 1e-10) << what << " " << i;
    }
  };
  // Rows of weights have the sum 1 and those of |a_ij| another, which the row below checks.
  for (std::size_t i = 0; i < ours.largest.size(); ++i) ours.largest[i] -= ours.lse[i];
  same(ours.largest, theirs.largest, "max_logit");
  same(ours.entropy, theirs.entropy, "entropy");
  same(ours.relative, theirs.relative, "relative_entropy");
  same(ours.most, theirs.most, "max_probability");
  same(ours.variance, theirs.variance, "mean_variance");
  same(ours.columns, theirs.columns, "column_mass");
  same(ours.top_weights, theirs.top_weights, "top");
  same(ours.top_keys, theirs.top_keys, "top keys");
  same(ours.distances, theirs.distances, "distances");
  same(ours.offsets, theirs.offsets, "offsets");
  same(ours.offset_queries, theirs.offset_queries, "offset queries");
  same(ours.sets, theirs.sets, "sets");
  same(ours.cells, theirs.cells, "largest of cells");
  same(ours.means, theirs.means, "means of cells");
  same(ours.exact, theirs.exact, "rows");
  // The first token reads itself alone, through the bonus.
  double own = 0;
  for (std::size_t i = 0; i < 5; ++i) own += p.q[i] * p.bonus[i] * p.k[i];
  EXPECT_NEAR(ours.lse[0], std::log(std::abs(own)), 1e-12);
}

TEST(Implied, AnswersHaveTheSameBitsForAnyThreads) {
  const ScanProblem<float> p({1, 300, 40, 4, 1, false});
  const ImpliedAttention implied = ImpliedAttention::of(p.inputs(), p.options);
  Asked<float> first(1, 300);
  implied.observe(first.observed(), Context({.threads = 1}));
  for (const int threads : {2, 3, 8}) {
    Asked<float> more(1, 300);
    implied.observe(more.observed(), Context({.threads = threads}));
    EXPECT_EQ(more.entropy, first.entropy);
    EXPECT_EQ(more.columns, first.columns);
    EXPECT_EQ(more.distances, first.distances);
    EXPECT_EQ(more.means, first.means);
    EXPECT_EQ(more.exact, first.exact);
    EXPECT_EQ(more.top_keys, first.top_keys);
  }
}

TEST(Implied, RefusesWhatDoesNotFit) {
  RecurrentCase c{.name = "", .length = 4, .width = 3};
  const RecurrentProblem<float> p(c);
  const ImpliedAttention implied = ImpliedAttention::of(p.inputs());
  std::vector<double> row(4);
  EXPECT_THROW(implied.row(1, 0, row.data()), std::invalid_argument);
  EXPECT_THROW(implied.row(0, 4, row.data()), std::invalid_argument);
  EXPECT_THROW(implied.row(0, -1, row.data()), std::invalid_argument);
  std::vector<float> numbers(4);
  Observed wrong;
  wrong.entropy = {numbers.data(), Shape{1, 1, 3, 1}};
  EXPECT_THROW(implied.observe(wrong), std::invalid_argument);
  Observed values;
  values.value_weighted = {numbers.data(), Shape{1, 1, 4, 1}};
  EXPECT_THROW(implied.observe(values), std::invalid_argument);
  c.batch = 2;
  EXPECT_THROW(ImpliedAttention::of(RecurrentProblem<float>(c).inputs()), std::invalid_argument);
  EXPECT_THROW(ImpliedAttention::of(p.inputs(), {.offsets = {0, 2, 4}}), std::invalid_argument);
  RecurrentInputs in = p.inputs();
  in.k.shape[3] = 2;
  EXPECT_THROW(ImpliedAttention::of(in), std::invalid_argument);
}

}  // namespace
}  // namespace attn::test
