#include "base/check.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>

namespace attn {

namespace {

// Differences of positions must not overflow, and must be exact in double.
constexpr std::int64_t kMaxPosition = std::int64_t{1} << 52;
constexpr std::int64_t kMaxLength = std::int64_t{1} << 30;
constexpr std::int64_t kMaxSequences = std::int64_t{1} << 24;  // batch x heads
constexpr std::int64_t kMaxT5Distance = std::int64_t{1} << 20;

[[noreturn]] void fail(const std::string& what) {
  throw std::invalid_argument("[attention] " + what);
}

std::string text(std::int64_t value) { return std::to_string(value); }

// "0.5", "nan", "-inf"
std::string text(double value) {
  std::string s = std::to_string(value);
  while (s.find('.') != std::string::npos && s.size() > 1 && s.back() == '0') s.pop_back();
  if (s.back() == '.') s.pop_back();
  return s;
}

void check_view(const char* what, const ConstTensor& x) {
  for (std::int64_t n : x.shape) {
    if (n < 0) fail(std::string(what) + " has shape " + to_string(x.shape));
  }
  if (x.empty() && x.size() > 0) fail(std::string(what) + " has no data");
  if (x.width() > 1 && x.strides[3] != 1) {
    fail(std::string(what) + " has stride " + text(x.strides[3]) +
         " along its width, must be 1 (its rows contiguous)");
  }
}

// An output whose rows certainly overlap would depend on the order of the threads.
void check_rows_apart(const char* what, const Tensor& x) {
  if (x.size() == 0) return;
  for (std::size_t i = 0; i < 3; ++i) {
    if (x.shape[i] > 1 && std::abs(x.strides[i]) < x.width()) {
      fail(std::string(what) + " has shape " + to_string(x.shape) + " and strides " +
           to_string(x.strides) + ": rows overlap");
    }
  }
}

void check_same(const char* what_a, std::int64_t a, const char* what_b, std::int64_t b,
                const char* quantity) {
  if (a != b) {
    fail(std::string(what_a) + " has " + quantity + " " + text(a) + ", " + what_b + " has " +
         text(b));
  }
}

void check_positions(const char* what, const std::vector<std::int64_t>& positions,
                     std::int64_t length, const char* of) {
  if (positions.empty()) return;
  if (static_cast<std::int64_t>(positions.size()) != length) {
    fail(std::string(what) + " has " + text(static_cast<std::int64_t>(positions.size())) +
         " entries, must have " + text(length) + ", one " + of);
  }
  for (std::size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] > kMaxPosition || positions[i] < -kMaxPosition) {
      fail(std::string(what) + "[" + std::to_string(i) + "] is " + text(positions[i]) +
           ", must be within 2^52 of 0");
    }
  }
}

void check_bias(const AttentionShape& s, const ConstTensor& bias) {
  if (bias.empty()) return;
  if (bias.dtype != s.dtype) {
    fail(std::string("bias is ") + name(bias.dtype) + ", q is " + name(s.dtype));
  }
  const Shape full = {s.batch, s.q_heads, s.q_len, s.k_len};
  for (std::size_t i = 0; i < 4; ++i) {
    if (bias.shape[i] != 1 && bias.shape[i] != full[i]) {
      fail("bias has shape " + to_string(bias.shape) + ", must be " + to_string(full) +
           " or 1 where it repeats");
    }
  }
  check_view("bias", bias);
}

// Kernels work in log2 units: x log2(e) must be finite in the type of the tensors.
bool representable(const AttentionShape& s, double x) {
  const double largest = s.dtype == DType::f64 ? std::numeric_limits<double>::max()
                                               : std::numeric_limits<float>::max();
  return std::abs(x) <= largest / 1.5;
}

void check_list(const char* what, std::size_t size, std::int64_t heads) {
  if (static_cast<std::int64_t>(size) != heads) {
    fail(std::string(what) + " has " + std::to_string(size) + " entries, must have " + text(heads) +
         ", one a query head");
  }
}

void check_t5(const AttentionShape& s, const T5Bias& t5) {
  const int least = t5.bidirectional ? 4 : 2;
  if (t5.buckets < least || (t5.bidirectional && t5.buckets % 2 != 0)) {
    fail("t5.buckets is " + text(std::int64_t{t5.buckets}) +
         (t5.bidirectional ? ", must be even and at least 4" : ", must be at least 2"));
  }
  const int exact = t5.bidirectional ? t5.buckets / 4 : t5.buckets / 2;
  if (t5.max_distance > kMaxT5Distance) {
    fail("t5.max_distance is " + text(std::int64_t{t5.max_distance}) + ", must be at most " +
         text(kMaxT5Distance));
  }
  for (float x : t5.table) {
    if (!std::isfinite(x)) fail("t5.table holds " + text(double{x}));
  }
  if (t5.max_distance <= exact) {
    fail("t5.max_distance is " + text(std::int64_t{t5.max_distance}) + ", must be above " +
         text(std::int64_t{exact}) + " with " + text(std::int64_t{t5.buckets}) + " buckets");
  }
  if (static_cast<std::int64_t>(t5.table.size()) != t5.buckets * s.q_heads) {
    fail("t5.table has " + std::to_string(t5.table.size()) + " entries, must have " +
         text(t5.buckets * s.q_heads) + " (" + text(std::int64_t{t5.buckets}) + " buckets x " +
         text(s.q_heads) + " heads)");
  }
}

}  // namespace

AttentionShape AttentionShape::of(const ConstTensor& q, const ConstTensor& k,
                                  const ConstTensor& v) {
  check_view("q", q);
  check_view("k", k);
  check_view("v", v);
  if (k.dtype != q.dtype) {
    fail(std::string("k is ") + attn::name(k.dtype) + ", q is " + attn::name(q.dtype));
  }
  if (v.dtype != q.dtype) {
    fail(std::string("v is ") + attn::name(v.dtype) + ", q is " + attn::name(q.dtype));
  }
  check_same("k", k.width(), "q", q.width(), "width");
  check_same("k", k.batch(), "q", q.batch(), "batch");
  check_same("v", v.batch(), "q", q.batch(), "batch");
  check_same("v", v.heads(), "k", k.heads(), "heads");
  check_same("v", v.length(), "k", k.length(), "length");
  if (v.width() < 1) fail("v has width 0, must be 1 to " + text(kMaxWidth));
  return checked_shape({.batch = q.batch(),
                        .q_heads = q.heads(),
                        .kv_heads = k.heads(),
                        .q_len = q.length(),
                        .k_len = k.length(),
                        .width = q.width(),
                        .v_width = v.width(),
                        .dtype = q.dtype});
}

AttentionShape checked_shape(const AttentionShape& shape) {
  AttentionShape s = shape;
  if (s.v_width == 0) s.v_width = s.width;
  if (!s.kv_dtype) s.kv_dtype = s.dtype;
  if (s.dtype != DType::f32 && s.dtype != DType::f64) {
    fail(std::string("q is ") + name(s.dtype) + ", must be float32 or float64");
  }
  if (s.batch < 0) fail("batch is " + text(s.batch) + ", must be 0 or more");
  if (s.q_len < 0) fail("q has length " + text(s.q_len) + ", must be 0 or more");
  if (s.k_len < 0) fail("k has length " + text(s.k_len) + ", must be 0 or more");
  if (s.width < 1 || s.width > kMaxWidth) {
    fail("q has width " + text(s.width) + ", must be 1 to " + text(kMaxWidth));
  }
  if (s.v_width < 1 || s.v_width > kMaxWidth) {
    fail("v has width " + text(s.v_width) + ", must be 1 to " + text(kMaxWidth));
  }
  if (s.q_heads < 1) fail("q has heads " + text(s.q_heads) + ", must be 1 or more");
  if (s.kv_heads < 1) fail("k has heads " + text(s.kv_heads) + ", must be 1 or more");
  // Beyond these the work is not finished in anybody's lifetime, and counts would wrap.
  if (s.q_len > kMaxLength) fail("q has length " + text(s.q_len) + ", must be at most 2^30");
  if (s.k_len > kMaxLength) fail("k has length " + text(s.k_len) + ", must be at most 2^30");
  std::int64_t sequences = 0, pairs = 0;
  if (__builtin_mul_overflow(s.batch, s.q_heads, &sequences) || sequences > kMaxSequences ||
      __builtin_mul_overflow(sequences, s.q_len * s.k_len, &pairs)) {
    fail("batch " + text(s.batch) + " x heads " + text(s.q_heads) + " of " + text(s.q_len) + " x " +
         text(s.k_len) + " scores is too much");
  }
  if (s.q_heads % s.kv_heads != 0) {
    fail("q has heads " + text(s.q_heads) + ", must be a multiple of k's " + text(s.kv_heads));
  }
  return s;
}

void check_options(const AttentionShape& shape, const AttentionOptions& options) {
  const AttentionShape s = checked_shape(shape);
  const Score& score = options.score;
  if (score.scale && !representable(s, *score.scale)) {
    fail("scale is " + text(*score.scale) + ", must be finite in " + name(s.dtype));
  }
  if (!(score.soft_cap >= 0) || !representable(s, score.soft_cap)) {
    fail("soft_cap is " + text(score.soft_cap) +
         ", must be 0 (none) or a positive number, finite in " + name(s.dtype));
  }
  check_bias(s, score.bias);
  if (score.alibi_slopes && !score.alibi_slopes->empty()) {
    check_list("alibi_slopes", score.alibi_slopes->size(), s.q_heads);
    for (float slope : *score.alibi_slopes) {
      if (!representable(s, slope)) fail("an ALiBi slope is " + text(double{slope}));
    }
  }
  if (score.t5) check_t5(s, *score.t5);
  if (!score.sinks.empty()) {
    check_list("sinks", score.sinks.size(), s.q_heads);
    for (float sink : score.sinks) {
      if (!(sink < std::numeric_limits<float>::infinity())) {
        fail("a sink is " + text(double{sink}) + ", must be finite or -infinity");
      }
    }
  }
  if (options.query_start != 0 && !options.q_positions.empty()) {
    fail("query_start is " + text(options.query_start) + " and q_positions are given: one of them");
  }
  if (options.query_start > kMaxPosition || options.query_start < -kMaxPosition) {
    fail("query_start is " + text(options.query_start) + ", must be within 2^52 of 0");
  }
  check_positions("q_positions", options.q_positions, s.q_len, "a query");
  check_positions("k_positions", options.k_positions, s.k_len, "a key");
}

void check_inputs(const AttentionShape& planned, const ConstTensor& q, const ConstTensor& k,
                  const ConstTensor& v) {
  const AttentionShape a = AttentionShape::of(q, k, v);
  const AttentionShape p = checked_shape(planned);
  if (a.dtype != p.dtype) {
    fail(std::string("q is ") + name(a.dtype) + ", the plan is for " + name(p.dtype));
  }
  check_same("q", a.batch, "the plan", p.batch, "batch");
  check_same("q", a.q_heads, "the plan", p.q_heads, "heads");
  check_same("k", a.kv_heads, "the plan", p.kv_heads, "heads");
  check_same("q", a.q_len, "the plan", p.q_len, "length");
  check_same("k", a.k_len, "the plan", p.k_len, "length");
  check_same("q", a.width, "the plan", p.width, "width");
  check_same("v", a.v_width, "the plan", p.v_width, "width");
}

void check_output(const AttentionShape& shape, const Tensor& out, const Observed& observed) {
  const AttentionShape s = checked_shape(shape);
  const Shape expected = {s.batch, s.q_heads, s.q_len, s.v_width};
  if (out.shape != expected) {
    fail("out has shape " + to_string(out.shape) + ", must be " + to_string(expected));
  }
  if (out.dtype != s.dtype) {
    fail(std::string("out is ") + name(out.dtype) + ", q is " + name(s.dtype));
  }
  check_view("out", out);
  check_rows_apart("out", out);
  const Tensor& lse = observed.lse;
  if (lse.empty()) return;
  const Shape rows = {s.batch, s.q_heads, s.q_len, 1};
  if (lse.shape != rows) {
    fail("lse has shape " + to_string(lse.shape) + ", must be " + to_string(rows));
  }
  if (lse.dtype != s.dtype) {
    fail(std::string("lse is ") + name(lse.dtype) + ", q is " + name(s.dtype));
  }
  check_rows_apart("lse", lse);
}

}  // namespace attn
