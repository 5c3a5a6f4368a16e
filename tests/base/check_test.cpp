// The mistakes that attention refuses, and the words that it refuses them with.
#include "base/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace attn {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

void expect_error(const std::function<void()>& f, const std::string& message) {
  try {
    f();
    ADD_FAILURE() << "nothing thrown, expected: " << message;
  } catch (const std::invalid_argument& e) {
    EXPECT_EQ(e.what(), "[attention] " + message);
  }
}

class Check : public testing::Test {
 protected:
  std::vector<float> memory_ = std::vector<float>(1 << 16);
  std::vector<float> other_memory_ = std::vector<float>(1 << 16);
  const AttentionShape shape_ = {
      .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 3, .k_len = 5, .width = 8, .v_width = 6};

  Tensor f32(const Shape& shape) { return {memory_.data(), shape}; }
  Tensor written(const Shape& shape) { return {other_memory_.data(), shape}; }
  static Tensor of_type(Tensor x, DType type) {
    x.dtype = type;
    return x;
  }
  void refuses(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
               const std::string& message) {
    expect_error([&] { AttentionShape::of(q, k, v); }, message);
  }
  void refuses(const AttentionOptions& options, const std::string& message) {
    expect_error([&] { check_options(shape_, options); }, message);
  }
  void refuses_score(const Score& score, const std::string& message) {
    refuses(AttentionOptions{.score = score}, message);
  }
};

TEST_F(Check, ShapeOfTensors) {
  const AttentionShape s =
      AttentionShape::of(f32({2, 4, 3, 8}), f32({2, 2, 5, 8}), f32({2, 2, 5, 6}));
  EXPECT_EQ(s.batch, 2);
  EXPECT_EQ(s.q_heads, 4);
  EXPECT_EQ(s.kv_heads, 2);
  EXPECT_EQ(s.q_len, 3);
  EXPECT_EQ(s.k_len, 5);
  EXPECT_EQ(s.width, 8);
  EXPECT_EQ(s.v_width, 6);
  EXPECT_EQ(s.dtype, DType::f32);
  EXPECT_EQ(checked_shape({.q_len = 1, .k_len = 1, .width = 8}).v_width, 8);
}

TEST_F(Check, TensorsThatDoNotFit) {
  const Tensor q = f32({2, 4, 3, 8}), k = f32({2, 2, 5, 8}), v = f32({2, 2, 5, 6});
  refuses(q, f32({2, 2, 5, 7}), v, "k has width 7, q has 8");
  refuses(q, f32({1, 2, 5, 8}), v, "k has batch 1, q has 2");
  refuses(q, k, f32({3, 2, 5, 6}), "v has batch 3, q has 2");
  refuses(q, k, f32({2, 1, 5, 6}), "v has heads 1, k has 2");
  refuses(q, k, f32({2, 2, 4, 6}), "v has length 4, k has 5");
  refuses(q, k, f32({2, 2, 5, 0}), "v has width 0, must be 1 to 1024");
  refuses(f32({2, 3, 3, 8}), k, v, "q has heads 3, must be a multiple of k's 2");
  refuses(f32({2, 4, 3, 0}), f32({2, 2, 5, 0}), v, "q has width 0, must be 1 to 1024");
  refuses(f32({1, 1, 1, 1025}), f32({1, 1, 1, 1025}), f32({1, 1, 1, 1}),
          "q has width 1025, must be 1 to 1024");
  refuses(q, k, f32({2, 2, 5, 1025}), "v has width 1025, must be 1 to 1024");
  refuses(q, of_type(k, DType::f64), v, "k is float64, q is float32");
  refuses(q, k, of_type(v, DType::f16), "v is float16, k is float32");
  refuses(of_type(q, DType::f64), of_type(k, DType::bf16), of_type(v, DType::bf16),
          "k is bfloat16, q is float64");
  refuses(of_type(q, DType::i8), k, v, "q is int8, must be float32, bfloat16, float16 or float64");
  refuses(ConstTensor(), k, v, "k has width 8, q has 0");
  refuses(ConstTensor(nullptr, DType::f32, q.shape, q.strides), k, v, "q has no data");
  refuses(q, ConstTensor(memory_.data(), {2, 2, 5, 8}, {160, 80, 16, 2}), v,
          "k has stride 2 along its width, must be 1 (its rows contiguous)");
  refuses(q, k, f32({2, 2, -5, 6}), "v has shape [2, 2, -5, 6]");
  // A width of one has no stride to be wrong.
  ConstTensor narrow(memory_.data(), {1, 1, 2, 1}, {1, 1, 1, 99});
  EXPECT_NO_THROW(AttentionShape::of(narrow, narrow, narrow));
}

TEST_F(Check, Options) {
  EXPECT_NO_THROW(check_options(shape_, {}));
  refuses_score({.scale = NAN}, "scale is nan, must be finite in float32");
  refuses_score({.scale = -kInf}, "scale is -inf, must be finite in float32");
  refuses_score({.soft_cap = -1.5},
                "soft_cap is -1.5, must be 0 (none) or a positive number, finite in float32");
  refuses_score({.soft_cap = NAN},
                "soft_cap is nan, must be 0 (none) or a positive number, finite in float32");
  refuses_score({.alibi_slopes = std::vector<float>{1, 2, 3}},
                "alibi_slopes has 3 entries, must have 4, one a query head");
  refuses_score({.alibi_slopes = std::vector<float>{1, 2, 3, kInf}}, "an ALiBi slope is inf");
  refuses_score({.sinks = {1, 2}}, "sinks has 2 entries, must have 4, one a query head");
  refuses_score({.sinks = {1, 2, 3, NAN}}, "a sink is nan, must be finite or -infinity");
  EXPECT_NO_THROW(check_options(shape_, {.score = {.sinks = {1, 2, 3, -kInf}}}));

  refuses({.query_start = 2, .q_positions = {0, 1, 2}},
          "query_start is 2 and q_positions are given: one of them");
  refuses({.q_positions = {0, 1}}, "q_positions has 2 entries, must have 3, one a query");
  refuses({.k_positions = {0, 1, 2}}, "k_positions has 3 entries, must have 5, one a key");
  refuses({.k_positions = {0, 1, 2, 3, std::int64_t{1} << 60}},
          "k_positions[4] is 1152921504606846976, must be within 2^52 of 0");
  refuses({.query_start = -(std::int64_t{1} << 60)},
          "query_start is -1152921504606846976, must be within 2^52 of 0");
}

TEST_F(Check, TypesOfStorage) {
  for (const DType queries : {DType::f32, DType::bf16, DType::f16}) {
    for (const DType keys : {DType::f32, DType::bf16, DType::f16, DType::i8}) {
      AttentionShape s = shape_;
      s.dtype = queries;
      s.kv_dtype = keys;
      EXPECT_EQ(*checked_shape(s).kv_dtype, keys);
      EXPECT_NO_THROW(check_options(s, {.score = {.bias = f32({1, 1, 1, 5})}}));
      for (const DType out : {DType::f32, DType::bf16, DType::f16}) {
        EXPECT_NO_THROW(check_output(s, of_type(f32({2, 4, 3, 6}), out)));
      }
      expect_error(
          [&] {
            check_output(s, of_type(f32({2, 4, 3, 6}), DType::f64));
          },
          std::string("out is float64, q is ") + name(queries));
    }
  }
  EXPECT_EQ(*checked_shape({.width = 8, .dtype = DType::f64}).kv_dtype, DType::f64);
  EXPECT_EQ(*checked_shape({.width = 8, .dtype = DType::f16}).kv_dtype, DType::f16);
}

TEST_F(Check, Ragged) {
  const AttentionShape s = {.q_heads = 4, .q_len = 6, .k_len = 9, .width = 8};
  const auto refuses_ragged = [&](const AttentionOptions& options, const std::string& message) {
    expect_error([&] { check_options(s, options); }, message);
  };
  const Ragged good = {.q_offsets = {0, 2, 2, 6}, .k_offsets = {0, 0, 4, 9}};
  EXPECT_NO_THROW(check_options(s, {.ragged = good}));
  EXPECT_EQ(sequence_count(s, {.ragged = good}), 3);
  EXPECT_EQ(sequence_count(s, {}), 1);
  EXPECT_NO_THROW(check_options(s, {.score = {.bias = f32({3, 1, 4, 5})}, .ragged = good}));
  refuses_ragged({.score = {.bias = f32({1, 1, 6, 9})}, .ragged = good},
                 "bias has shape [1, 1, 6, 9], must be [3, 4, 4, 5] or 1 where it repeats");
  refuses_ragged({.ragged = {.k_offsets = {0, 9}}},
                 "ragged has k_offsets or query_starts, but no q_offsets");
  refuses_ragged({.ragged = {.q_offsets = {0, 6}}},
                 "ragged.k_offsets has entries 0, ragged.q_offsets has 2");
  refuses_ragged({.ragged = {.q_offsets = {1, 6}, .k_offsets = {0, 9}}},
                 "ragged.q_offsets[0] is 1, must be 0");
  refuses_ragged({.ragged = {.q_offsets = {0, 3, 6}, .k_offsets = {0, 10, 9}}},
                 "ragged.k_offsets[2] is 9, below 10 before it");
  refuses_ragged({.ragged = {.q_offsets = {0, 5}, .k_offsets = {0, 9}}},
                 "ragged.q_offsets ends at 5, must end at the length 6");
  refuses_ragged({.ragged = {.q_offsets = {0, 6}, .k_offsets = {0, 9}, .query_starts = {1, 2}}},
                 "ragged.query_starts has sequences 2, the batch has 1");
  refuses_ragged(
      {.query_start = 3, .ragged = {.q_offsets = {0, 6}, .k_offsets = {0, 9}, .query_starts = {1}}},
      "query_start is 3 and ragged.query_starts are given: one of them");
  refuses_ragged({.k_positions = {0, 1, 2, 3, 4, 5, 6, 7, 8}, .ragged = good},
                 "q_positions and k_positions do not go with ragged: give query_starts");
  AttentionShape two = s;
  two.batch = 2;
  expect_error([&] { check_options(two, {.ragged = good}); },
               "q has batch 2, must be 1 when ragged");
}

TEST_F(Check, Dropout) {
  EXPECT_NO_THROW(check_options(shape_, {.dropout = {.p = 0.999}}));
  EXPECT_NO_THROW(check_options(shape_, {.dropout = {.p = 0.1, .streams = {7, 7}}}));
  refuses({.dropout = {.p = 1}}, "dropout.p is 1, must be 0 or more and below 1 - 2^-17");
  refuses({.dropout = {.p = -0.5}}, "dropout.p is -0.5, must be 0 or more and below 1 - 2^-17");
  refuses({.dropout = {.p = NAN}}, "dropout.p is nan, must be 0 or more and below 1 - 2^-17");
  EXPECT_THROW(check_options(shape_, {.dropout = {.p = 1 - 0x1p-18}}), std::invalid_argument);
  refuses({.dropout = {.p = 0.1, .streams = {7}}},
          "dropout.streams has sequences 1, the batch has 2");
}

TEST_F(Check, Bias) {
  refuses_score({.bias = f32({2, 4, 3, 4})},
                "bias has shape [2, 4, 3, 4], must be [2, 4, 3, 5] or 1 where it repeats");
  refuses_score({.bias = of_type(f32({2, 4, 3, 5}), DType::f64)},
                "bias is float64, must be float32");
  refuses_score({.bias = ConstTensor(memory_.data(), {1, 1, 3, 5}, {30, 30, 10, 2})},
                "bias has stride 2 along its width, must be 1 (its rows contiguous)");
  for (const Shape& shape : {Shape{1, 1, 1, 1}, {2, 1, 3, 1}, {1, 4, 1, 5}, {2, 4, 3, 5}}) {
    EXPECT_NO_THROW(check_options(shape_, {.score = {.bias = f32(shape)}})) << to_string(shape);
  }
}

TEST_F(Check, T5) {
  const auto table = [](std::size_t n) { return std::vector<float>(n); };
  EXPECT_NO_THROW(check_options(shape_, {.score = {.t5 = T5Bias{.table = table(128)}}}));
  refuses_score({.t5 = T5Bias{.table = table(127)}},
                "t5.table has 127 entries, must have 128 (32 buckets x 4 heads)");
  refuses_score({.t5 = T5Bias{.table = table(28), .buckets = 7}},
                "t5.buckets is 7, must be even and at least 4");
  refuses_score({.t5 = T5Bias{.table = table(4), .buckets = 1, .bidirectional = false}},
                "t5.buckets is 1, must be at least 2");
  refuses_score({.t5 = T5Bias{.table = table(128), .max_distance = 8}},
                "t5.max_distance is 8, must be above 8 with 32 buckets");
}

TEST_F(Check, ShapesGivenByHand) {
  const auto refuses_shape = [](const AttentionShape& s, const std::string& message) {
    expect_error([&] { check_options(s, {}); }, message);
  };
  refuses_shape({.batch = -1, .width = 8}, "batch is -1, must be 0 or more");
  refuses_shape({.q_len = -1, .width = 8}, "q has length -1, must be 0 or more");
  refuses_shape({.k_len = -1, .width = 8}, "k has length -1, must be 0 or more");
  refuses_shape({.q_heads = 0, .width = 8}, "q has heads 0, must be 1 or more");
  refuses_shape({.kv_heads = 0, .width = 8}, "k has heads 0, must be 1 or more");
  refuses_shape({.width = 8, .v_width = -1}, "v has width -1, must be 1 to 1024");
}

TEST_F(Check, InputsOfAPlan) {
  const Tensor q = f32({2, 4, 3, 8}), k = f32({2, 2, 5, 8}), v = f32({2, 2, 5, 6});
  EXPECT_NO_THROW(check_inputs(shape_, {}, q, {.k = k, .v = v}));
  const auto refuses_inputs = [&](const ConstTensor& a, const KeyValue& kv,
                                  const std::string& message) {
    expect_error([&] { check_inputs(shape_, {}, a, kv); }, message);
  };
  refuses_inputs(f32({2, 4, 4, 8}), {.k = k, .v = v}, "q has length 4, the plan has 3");
  refuses_inputs(f32({2, 2, 3, 8}), {.k = k, .v = v}, "q has heads 2, the plan has 4");
  refuses_inputs(q, {.k = f32({2, 2, 6, 8}), .v = v}, "k has length 6, the plan has 5");
  refuses_inputs(q, {.k = k, .v = f32({2, 2, 5, 7})}, "v has width 7, the plan has 6");
  refuses_inputs(of_type(q, DType::f64), {.k = k, .v = v}, "q is float64, the plan is for float32");
  refuses_inputs(q, {.k = k, .v = of_type(v, DType::bf16)},
                 "v is bfloat16, the plan is for float32");
  refuses_inputs(q, {.k = k, .v = v, .k_scale = f32({2, 2, 5, 1})}, "k_scale goes with int8 only");
  refuses_inputs(q, {.k = k, .v = v, .k_panel = 2}, "k has 5 rows in panels of 2");
  KeyRotation rotation = {.cosines = memory_.data(), .sines = memory_.data(), .width = 10};
  refuses_inputs(q, {.k = k, .v = v, .rotation = &rotation},
                 "rotation has width 10, must be even and 2 to 8");
  rotation.width = 8;
  EXPECT_NO_THROW(check_inputs(shape_, {}, q, {.k = k, .v = v, .rotation = &rotation}));
  rotation.sines = nullptr;
  refuses_inputs(q, {.k = k, .v = v, .rotation = &rotation}, "rotation has no cosines or sines");
}

TEST_F(Check, Int8NeedsItsScales) {
  AttentionShape s = shape_;
  s.kv_dtype = DType::i8;
  const Tensor q = f32({2, 4, 3, 8}), scale = f32({2, 2, 5, 1});
  KeyValue kv = {.k = of_type(f32({2, 2, 5, 8}), DType::i8),
                 .v = of_type(f32({2, 2, 5, 6}), DType::i8),
                 .k_scale = scale,
                 .v_scale = scale};
  EXPECT_NO_THROW(check_inputs(s, {}, q, kv));
  kv.v_scale = {};
  expect_error([&] { check_inputs(s, {}, q, kv); }, "v_scale is missing: int8 needs it");
  kv.v_scale = f32({2, 1, 5, 1});
  expect_error([&] { check_inputs(s, {}, q, kv); },
               "v_scale has shape [2, 1, 5, 1], must be [2, 2, 5, 1]");
  kv.v_scale = of_type(scale, DType::f64);
  expect_error([&] { check_inputs(s, {}, q, kv); }, "v_scale is float64, must be float32");
}

TEST_F(Check, PagesLieInTheirPool) {
  const Tensor q = f32({2, 4, 3, 8});
  KeyValue kv = {.k = f32({1, 2, 20, 8}), .v = f32({1, 2, 20, 6})};
  Pages pages = {.run_begin = {0, 2, 3}, .runs = {{0, 10}, {4, 3}, {0, 15}}};
  kv.pages = &pages;
  EXPECT_NO_THROW(check_inputs(shape_, {}, q, kv));
  const auto refuses_pages = [&](const Pages& wrong, const std::string& message) {
    kv.pages = &wrong;
    expect_error([&] { check_inputs(shape_, {}, q, kv); }, message);
  };
  refuses_pages({.run_begin = {0, 1}, .runs = {{0, 0}}},
                "pages.run_begin has entries 2, the batch has 3");
  refuses_pages({.run_begin = {0, 1, 3}, .runs = {{0, 0}, {0, 0}}},
                "pages.run_begin ends at 3, must end at the length 2");
  refuses_pages({.run_begin = {0, 1, 2}, .runs = {{0, 16}, {0, 0}}},
                "pages.runs[0] has rows 16 to 20 of a pool of 20");
  refuses_pages({.run_begin = {0, 1, 2}, .runs = {{0, -1}, {0, 0}}},
                "pages.runs[0] has rows -1 to 3 of a pool of 20");
  for (const std::int64_t begin : {0, 5}) {
    refuses_pages({.run_begin = {0, 2, 3}, .runs = {{0, 0}, {begin, 8}, {0, 0}}},
                  "pages.runs[1] begins at key " + std::to_string(begin) +
                      " of sequence 0, which has 5: runs ascend, the first begins at key 0");
  }
  refuses_pages({.run_begin = {0, 1, 2}, .runs = {{0, 0}, {1, 0}}},
                "pages.runs[1] begins at key 1 of sequence 1, which has 5: runs ascend, the first "
                "begins at key 0");
  refuses_pages({.run_begin = {0, 1, 1}, .runs = {{0, 0}}},
                "pages has no runs for sequence 1, which has 5 keys");
  kv.k = f32({2, 2, 20, 8});
  refuses_pages(pages, "k is a pool with batch 2");
}

TEST_F(Check, Output) {
  const Tensor out = f32({2, 4, 3, 6});
  EXPECT_NO_THROW(check_output(shape_, out));
  EXPECT_NO_THROW(check_output(shape_, Tensor::blhd(memory_.data(), out.shape)));
  const auto refuses_output = [&](const Tensor& o, const std::string& message) {
    expect_error([&] { check_output(shape_, o); }, message);
  };
  refuses_output(f32({2, 4, 3, 8}), "out has shape [2, 4, 3, 8], must be [2, 4, 3, 6]");
  refuses_output(of_type(out, DType::f64), "out is float64, q is float32");
  refuses_output(of_type(out, DType::i8), "out is int8, q is float32");
  refuses_output(Tensor(nullptr, DType::f32, out.shape, out.strides), "out has no data");
  refuses_output(Tensor(memory_.data(), out.shape, {72, 0, 6, 1}),
                 "out has shape [2, 4, 3, 6] and strides [72, 0, 6, 1]: rows overlap");
}

TEST_F(Check, Observed) {
  const Tensor row = f32({2, 4, 3, 1});
  const auto f64 = [&](const Shape& shape) { return of_type(f32(shape), DType::f64); };
  std::vector<std::int32_t> keys(2 * 4 * 3 * 2);
  const Observed all = {
      .lse = row,
      .max_logit = row,
      .entropy = row,
      .relative_entropy = row,
      .max_probability = row,
      .mean_variance = row,
      .column_mass = f64({2, 4, 1, 5}),
      .top = {.k = 2, .weights = f32({2, 4, 3, 2}), .keys = keys},
      .distances = {.first = -1, .step = 2, .bins = 3, .mass = f64({2, 4, 1, 3})},
      .offsets = {.offsets = {1, -1}, .mass = f64({2, 4, 1, 2}), .queries = f64({2, 4, 1, 2})},
      .key_sets = {.sets = {{0}, {}, {4, 1}}, .mass = f32({2, 4, 3, 3})},
      .picture = {.q_end = 3,
                  .k_begin = 1,
                  .k_end = 5,
                  .rows = 2,
                  .columns = 4,
                  .largest = f32({2, 4, 2, 4}),
                  .mean = f32({2, 4, 2, 4})},
      .rows = {.queries = {2, 2}, .probabilities = f32({2, 4, 2, 5})},
      .value_weighted = row};
  EXPECT_NO_THROW(check_observed(shape_, {}));
  EXPECT_NO_THROW(check_observed(shape_, all));
  const auto refuses_observed = [&](const std::function<void(Observed&)>& change,
                                    const std::string& message) {
    Observed o = all;
    change(o);
    expect_error([&] { check_observed(shape_, o); }, message);
  };
  refuses_observed(
      [&](Observed& o) {
        o.lse = f32({2, 4, 3, 2});
      },
      "lse has shape [2, 4, 3, 2], must be [2, 4, 3, 1]");
  refuses_observed([&](Observed& o) { o.lse = of_type(row, DType::f64); },
                   "lse is float64, must be float32");
  refuses_observed(
      [&](Observed& o) {
        o.lse.strides = {12, 3, 0, 1};
      },
      "lse has shape [2, 4, 3, 1] and strides [12, 3, 0, 1]: rows overlap");
  refuses_observed(
      [&](Observed& o) {
        o.entropy = f32({1, 4, 3, 1});
      },
      "entropy has shape [1, 4, 3, 1], must be [2, 4, 3, 1]");
  refuses_observed(
      [&](Observed& o) {
        o.column_mass = f32({2, 4, 1, 5});
      },
      "column_mass is float32, must be float64");
  refuses_observed([&](Observed& o) { o.top.k = 0; }, "top.k is 0, must be 1 or more");
  refuses_observed(
      [&](Observed& o) {
        o.top.keys = {keys.data(), 5};
      },
      "top.keys has entries 5, top has 48");
  refuses_observed([&](Observed& o) { o.distances.bins = 1; },
                   "distances.bins is 1, must be 2 or more");
  refuses_observed([&](Observed& o) { o.distances.step = 0; },
                   "distances.step is 0, must be 1 or more");
  refuses_observed([&](Observed& o) { o.offsets.offsets = {1}; },
                   "offsets.mass has shape [2, 4, 1, 2], must be [2, 4, 1, 1]");
  refuses_observed([&](Observed& o) { o.key_sets.sets[2][1] = 5; },
                   "key_sets.sets[2] holds 5, must be 0 to 4");
  refuses_observed([&](Observed& o) { o.picture.q_end = 4; }, "picture has queries 0 to 4 of 3");
  refuses_observed([&](Observed& o) { o.picture.columns = 5; },
                   "picture has 5 columns, must be 1 to its 4 keys");
  refuses_observed([&](Observed& o) { o.rows.queries[0] = -1; },
                   "rows.queries holds -1, must be 0 to 2");
}

TEST_F(Check, Backward) {
  const ConstTensor q = f32({2, 4, 3, 8}), k = f32({2, 2, 5, 8}), v = f32({2, 2, 5, 6}),
                    out = f32({2, 4, 3, 6}), row = f32({2, 4, 3, 1});
  const AttentionOptions options = {.score = {.bias = f32({1, 4, 1, 5}),
                                              .alibi_slopes = std::vector<float>{},
                                              .t5 = T5Bias{.table = std::vector<float>(128)},
                                              .sinks = {1, 2, 3, 4}}};
  const InputGradients all = {.q = written({2, 4, 3, 8}),
                              .k = written({2, 2, 5, 8}),
                              .v = written({2, 2, 5, 6}),
                              .bias = written({1, 4, 1, 5}),
                              .alibi_slopes = written({1, 1, 1, 4}),
                              .t5 = written({1, 1, 32, 4}),
                              .sinks = written({1, 1, 1, 4})};
  const OutputGradients from = {.out = out, .lse = row, .entropy = row};
  EXPECT_NO_THROW(check_backward(shape_, options, {q, k, v}, from, all));
  EXPECT_NO_THROW(check_backward(shape_, {}, {q, k, v}, {}, {}));
  EXPECT_NO_THROW(check_results(shape_, {.out = out, .lse = row, .entropy = row}, from));
  EXPECT_NO_THROW(check_results(shape_, {.out = out, .lse = row}, {.out = out}));
  const auto refuses_backward = [](const std::function<void()>& f, const std::string& message) {
    try {
      f();
      ADD_FAILURE() << "nothing thrown, expected: " << message;
    } catch (const std::invalid_argument& e) {
      EXPECT_EQ(e.what(), "[backward] " + message);
    }
  };
  const auto refuses_to = [&](const std::function<void(InputGradients&)>& change,
                              const std::string& message) {
    InputGradients to = all;
    change(to);
    refuses_backward([&] { check_backward(shape_, options, {q, k, v}, from, to); }, message);
  };
  refuses_to(
      [&](InputGradients& to) {
        to.k = f32({2, 4, 5, 8});
      },
      "the gradient of k has shape [2, 4, 5, 8], must be [2, 2, 5, 8]");
  refuses_to(
      [&](InputGradients& to) {
        to.bias = f32({2, 4, 1, 5});
      },
      "the gradient of bias has shape [2, 4, 1, 5], must be [1, 4, 1, 5]");
  refuses_to(
      [&](InputGradients& to) {
        to.t5 = f32({1, 1, 31, 4});
      },
      "the gradient of t5 has shape [1, 1, 31, 4], must be [1, 1, 32, 4]");
  refuses_to([&](InputGradients& to) { to.sinks = of_type(to.sinks, DType::f64); },
             "the gradient of sinks is float64, must be float32");
  refuses_backward(
      [&] {
        check_backward(shape_, {}, {q, k, v}, from, all);
      },
      "the gradient of bias is asked, but the score has none");
  refuses_backward(
      [&] {
        check_backward(shape_, {}, {q, k, v}, {.out = v}, {});
      },
      "the gradient of out has shape [2, 2, 5, 6], must be [2, 4, 3, 6]");
  refuses_backward([&] { check_results(shape_, {.out = out, .lse = row}, from); },
                   "entropy has shape [0, 0, 0, 0], must be [2, 4, 3, 1]");
  AttentionShape half = shape_;
  half.dtype = DType::bf16;
  refuses_backward(
      [&] {
        check_backward(half, {}, {q, k, v}, from, {});
      },
      "q is bfloat16, must be float32 or float64");
  half = shape_;
  half.kv_dtype = DType::f16;
  refuses_backward(
      [&] {
        check_backward(half, {}, {q, k, v}, from, {});
      },
      "k is float16, must be float32 as the queries");
  const AttentionOptions custom = {.score = {.custom = [](const ScoreTile&) {}}};
  refuses_backward(
      [&] {
        check_backward(shape_, custom, {q, k, v}, from, {});
      },
      "the score has a custom function without its derivative");
}

}  // namespace
}  // namespace attn
