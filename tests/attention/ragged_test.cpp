// A ragged batch gives every sequence the bits that it has alone.
#include <gtest/gtest.h>

#include <functional>

#include "attention/cases.h"

namespace attn::test {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Lengths as a server meets them: prefill, a cached prefix, decoding, nothing at all.
const Ragged kRagged = {.q_offsets = {0, 130, 131, 131, 136, 201, 202},
                        .k_offsets = {0, 130, 1331, 1340, 1375, 1375, 1376},
                        .query_starts = {0, 1200, 5, 30, 2, 0}};
const AttentionShape kShape = make_shape(1, 6, 2, 202, 1376, 40, 24);
constexpr std::size_t kSequences = 6;

// Answers of one pass, over all sequences.
struct Rows {
  std::vector<float> max_logit, entropy, relative, max_p, variance;

  Observed questions(const AttentionShape& s, const Tensor& lse) {
    const auto tensor = [&s](std::vector<float>& x) {
      x.assign(at(s.q_heads * s.q_len), 7);
      return Tensor(x.data(), {1, s.q_heads, s.q_len, 1});
    };
    return {.lse = lse,
            .max_logit = tensor(max_logit),
            .entropy = tensor(entropy),
            .relative_entropy = tensor(relative),
            .max_probability = tensor(max_p),
            .mean_variance = tensor(variance)};
  }
};

// Rows [begin, begin + count) of the only batch entry.
template <class T>
BasicTensor<T> rows_of(const BasicTensor<T>& x, std::int64_t begin, std::int64_t count) {
  BasicTensor<T> part = x;
  part.data = static_cast<std::conditional_t<std::is_const_v<T>, const float, float>*>(x.data) +
              begin * x.strides[2];
  part.shape[2] = count;
  return part;
}

struct RaggedCase {
  std::string label;
  AttentionOptions options = {};
  // The mask of one sequence, where it is not that of all.
  std::vector<Mask> masks = {};
};

void PrintTo(const RaggedCase& c, std::ostream* out) { *out << c.label; }

std::vector<float> bias_values(std::int64_t n) {
  Random random(6);
  std::vector<float> x(at(n));
  for (float& e : x) e = static_cast<float>(random.normal());
  return x;
}

std::vector<RaggedCase> cases() {
  static const std::vector<float> bias = bias_values(6 * 130 * 1201);
  std::vector<RaggedCase> all;
  all.push_back({"full"});
  all.push_back({"causal", {.mask = Mask::causal()}});
  all.push_back({"window", {.mask = Mask::window(20, 3), .score = Score::alibi()}});
  all.push_back(
      {"sinks",
       {.mask = Mask::causal(), .score = {.soft_cap = 4, .sinks = {0.5f, -1, 2, 0, 1, -2}}}});
  T5Bias t5;
  for (int i = 0; i < 32 * 6; ++i) t5.table.push_back(0.1f * static_cast<float>(i % 37));
  all.push_back({"t5", {.mask = Mask::causal() | Mask::prefix(7), .score = {.t5 = t5}}});
  all.push_back(
      {"bias",
       {.mask = Mask::causal(), .score = {.bias = ConstTensor(bias.data(), {6, 1, 130, 1201})}}});
  all.push_back({"bias_keys", {.score = {.bias = ConstTensor(bias.data(), {6, 6, 1, 1201})}}});
  all.push_back({"dropout", {.mask = Mask::causal(), .dropout = {.p = 0.3, .seed = 4}}});
  const std::vector<Mask> masks = {Mask::causal(),  Mask::window(400, 0), Mask::full(),
                                   Mask::prefix(9), Mask::full(),         Mask::causal()};
  all.push_back({"per_batch", {.mask = Mask::per_batch(masks)}, masks});
  all.push_back(
      {"custom",
       {.mask = Mask::causal(), .score = {.custom = [](const ScoreTile& t) {
                                  for (std::size_t r = 0; r < t.q.size(); ++r) {
                                    for (std::int64_t j = 0; j < t.k_count; ++j) {
                                      float& s = t.s32[static_cast<std::int64_t>(r) * t.stride + j];
                                      s = (t.q[r] + t.k_begin + j) % 7 == 2
                                              ? -INFINITY
                                              : 0.5f * s + 0.1f * static_cast<float>(t.head);
                                    }
                                  }
                                }}}});
  return all;
}

class RaggedBatch : public testing::TestWithParam<RaggedCase> {};

TEST_P(RaggedBatch, GivesTheBitsOfSequencesAlone) {
  const RaggedCase& c = GetParam();
  AttentionOptions options = c.options;
  options.ragged = kRagged;
  for (const Isa isa : supported_isas()) {
    for (const int threads : {1, 3}) {
      const Context context({.threads = threads, .isa = isa});
      Problem<float> together(kShape, 23), alone = together;
      Rows rows, rows_alone;
      plan(kShape, options, context)
          .run(together.qt(), together.kt(), together.vt(), together.ot(),
               rows.questions(kShape, together.lt()));
      const Observed places = rows_alone.questions(kShape, alone.lt());
      for (std::size_t n = 0; n < kSequences; ++n) {
        const std::int64_t q = kRagged.q_offsets[n], q_len = kRagged.q_offsets[n + 1] - q,
                           k = kRagged.k_offsets[n], k_len = kRagged.k_offsets[n + 1] - k;
        AttentionOptions one = c.options;
        one.query_start = kRagged.query_starts[n];
        one.dropout.streams = {static_cast<std::uint32_t>(n)};
        if (!c.masks.empty()) one.mask = c.masks[n];
        if (!one.score.bias.empty()) {
          ConstTensor& bias = one.score.bias;
          bias.data =
              static_cast<const float*>(bias.data) + static_cast<std::int64_t>(n) * bias.strides[0];
          bias.shape = {1, bias.shape[1], bias.shape[2] == 1 ? 1 : q_len, k_len};
        }
        Observed part;
        part.lse = rows_of(places.lse, q, q_len);
        part.max_logit = rows_of(places.max_logit, q, q_len);
        part.entropy = rows_of(places.entropy, q, q_len);
        part.relative_entropy = rows_of(places.relative_entropy, q, q_len);
        part.max_probability = rows_of(places.max_probability, q, q_len);
        part.mean_variance = rows_of(places.mean_variance, q, q_len);
        plan(make_shape(1, 6, 2, q_len, k_len, 40, 24), one, context)
            .run(rows_of(alone.qt(), q, q_len), rows_of(alone.kt(), k, k_len),
                 rows_of(alone.vt(), k, k_len), rows_of(alone.ot(), q, q_len), part);
      }
      EXPECT_TRUE(same_bits(together.out, alone.out)) << name(isa) << " " << threads;
      EXPECT_TRUE(same_bits(together.lse, alone.lse)) << name(isa) << " " << threads;
      EXPECT_TRUE(same_bits(rows.max_logit, rows_alone.max_logit)) << name(isa) << " " << threads;
      EXPECT_TRUE(same_bits(rows.entropy, rows_alone.entropy)) << name(isa) << " " << threads;
      EXPECT_TRUE(same_bits(rows.relative, rows_alone.relative)) << name(isa) << " " << threads;
      EXPECT_TRUE(same_bits(rows.max_p, rows_alone.max_p)) << name(isa) << " " << threads;
      EXPECT_TRUE(same_bits(rows.variance, rows_alone.variance)) << name(isa) << " " << threads;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Options, RaggedBatch, testing::ValuesIn(cases()),
                         [](const auto& c) { return c.param.label; });

// Distances that float32 does not hold, in one sequence only: each has its bits alone.
TEST(RaggedAlibi, FarQueries) {
  const std::int64_t far = (std::int64_t{1} << 25) + 1;
  Problem<float> p(make_shape(1, 2, 1, 6, 90, 8), 3);
  AttentionOptions options = {
      .score = {.alibi_slopes = std::vector<float>{1e-6f, 3e-7f}},
      .ragged = {.q_offsets = {0, 3, 6}, .k_offsets = {0, 50, 90}, .query_starts = {2, far}}};
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    p.run(options, context);
    for (std::int64_t n = 0; n < 2; ++n) {
      const std::int64_t keys = n == 0 ? 50 : 40;
      std::vector<float> out(2 * 3 * 8);
      const Tensor alone(out.data(), {1, 2, 3, 8});
      plan(make_shape(1, 2, 1, 3, keys, 8),
           {.score = options.score, .query_start = n == 0 ? 2 : far}, context)
          .run(rows_of(ConstTensor(p.qt()), 3 * n, 3), rows_of(ConstTensor(p.kt()), 50 * n, keys),
               rows_of(ConstTensor(p.vt()), 50 * n, keys), alone);
      for (std::int64_t h = 0; h < 2; ++h) {
        for (std::int64_t i = 0; i < 24; ++i) {
          EXPECT_EQ(p.ot().row<float>(0, h, 3 * n)[i], alone.row<float>(0, h, 0)[i])
              << name(isa) << " sequence " << n;
        }
      }
    }
  }
}

TEST(RaggedPages, ReadTheirOwnSequence) {
  // Two sequences in a pool, poison elsewhere.
  Problem<float> p(make_shape(1, 2, 1, 4, 9, 8), 3);
  AttentionOptions options = {
      .mask = Mask::causal(),
      .ragged = {.q_offsets = {0, 1, 4}, .k_offsets = {0, 6, 9}, .query_starts = {5, 0}}};
  const Pages pages = {.run_begin = {0, 2, 3}, .runs = {{0, 12}, {4, 1}, {0, 5}}};
  const std::int64_t row_of[] = {12, 13, 14, 15, 1, 2, 5, 6, 7};
  std::vector<float> k(16 * 8, NAN), v(16 * 8, NAN);
  for (std::size_t j = 0; j < 9; ++j) {
    std::copy_n(&p.k[j * 8], 8, &k[at(row_of[j] * 8)]);
    std::copy_n(&p.v[j * 8], 8, &v[at(row_of[j] * 8)]);
  }
  const KeyValue kv = {.k = ConstTensor(k.data(), {1, 1, 16, 8}),
                       .v = ConstTensor(v.data(), {1, 1, 16, 8}),
                       .pages = &pages};
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> contiguous = p;
    contiguous.run(options, context);
    plan(p.shape, options, context).run(p.qt(), kv, p.ot(), {.lse = p.lt()});
    EXPECT_TRUE(same_bits(p.out, contiguous.out)) << name(isa);
    EXPECT_TRUE(same_bits(p.lse, contiguous.lse)) << name(isa);
  }
}

}  // namespace
}  // namespace attn::test
