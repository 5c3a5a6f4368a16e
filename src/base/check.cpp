#include "base/check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/checker.h"
#include "base/random.h"

namespace attn {

namespace {

// Differences of positions must not overflow, and must be exact in double.
constexpr std::int64_t kMaxPosition = std::int64_t{1} << 52;
constexpr std::int64_t kMaxLength = std::int64_t{1} << 30;
constexpr std::int64_t kMaxSequences = std::int64_t{1} << 24;  // batch x heads
constexpr std::int64_t kMaxT5Distance = std::int64_t{1} << 20;

constexpr Checker kCheck("attention");

[[noreturn]] void fail(const std::string& what) { kCheck.fail(what); }

// The longest of the pieces between offsets.
std::int64_t longest(const std::vector<std::int64_t>& offsets) {
  std::int64_t length = 0;
  for (std::size_t i = 1; i < offsets.size(); ++i) {
    length = std::max(length, offsets[i] - offsets[i - 1]);
  }
  return length;
}

void check_offsets(const char* what, const std::vector<std::int64_t>& offsets,
                   std::int64_t length) {
  if (offsets.front() != 0) fail(std::string(what) + "[0] is " + text(offsets[0]) + ", must be 0");
  for (std::size_t i = 1; i < offsets.size(); ++i) {
    if (offsets[i] < offsets[i - 1]) {
      fail(std::string(what) + "[" + std::to_string(i) + "] is " + text(offsets[i]) + ", below " +
           text(offsets[i - 1]) + " before it");
    }
  }
  if (offsets.back() != length) {
    fail(std::string(what) + " ends at " + text(offsets.back()) + ", must end at the length " +
         text(length));
  }
}

void check_start(const std::string& what, std::int64_t start) {
  if (start > kMaxPosition || start < -kMaxPosition) {
    fail(what + " is " + text(start) + ", must be within 2^52 of 0");
  }
}

void check_ragged(const AttentionShape& s, const AttentionOptions& options) {
  const Ragged& ragged = options.ragged;
  if (ragged.q_offsets.empty()) {
    if (!ragged.k_offsets.empty() || !ragged.query_starts.empty()) {
      fail("ragged has k_offsets or query_starts, but no q_offsets");
    }
    return;
  }
  kCheck.same("ragged.k_offsets", static_cast<std::int64_t>(ragged.k_offsets.size()),
              "ragged.q_offsets", static_cast<std::int64_t>(ragged.q_offsets.size()), "entries");
  check_offsets("ragged.q_offsets", ragged.q_offsets, s.q_len);
  check_offsets("ragged.k_offsets", ragged.k_offsets, s.k_len);
  if (s.batch != 1) fail("q has batch " + text(s.batch) + ", must be 1 when ragged");
  if (!options.q_positions.empty() || !options.k_positions.empty()) {
    fail("q_positions and k_positions do not go with ragged: give query_starts");
  }
  if (ragged.query_starts.empty()) return;
  if (options.query_start != 0) {
    fail("query_start is " + text(options.query_start) +
         " and ragged.query_starts are given: one of them");
  }
  kCheck.same("ragged.query_starts", static_cast<std::int64_t>(ragged.query_starts.size()),
              "the batch", sequence_count(s, options), "sequences");
  for (std::int64_t start : ragged.query_starts) check_start("a query start", start);
}

void check_dropout(const AttentionShape& s, const AttentionOptions& options) {
  const Dropout& dropout = options.dropout;
  // Just below 1, all would be dropped.
  if (!(dropout.p >= 0 && dropout.p < 1) || DropoutRule(dropout).threshold() > 65535) {
    fail("dropout.p is " + text(dropout.p) + ", must be 0 or more and below 1 - 2^-17");
  }
  if (!dropout.streams.empty()) {
    kCheck.same("dropout.streams", static_cast<std::int64_t>(dropout.streams.size()), "the batch",
                sequence_count(s, options), "sequences");
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

void check_bias(const AttentionShape& s, const AttentionOptions& options) {
  const ConstTensor& bias = options.score.bias;
  if (bias.empty()) return;
  kCheck.dtype("bias", bias, arithmetic_type(s.dtype));
  Shape full = {s.batch, s.q_heads, s.q_len, s.k_len};
  if (!options.ragged.q_offsets.empty()) {
    full[0] = sequence_count(s, options);
    full[2] = longest(options.ragged.q_offsets);
    full[3] = longest(options.ragged.k_offsets);
  }
  for (std::size_t i = 0; i < 4; ++i) {
    if (bias.shape[i] != 1 && bias.shape[i] != full[i]) {
      fail("bias has shape " + to_string(bias.shape) + ", must be " + to_string(full) +
           " or 1 where it repeats");
    }
  }
  kCheck.view("bias", bias);
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

void check_types(DType queries, DType keys) {
  if (queries == DType::i8) fail("q is int8, must be float32, bfloat16, float16 or float64");
  if ((queries == DType::f64) != (keys == DType::f64)) {
    fail(std::string("k is ") + name(keys) + ", q is " + name(queries));
  }
}

void check_queries(const AttentionShape& s, const ConstTensor& q) {
  kCheck.view("q", q);
  if (q.dtype != s.dtype) {
    fail(std::string("q is ") + name(q.dtype) + ", the plan is for " + name(s.dtype));
  }
  kCheck.same("q", q.batch(), "the plan", s.batch, "batch");
  kCheck.same("q", q.heads(), "the plan", s.q_heads, "heads");
  kCheck.same("q", q.length(), "the plan", s.q_len, "length");
  kCheck.same("q", q.width(), "the plan", s.width, "width");
}

// Keys or values; a pool of pages has rows of its own.
void check_stored(const char* what, const AttentionShape& s, bool paged, const ConstTensor& x,
                  std::int64_t width) {
  kCheck.view(what, x);
  if (x.dtype != *s.kv_dtype) {
    fail(std::string(what) + " is " + name(x.dtype) + ", the plan is for " + name(*s.kv_dtype));
  }
  if (paged) {
    if (x.batch() != 1) fail(std::string(what) + " is a pool with batch " + text(x.batch()));
  } else {
    kCheck.same(what, x.batch(), "the plan", s.batch, "batch");
    kCheck.same(what, x.length(), "the plan", s.k_len, "length");
  }
  kCheck.same(what, x.heads(), "the plan", s.kv_heads, "heads");
  kCheck.same(what, x.width(), "the plan", width, "width");
}

void check_scales(const char* what, const ConstTensor& x, const ConstTensor& scales) {
  if (x.dtype != DType::i8) {
    if (!scales.empty()) fail(std::string(what) + " goes with int8 only");
    return;
  }
  if (scales.empty() && x.size() > 0) fail(std::string(what) + " is missing: int8 needs it");
  if (scales.empty()) return;
  kCheck.dtype(what, scales, DType::f32);
  kCheck.shape(what, scales, {x.batch(), x.heads(), x.length(), 1});
}

void check_pages(const AttentionShape& s, const AttentionOptions& options, const Pages& pages,
                 std::int64_t k_rows, std::int64_t v_rows) {
  const std::vector<std::int64_t>&first = pages.run_begin, &offsets = options.ragged.k_offsets;
  const std::int64_t sequences = sequence_count(s, options);
  kCheck.same("pages.run_begin", static_cast<std::int64_t>(first.size()), "the batch",
              sequences + 1, "entries");
  check_offsets("pages.run_begin", first, static_cast<std::int64_t>(pages.runs.size()));
  const std::int64_t rows = std::min(k_rows, v_rows);
  for (std::size_t i = 0; i + 1 < first.size(); ++i) {
    const std::int64_t length = offsets.empty() ? s.k_len : offsets[i + 1] - offsets[i];
    std::int64_t next = 0;  // where the next run must begin, or later
    for (std::int64_t r = first[i]; r < first[i + 1]; ++r) {
      const PageRun& run = pages.runs[static_cast<std::size_t>(r)];
      const std::int64_t end =
          r + 1 < first[i + 1] ? pages.runs[static_cast<std::size_t>(r) + 1].begin : length;
      if (run.begin < next || (r == first[i] && run.begin != 0) || run.begin >= length) {
        fail("pages.runs[" + text(r) + "] begins at key " + text(run.begin) + " of sequence " +
             std::to_string(i) + ", which has " + text(length) +
             ": runs ascend, the first begins at key 0");
      }
      next = run.begin + 1;
      if (run.row < 0 || run.row > rows - (end - run.begin)) {
        fail("pages.runs[" + text(r) + "] has rows " + text(run.row) + " to " +
             text(run.row + end - run.begin - 1) + " of a pool of " + text(rows));
      }
    }
    if (next == 0 && length > 0) {
      fail("pages has no runs for sequence " + std::to_string(i) + ", which has " + text(length) +
           " keys");
    }
  }
}

void check_rotation(const AttentionShape& s, const KeyRotation& rotation) {
  if (rotation.width < 2 || rotation.width > s.width || rotation.width % 2 != 0) {
    fail("rotation has width " + text(rotation.width) + ", must be even and 2 to " + text(s.width));
  }
  if (rotation.cosines == nullptr || rotation.sines == nullptr) {
    fail("rotation has no cosines or sines");
  }
}

}  // namespace

DType arithmetic_type(DType queries) { return queries == DType::f64 ? DType::f64 : DType::f32; }

std::int64_t sequence_count(const AttentionShape& shape, const AttentionOptions& options) {
  const std::vector<std::int64_t>& offsets = options.ragged.q_offsets;
  return offsets.empty() ? shape.batch : static_cast<std::int64_t>(offsets.size()) - 1;
}

AttentionShape AttentionShape::of(const ConstTensor& q, const ConstTensor& k,
                                  const ConstTensor& v) {
  kCheck.view("q", q);
  kCheck.view("k", k);
  kCheck.view("v", v);
  check_types(q.dtype, k.dtype);
  if (v.dtype != k.dtype) {
    fail(std::string("v is ") + attn::name(v.dtype) + ", k is " + attn::name(k.dtype));
  }
  kCheck.same("k", k.width(), "q", q.width(), "width");
  kCheck.same("k", k.batch(), "q", q.batch(), "batch");
  kCheck.same("v", v.batch(), "q", q.batch(), "batch");
  kCheck.same("v", v.heads(), "k", k.heads(), "heads");
  kCheck.same("v", v.length(), "k", k.length(), "length");
  if (v.width() < 1) fail("v has width 0, must be 1 to " + text(kMaxWidth));
  return checked_shape({.batch = q.batch(),
                        .q_heads = q.heads(),
                        .kv_heads = k.heads(),
                        .q_len = q.length(),
                        .k_len = k.length(),
                        .width = q.width(),
                        .v_width = v.width(),
                        .dtype = q.dtype,
                        .kv_dtype = k.dtype});
}

AttentionShape checked_shape(const AttentionShape& shape) {
  AttentionShape s = shape;
  if (s.v_width == 0) s.v_width = s.width;
  if (!s.kv_dtype) s.kv_dtype = s.dtype;
  check_types(s.dtype, *s.kv_dtype);
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
  check_ragged(s, options);
  check_dropout(s, options);
  check_bias(s, options);
  if (score.scale && !representable(s, *score.scale)) {
    fail("scale is " + text(*score.scale) + ", must be finite in " + name(s.dtype));
  }
  if (!(score.soft_cap >= 0) || !representable(s, score.soft_cap)) {
    fail("soft_cap is " + text(score.soft_cap) +
         ", must be 0 (none) or a positive number, finite in " + name(s.dtype));
  }
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
  check_start("query_start", options.query_start);
  check_positions("q_positions", options.q_positions, s.q_len, "a query");
  check_positions("k_positions", options.k_positions, s.k_len, "a key");
}

void check_inputs(const AttentionShape& planned, const AttentionOptions& options,
                  const ConstTensor& q, const KeyValue& kv) {
  const AttentionShape s = checked_shape(planned);
  check_queries(s, q);
  check_stored("k", s, kv.pages != nullptr, kv.k, s.width);
  check_stored("v", s, kv.pages != nullptr, kv.v, s.v_width);
  check_scales("k_scale", kv.k, kv.k_scale);
  check_scales("v_scale", kv.v, kv.v_scale);
  if (kv.pages != nullptr) check_pages(s, options, *kv.pages, kv.k.length(), kv.v.length());
  if (kv.k_panel < 0 || (kv.k_panel > 0 && kv.k.length() % kv.k_panel != 0)) {
    fail("k has " + text(kv.k.length()) + " rows in panels of " + text(kv.k_panel));
  }
  if (kv.rotation != nullptr) check_rotation(s, *kv.rotation);
}

void check_output(const AttentionShape& shape, const Tensor& out) {
  const AttentionShape s = checked_shape(shape);
  kCheck.shape("out", out, {s.batch, s.q_heads, s.q_len, s.v_width});
  if (out.dtype == DType::i8 || (out.dtype == DType::f64) != (s.dtype == DType::f64)) {
    fail(std::string("out is ") + name(out.dtype) + ", q is " + name(s.dtype));
  }
  kCheck.view("out", out);
  kCheck.rows_apart("out", out);
}

void check_apart(const Tensor& out, const ConstTensor& q, const KeyValue& kv) {
  kCheck.apart("out", out, "q", q);
  kCheck.apart("out", out, "k", kv.k);
  kCheck.apart("out", out, "v", kv.v);
}

}  // namespace attn
