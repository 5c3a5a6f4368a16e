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
  const AttentionShape shape_ = {
      .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 3, .k_len = 5, .width = 8, .v_width = 6};

  Tensor f32(const Shape& shape) { return {memory_.data(), shape}; }
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
  refuses(q, k, of_type(v, DType::f16), "v is float16, q is float32");
  refuses(of_type(q, DType::bf16), of_type(k, DType::bf16), of_type(v, DType::bf16),
          "q is bfloat16, must be float32 or float64");
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

TEST_F(Check, Bias) {
  refuses_score({.bias = f32({2, 4, 3, 4})},
                "bias has shape [2, 4, 3, 4], must be [2, 4, 3, 5] or 1 where it repeats");
  refuses_score({.bias = of_type(f32({2, 4, 3, 5}), DType::f64)}, "bias is float64, q is float32");
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
  EXPECT_NO_THROW(check_inputs(shape_, q, k, v));
  const auto refuses_inputs = [&](const ConstTensor& a, const ConstTensor& b, const ConstTensor& c,
                                  const std::string& message) {
    expect_error([&] { check_inputs(shape_, a, b, c); }, message);
  };
  refuses_inputs(f32({2, 4, 4, 8}), k, v, "q has length 4, the plan has 3");
  refuses_inputs(f32({2, 2, 3, 8}), k, v, "q has heads 2, the plan has 4");
  refuses_inputs(q, f32({2, 2, 6, 8}), f32({2, 2, 6, 6}), "k has length 6, the plan has 5");
  refuses_inputs(q, k, f32({2, 2, 5, 7}), "v has width 7, the plan has 6");
  refuses_inputs(of_type(q, DType::f64), of_type(k, DType::f64), of_type(v, DType::f64),
                 "q is float64, the plan is for float32");
}

TEST_F(Check, Output) {
  const Tensor out = f32({2, 4, 3, 6}), lse = f32({2, 4, 3, 1});
  EXPECT_NO_THROW(check_output(shape_, out, {}));
  EXPECT_NO_THROW(check_output(shape_, out, {.lse = lse}));
  EXPECT_NO_THROW(check_output(shape_, Tensor::blhd(memory_.data(), out.shape), {}));
  const auto refuses_output = [&](const Tensor& o, const Tensor& l, const std::string& message) {
    expect_error([&] { check_output(shape_, o, {.lse = l}); }, message);
  };
  refuses_output(f32({2, 4, 3, 8}), lse, "out has shape [2, 4, 3, 8], must be [2, 4, 3, 6]");
  refuses_output(of_type(out, DType::f64), lse, "out is float64, q is float32");
  refuses_output(Tensor(nullptr, DType::f32, out.shape, out.strides), lse, "out has no data");
  refuses_output(Tensor(memory_.data(), out.shape, {72, 0, 6, 1}), lse,
                 "out has shape [2, 4, 3, 6] and strides [72, 0, 6, 1]: rows overlap");
  refuses_output(out, f32({2, 4, 3, 2}), "lse has shape [2, 4, 3, 2], must be [2, 4, 3, 1]");
  refuses_output(out, of_type(lse, DType::f64), "lse is float64, q is float32");
  refuses_output(out, Tensor(memory_.data(), lse.shape, {12, 3, 0, 1}),
                 "lse has shape [2, 4, 3, 1] and strides [12, 3, 0, 1]: rows overlap");
}

}  // namespace
}  // namespace attn
