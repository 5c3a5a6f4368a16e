// Mechanisms by name: what they cost, and that each can be measured. No figure is judged.
#include "attn/mechanism.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <stdexcept>
#include <string>

namespace attn {
namespace {

using testing::AllOf;
using testing::HasSubstr;

AttentionShape shape(std::int64_t heads, std::int64_t length, std::int64_t width,
                     std::int64_t v_width = 0) {
  return {.batch = 2,
          .q_heads = heads,
          .kv_heads = heads,
          .q_len = length,
          .k_len = length,
          .width = width,
          .v_width = v_width};
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

TEST(Mechanisms, EachHasItsText) {
  for (const Mechanism& m : mechanisms()) {
    const std::string& text = mechanism_text(m.topic);
    EXPECT_EQ(text.rfind("# ", 0), 0U) << m.name;
    for (const char* section : {"Define", "Why", "Intuition", "Fails when", "Trade-offs"}) {
      EXPECT_THAT(text, HasSubstr(std::string("\n## ") + section + "\n")) << m.name;
    }
  }
}

// RWKV-7 has a text of its own: it reads after the decay and removes as it writes.
TEST(Mechanisms, Rwkv7IsNotAnotherRwkv6) {
  EXPECT_EQ(mechanism("rwkv7").title, "RWKV-7");
  EXPECT_THAT(mechanism_text(mechanism("rwkv7").topic),
              AllOf(HasSubstr("arXiv 2503.14456"), HasSubstr("y_t = r_t^T S_t ")));
  EXPECT_EQ(mechanism("rwkv5").topic, mechanism("rwkv6").topic);
  EXPECT_NE(mechanism("rwkv7").topic, mechanism("rwkv6").topic);
}

TEST(Mechanisms, UnknownNamesAreAnsweredWithTheKnown) {
  EXPECT_THAT(error_of([] { mechanism("glaa"); }), AllOf(HasSubstr("'glaa'"), HasSubstr("gla, ")));
  EXPECT_THAT(error_of([] { mechanism_text("glaa"); }), HasSubstr("'glaa', must be one of "));
  EXPECT_THAT(error_of([] { workload_of("glaa", shape(1, 8, 4)); }), HasSubstr("must be one of"));
  EXPECT_THAT(error_of([] { measure({{.shape = shape(1, 8, 4), .mechanism = "glaa"}}); }),
              HasSubstr("must be one of"));
}

TEST(MechanismCost, OfExactAttentionCountsVisiblePairs) {
  const AttentionShape s = shape(3, 1000, 16, 24);
  const double pair = 2 * 3 * 2 * (16 + 24), row = 2 * 3 * (16 + 24) * 4;
  EXPECT_EQ(mechanism_cost("full", s).flops, pair * 1000 * 1000);
  EXPECT_EQ(mechanism_cost("causal", s).flops, pair * 1000 * 1001 / 2);
  EXPECT_EQ(mechanism_cost("causal", s).step_flops, pair * 1001);
  EXPECT_EQ(mechanism_cost("causal", s).state_bytes, row * 1000);
  EXPECT_EQ(mechanism_cost("window", s).flops, pair * (256 * 257 / 2 + 744 * 256));
  EXPECT_EQ(mechanism_cost("window", s).step_flops, pair * 256);
  EXPECT_EQ(mechanism_cost("window", s).state_bytes, row * 255);
}

TEST(MechanismCost, OfAStateDoesNotGrow) {
  const double heads = 2 * 3;
  for (const std::int64_t length : {1, 100, 100000}) {
    const AttentionShape s = shape(3, length, 16, 24);
    const MechanismCost gla = mechanism_cost("gla", s), linear = mechanism_cost("linear", s);
    EXPECT_EQ(gla.state_bytes, heads * 16 * 24 * 4);
    EXPECT_EQ(linear.state_bytes, heads * 16 * 25 * 4);
    EXPECT_EQ(mechanism_cost("rwkv7", s).state_bytes, gla.state_bytes);
    EXPECT_EQ(mechanism_cost("rwkv7", s).flops, gla.flops);
    EXPECT_EQ(gla.step_flops, heads * 4 * 16 * 24);
    EXPECT_EQ(gla.flops, heads * static_cast<double>(length) * (4 * 16 * 24 + 64 * (16 + 24)));
    EXPECT_EQ(mechanism_cost("performer", s).state_bytes, heads * 256 * 25 * 4);
  }
}

// Forward, backward and a step of all of them; odd lengths, widths of their own.
TEST(MeasureMechanisms, RunsThemAll) {
  for (const Mechanism& m : mechanisms()) {
    if (!m.mask.empty()) continue;
    SCOPED_TRACE(m.name);
    Workload forward = workload_of(m.name, shape(3, 97, 16, 24));
    EXPECT_EQ(forward.mechanism, m.name);
    Workload backward = forward, step = forward;
    backward.backward = true;
    step.decode = true;
    step.shape.q_len = step.shape.k_len = 1;
    const auto rows = measure({forward, backward, step}, {.threads = 1, .samples = 1});
    ASSERT_EQ(rows.size(), 3U);
    for (const Measured& row : rows) {
      EXPECT_GT(row.seconds, 0.0);
      EXPECT_GT(row.share, 0.0);
      EXPECT_GT(row.bytes, 0.0);
    }
    const MechanismCost cost = mechanism_cost(m.name, forward.shape);
    EXPECT_DOUBLE_EQ(rows[0].flops, cost.flops);
    EXPECT_DOUBLE_EQ(rows[1].flops, 2.5 * cost.flops);
    EXPECT_DOUBLE_EQ(rows[2].flops, cost.step_flops);
    EXPECT_DOUBLE_EQ(rows[2].bytes, 2 * cost.state_bytes);
    EXPECT_GT(rows[0].relative_time, 0.0);  // beside causal exact attention
    EXPECT_LE(rows[0].crossing, 97);
    EXPECT_EQ(rows[1].crossing, 0);
    EXPECT_EQ(rows[2].relative_time, 0.0);
    EXPECT_GT(rows[2].ceilings.gigabytes, 0.0);
  }
}

TEST(MeasureMechanisms, InDoublePrecisionToo) {
  for (const char* name : {"gated-delta", "rwkv7"}) {
    Workload w = workload_of(name, shape(1, 65, 8));
    w.shape.dtype = DType::f64;
    const auto rows = measure({w}, {.threads = 2, .samples = 1});
    EXPECT_EQ(rows[0].bytes, 2 * 8 * 65 * 8 * 4) << name;
  }
}

// A ceiling of scaling belongs to its row: reading keys is judged by reading.
TEST(MeasureMechanisms, StepsAndDecodingHaveTheirOwnCeilings) {
  Workload step = workload_of("retnet", shape(1, 1, 16));
  step.decode = true;
  const Workload decode{.shape = shape(1, 64, 16), .decode = true};
  const auto rows = measure({step, decode}, {.threads = 1, .samples = 1});
  EXPECT_TRUE(rows[0].memory_bound || rows[0].ceilings.gigabytes > 0);
  EXPECT_NE(rows[0].ceilings.gigabytes, rows[1].ceilings.gigabytes);
  EXPECT_EQ(rows[0].ceilings.gflops, rows[1].ceilings.gflops);
}

TEST(MeasureMechanisms, RefusesWhatThereIsNot) {
  const Workload good = workload_of("gla", shape(2, 8, 4));
  EXPECT_NO_THROW(check(good));
  const auto refused = [&](const std::function<void(Workload&)>& change) {
    Workload w = good;
    change(w);
    return error_of([&] { check(w); });
  };
  EXPECT_THAT(refused([](Workload& w) { w.mask = "causal"; }), HasSubstr("gla has no mask"));
  EXPECT_THAT(refused([](Workload& w) { w.shape.kv_heads = 1; }), HasSubstr("key heads"));
  EXPECT_THAT(refused([](Workload& w) { w.shape.k_len = 9; }), HasSubstr("as many keys"));
  EXPECT_THAT(refused([](Workload& w) { w.decode = true; }), HasSubstr("one token a step"));
  EXPECT_THAT(refused([](Workload& w) { w.shape.width = 2000; }), HasSubstr("1...1024"));
  EXPECT_THAT(refused([](Workload& w) { w.shape.batch = 0; }), HasSubstr("not empty"));
  EXPECT_THAT(refused([](Workload& w) { w.shape.kv_dtype = DType::i8; }), HasSubstr("float32"));
  EXPECT_THAT(refused([](Workload& w) { w.ragged = true; }), HasSubstr("one piece"));
  EXPECT_THAT(refused([](Workload& w) { w.mechanism = "causal"; }),
              HasSubstr("exact attention with mask 'causal'"));
}

}  // namespace
}  // namespace attn
