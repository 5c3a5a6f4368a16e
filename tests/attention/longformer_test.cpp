// Longformer attention: what its two runs make together, against the oracle, one call, each
// sequence alone, and finite differences.
#include "attn/longformer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention/cases.h"

namespace attn::test {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Owned tensors of one call.
template <class T>
struct Call {
  AttentionShape shape;
  LongformerOptions options;
  std::int64_t global_rows;  // of a batch entry
  std::vector<T> q, k, v, global_q, global_k, global_v, d_out;
  std::vector<T> out, lse, global_lse;

  Call(const AttentionShape& s, LongformerOptions o, std::int64_t globals, std::uint64_t seed = 3)
      : shape(s), options(std::move(o)), global_rows(globals) {
    shape.dtype = dtype_of<T>();
    Random random(seed);
    const auto fill = [&](std::vector<T>& x, const Shape& extent) {
      x.resize(at(extent[0] * extent[1] * extent[2] * extent[3]));
      for (T& e : x) e = static_cast<T>(random.normal());
    };
    fill(q, rows(shape.width));
    fill(k, keys(shape.width));
    fill(v, keys(shape.v_width));
    fill(global_q, globals_of(shape.width));
    fill(global_k, keys(shape.width));
    fill(global_v, keys(shape.v_width));
    fill(d_out, rows(shape.v_width));
    out.assign(d_out.size(), 7);
    lse.assign(at(shape.batch * shape.q_heads * shape.q_len), 7);
    global_lse.assign(at(shape.batch * shape.q_heads * globals), 7);
  }
  Shape rows(std::int64_t width) const { return {shape.batch, shape.q_heads, shape.q_len, width}; }
  Shape keys(std::int64_t width) const { return {shape.batch, shape.kv_heads, shape.k_len, width}; }
  Shape globals_of(std::int64_t width) const {
    return {shape.batch, shape.q_heads, global_rows, width};
  }
  LongformerInputs inputs() {
    return {Tensor(q.data(), rows(shape.width)),
            Tensor(k.data(), keys(shape.width)),
            Tensor(v.data(), keys(shape.v_width)),
            Tensor(global_q.data(), globals_of(shape.width)),
            Tensor(global_k.data(), keys(shape.width)),
            Tensor(global_v.data(), keys(shape.v_width))};
  }
  LongformerOutputs outputs() {
    return {Tensor(out.data(), rows(shape.v_width)), Tensor(lse.data(), rows(1)),
            Tensor(global_lse.data(), globals_of(1))};
  }
  void run(const Context& context = Context({.threads = 2})) {
    LongformerPlan(shape, options, context).run(inputs(), outputs());
  }
};

// By the oracle: local rows under a mask of one pair at a time, global rows over all keys.
template <class T>
std::vector<double> expected(Call<T>& c) {
  const LongformerOptions& o = c.options;
  const auto globals = [&](std::int64_t b) {
    if (o.global_tokens.empty()) return std::vector<std::int64_t>{};
    return o.global_tokens[o.global_tokens.size() == 1 ? 0 : at(b)];
  };
  const auto is_global = [globals](std::int64_t b, std::int64_t i) {
    const auto list = globals(b);
    return std::count(list.begin(), list.end(), i) != 0;
  };
  AttentionOptions local{.score = {.scale = o.scale}};
  local.mask = Mask::predicate([&](std::int64_t b, std::int64_t h, std::int64_t row,
                                   std::span<std::uint8_t> visible) {
    const std::int64_t d = o.dilation.empty() ? 1 : o.dilation[o.dilation.size() == 1 ? 0 : at(h)];
    for (std::int64_t j = 0; j < c.shape.k_len; ++j) {
      const std::int64_t distance = std::abs(j - row);
      const bool padded = !o.lengths.empty() && j >= o.lengths[at(b)];
      visible[at(j)] =
          !padded && (is_global(b, j) || (distance % d == 0 && distance / d <= o.window));
    }
  });
  const auto in_double = [](const std::vector<T>& x) {
    return std::vector<double>(x.begin(), x.end());
  };
  const auto q = in_double(c.q), k = in_double(c.k), v = in_double(c.v), gq = in_double(c.global_q),
             gk = in_double(c.global_k), gv = in_double(c.global_v);
  std::vector<double> out(c.out.size());
  const AttentionShape& s = c.shape;
  reference::attention({q.data(), c.rows(s.width)}, {k.data(), c.keys(s.width)},
                       {v.data(), c.keys(s.v_width)}, Tensor(out.data(), c.rows(s.v_width)), local,
                       {});
  if (c.global_rows == 0) return out;
  AttentionOptions all{.score = {.scale = o.scale}};
  if (!o.lengths.empty()) all.mask = Mask::padding(o.lengths);
  std::vector<double> rows(at(s.batch * s.q_heads * c.global_rows * s.v_width));
  reference::attention({gq.data(), c.globals_of(s.width)}, {gk.data(), c.keys(s.width)},
                       {gv.data(), c.keys(s.v_width)}, Tensor(rows.data(), c.globals_of(s.v_width)),
                       all, {});
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::int64_t h = 0; h < s.q_heads; ++h) {
      for (std::int64_t g = 0; g < c.global_rows; ++g) {
        for (std::int64_t d = 0; d < s.v_width; ++d) {
          out[at(((b * s.q_heads + h) * s.q_len + globals(b)[at(g)]) * s.v_width + d)] =
              rows[at(((b * s.q_heads + h) * c.global_rows + g) * s.v_width + d)];
        }
      }
    }
  }
  return out;
}

template <class T>
void expect_oracle(Call<T> c, double bound, const char* label) {
  c.run();
  const std::vector<double> wanted = expected(c);
  for (std::size_t i = 0; i < wanted.size(); ++i)
    ASSERT_TRUE(std::abs(c.out[i] - wanted[i]) <= bound)
        << label << " " << i << ": " << c.out[i] << " is not " << wanted[i];
}

TEST(Longformer, IsWhatTheOracleSays) {
  const auto each = [](const AttentionShape& shape, const LongformerOptions& options,
                       std::int64_t globals, const char* label) {
    expect_oracle(Call<double>(shape, options, globals), 1e-13, label);
    expect_oracle(Call<float>(shape, options, globals), 2e-6, label);
  };
  for (const std::int64_t n : {1, 2, 31, 64, 97})
    each(make_shape(1, 3, 3, n, n, 16), {.window = 8, .global_tokens = {{0}}}, 1, "lengths");
  each(make_shape(2, 4, 2, 90, 90, 16, 10), {.window = 5, .global_tokens = {{3, 40, 89}}}, 3,
       "grouped heads, the last token");
  each(make_shape(2, 2, 2, 70, 70, 16),
       {.window = 5, .global_tokens = {{0, 3}, {8, 50}}, .lengths = {70, 51}}, 2, "padding");
  each(make_shape(1, 3, 3, 80, 80, 16),
       {.window = 3, .dilation = {1, 2, 40}, .global_tokens = {{7}}, .scale = 0.5}, 1, "dilation");
  each(make_shape(1, 2, 2, 40, 40, 16), {.window = 0, .dilation = {3}, .global_tokens = {{1}}}, 1,
       "itself alone");
  each(make_shape(1, 1, 1, 6, 6, 16), {.window = 9, .global_tokens = {{0, 1, 2, 3, 4, 5}}}, 6,
       "all global");
  each(make_shape(2, 2, 2, 60, 60, 16), {.window = 5}, 0, "no global token");
  each(make_shape(1, 7, 1, 67, 67, 1), {.window = 4, .global_tokens = {{0, 66}}}, 2,
       "a group of seven, width 1");
  each(make_shape(1, 14, 2, 37, 37, 257, 3), {.window = 5, .global_tokens = {{36}}}, 1,
       "groups of seven, width 257");
}

// With the same projections nothing is apart: the bits of one call under one mask.
TEST(Longformer, IsOneCallWhereProjectionsAreTheSame) {
  Call<float> c(make_shape(1, 2, 2, 300, 300, 32), {.window = 20, .global_tokens = {{0, 117}}}, 2);
  c.global_k = c.k;
  c.global_v = c.v;
  for (std::int64_t h = 0; h < 2; ++h) {
    for (std::int64_t g = 0; g < 2; ++g) {
      const std::int64_t token = g == 0 ? 0 : 117;
      std::copy_n(c.q.data() + (h * 300 + token) * 32, 32, c.global_q.data() + (h * 2 + g) * 32);
    }
  }
  c.run();
  Problem<float> one(c.shape, 1);
  one.q = c.q;
  one.k = c.k;
  one.v = c.v;
  one.run({.mask = Mask::longformer(20, {0, 117})}, Context({.threads = 1}));
  EXPECT_TRUE(same_bits(c.out, one.out));
}

TEST(Longformer, SequencesOfOffsetsAreSeparate) {
  const std::vector<std::int64_t> lengths = {30, 1, 0, 66};
  const std::vector<std::vector<std::int64_t>> tokens = {{0, 29}, {0}, {}, {}};
  Call<float> all(make_shape(1, 2, 2, 97, 97, 16),
                  {.window = 4, .global_tokens = tokens, .offsets = {0, 30, 31, 31, 97}}, 3);
  all.run();
  std::int64_t first = 0, row = 0;
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    const std::int64_t n = lengths[s], globals = static_cast<std::int64_t>(tokens[s].size());
    Call<float> one(make_shape(1, 2, 2, n, n, 16), {.window = 4, .global_tokens = {tokens[s]}},
                    globals);
    const auto cut = [](const std::vector<float>& from, std::int64_t length, std::int64_t begin,
                        std::int64_t count) {
      std::vector<float> part;
      for (std::int64_t h = 0; h < 2; ++h) {
        const auto rows = from.begin() + (h * length + begin) * 16;
        part.insert(part.end(), rows, rows + count * 16);
      }
      return part;
    };
    one.q = cut(all.q, 97, first, n);
    one.k = cut(all.k, 97, first, n);
    one.v = cut(all.v, 97, first, n);
    one.global_q = cut(all.global_q, 3, row, globals);
    one.global_k = cut(all.global_k, 97, first, n);
    one.global_v = cut(all.global_v, 97, first, n);
    one.run();
    EXPECT_TRUE(same_bits(one.out, cut(all.out, 97, first, n))) << s;
    first += n;
    row += globals;
  }
}

TEST(Longformer, RowsReadTheirOwnProjectionsOnly) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  Call<float> clean(make_shape(1, 1, 1, 50, 50, 8), {.window = 2, .global_tokens = {{10}}}, 1);
  clean.run();
  Call<float> other = clean;
  other.global_v.assign(other.global_v.size(), kNan);
  other.run();
  for (std::size_t i = 0; i < clean.out.size(); ++i) {
    if (i / 8 == 10) {
      EXPECT_TRUE(std::isnan(other.out[i]));
    } else {
      EXPECT_EQ(std::memcmp(&clean.out[i], &other.out[i], sizeof(float)), 0);
    }
  }
  other = clean;
  other.q[at(10 * 8)] = kNan;  // a global row's ordinary query is read by nobody
  other.run();
  EXPECT_TRUE(same_bits(clean.out, other.out));
}

struct Part {
  const char* name;
  std::vector<double> Call<double>::*values;
};
const Part kParts[] = {{"q", &Call<double>::q},
                       {"k", &Call<double>::k},
                       {"v", &Call<double>::v},
                       {"global_q", &Call<double>::global_q},
                       {"global_k", &Call<double>::global_k},
                       {"global_v", &Call<double>::global_v}};

double loss(Call<double>& c) {
  c.run(Context({.threads = 1}));
  double sum = 0;
  for (std::size_t i = 0; i < c.out.size(); ++i) sum += c.out[i] * c.d_out[i];
  return sum;
}

Call<double> gradients(Call<double> c) {
  const Context context({.threads = 2});
  const LongformerPlan plan(c.shape, c.options, context);
  plan.run(c.inputs(), c.outputs());
  Call<double> to = c;
  for (const Part& part : kParts) (to.*part.values).assign((c.*part.values).size(), 99);
  const AttentionShape& s = c.shape;
  plan.backward(c.inputs(), c.outputs(), Tensor(c.d_out.data(), c.rows(s.v_width)),
                {.q = {to.q.data(), c.rows(s.width)},
                 .k = {to.k.data(), c.keys(s.width)},
                 .v = {to.v.data(), c.keys(s.v_width)},
                 .global_q = {to.global_q.data(), c.globals_of(s.width)},
                 .global_k = {to.global_k.data(), c.keys(s.width)},
                 .global_v = {to.global_v.data(), c.keys(s.v_width)}});
  return to;
}

// Every coordinate, five points with h = 2^-8; the bound as in finite_difference_test.cpp.
TEST(Longformer, GradientsAreFiniteDifferences) {
  for (Call<double> c :
       {Call<double>(make_shape(2, 2, 1, 7, 7, 3, 2),
                     {.window = 1, .global_tokens = {{0, 4}, {2, 3}}, .lengths = {7, 5}}, 2),
        Call<double>(make_shape(1, 2, 2, 9, 9, 3),
                     {.window = 1,
                     .dilation = {1, 2},
                     .global_tokens = {{1}, {}, {0, 2}},
                     .offsets = {0, 4, 6, 9}},
                     3)}) {
    const Call<double> g = gradients(c);
    for (const Part& part : kParts) {
      for (std::size_t i = 0; i < (c.*part.values).size(); ++i) {
        double& x = (c.*part.values)[i];
        const double before = x, h = 0x1p-8;
        const auto moved = [&](double step) {
          x = before + step;
          return loss(c);
        };
        const double slope =
            (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h);
        x = before;
        EXPECT_NEAR((g.*part.values)[i], slope, 1e-7) << part.name << " " << i;
      }
    }
  }
}

TEST(Longformer, GradientsOfOneRunStayOutOfTheOther) {
  Call<double> c(make_shape(1, 1, 1, 40, 40, 4), {.window = 2, .global_tokens = {{10}}}, 1);
  for (std::size_t d = 0; d < 4; ++d)
    c.d_out[10 * 4 + d] = std::numeric_limits<double>::quiet_NaN();
  const Call<double> g = gradients(c);
  for (const auto* part : {&g.q, &g.k, &g.v}) {
    for (const double x : *part) EXPECT_TRUE(std::isfinite(x));
  }
  for (const double x : g.global_k) EXPECT_TRUE(std::isnan(x));
}

TEST(Longformer, NamesWhatDoesNotFit) {
  const AttentionShape shape = make_shape(2, 2, 2, 10, 10, 4);
  const auto message = [&](const AttentionShape& s, const LongformerOptions& o) -> std::string {
    try {
      const LongformerPlan made(s, o, Context());
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "no error";
  };
  using testing::HasSubstr;
  EXPECT_THAT(message(make_shape(1, 2, 2, 9, 10, 4), {}), HasSubstr("[longformer] q_len"));
  EXPECT_THAT(message(shape, {.window = -1}), HasSubstr("[longformer] window is -1"));
  EXPECT_THAT(message(shape, {.dilation = {1, 2, 3}}),
              HasSubstr("dilation has 3 entries, needs 2"));
  EXPECT_THAT(message(shape, {.dilation = {0}}), HasSubstr("dilation is 0"));
  EXPECT_THAT(message(shape, {.global_tokens = {{10}}}),
              HasSubstr("global token 10 of sequence 0 is past its 10 tokens"));
  EXPECT_THAT(message(shape, {.global_tokens = {{3, 3}}}), HasSubstr("does not follow"));
  EXPECT_THAT(message(shape, {.global_tokens = {{-1}}}), HasSubstr("is negative"));
  EXPECT_THAT(message(shape, {.global_tokens = {{0}, {0, 1}}}),
              HasSubstr("sequence 1 has 2 global tokens, the first 1"));
  EXPECT_THAT(message(shape, {.global_tokens = {{0}, {0}, {0}}}), HasSubstr("needs 2"));
  EXPECT_THAT(message(shape, {.lengths = {10}}), HasSubstr("lengths has 1 entries for batch 2"));
  EXPECT_THAT(message(shape, {.global_tokens = {{8}}, .lengths = {10, 8}}),
              HasSubstr("sequence 1 is past its 8 tokens"));
  EXPECT_THAT(message(shape, {.lengths = {11, 3}}), HasSubstr("11"));
  EXPECT_THAT(message(shape, {.offsets = {0, 10}}), HasSubstr("offsets need batch 1"));
  EXPECT_THAT(message(make_shape(1, 2, 2, 10, 10, 4), {.offsets = {0, 7, 5, 10}}),
              HasSubstr("offsets must ascend from 0 to 10"));
}

}  // namespace
}  // namespace attn::test
