// Exact attention: plan once, run many times.
//
//   attn::Context context;
//   auto plan = attn::plan(attn::AttentionShape::of(q, k, v),
//                          {.mask = attn::Mask::causal()}, context);
//   plan.run(q, k, v, out);
//
// q [B, Hq, Lq, D], k [B, Hkv, Lk, D], v [B, Hkv, Lk, Dv], out [B, Hq, Lq, Dv]; Hq is a multiple of
// Hkv; widths 1...1024; float32, or float64 throughout. v may alias k. A row that sees no key gives
// output 0 and log-sum-exp -infinity. What a row may not see (NaN included) changes no bit of it.
// Sums are kept unnormalised, 2^18 times a value at most: values up to 1e33 (float32) do not
// overflow. A row's bits do not depend on threads, batch, query chunking or how the mask was
// written.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attn/context.h"
#include "attn/gradient.h"
#include "attn/mask.h"
#include "attn/observe.h"
#include "attn/score.h"
#include "attn/tensor.h"

namespace attn {

struct AttentionShape {
  std::int64_t batch = 1;
  std::int64_t q_heads = 1;
  std::int64_t kv_heads = 1;
  std::int64_t q_len = 0;
  std::int64_t k_len = 0;
  std::int64_t width = 0;
  std::int64_t v_width = 0;  // 0: as width
  DType dtype = DType::f32;  // of queries
  // Of keys and values: float32, bfloat16, float16 or int8; float64 with float64 queries. Empty: as
  // the queries.
  std::optional<DType> kv_dtype = {};

  // Throws std::invalid_argument when the tensors do not fit each other.
  static AttentionShape of(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v);
};

// Sequences of different lengths in one call, one after the other along the length of tensors whose
// batch is 1: sequence s has queries [q_offsets[s], q_offsets[s + 1]) and keys likewise. It counts
// as batch entry s for masks, bias, scores and dropout, and indices count from its own start.
struct Ragged {
  std::vector<std::int64_t> q_offsets = {};  // [sequences + 1], from 0 to q_len; empty: not ragged
  std::vector<std::int64_t> k_offsets = {};  // [sequences + 1], from 0 to k_len
  std::vector<std::int64_t> query_starts = {};  // [sequences]; empty: query_start for each
};

// Dropout of probabilities, the same pairs forward and backward, whatever the threads, tiles and
// instruction set. Philox4x32-10 with key `seed` and counter (key / 8, query, head, stream +
// offset) gives eight 16-bit fields; a pair is kept if its field is at least t = round(p * 65536),
// and then scaled by 65536 / (65536 - t). Keys and queries count in their own sequence, queries
// from query_start. The log-sum-exp and all that is observed are before dropout.
struct Dropout {
  double p = 0;  // 0: none; below 1
  std::uint64_t seed = 0;
  std::uint32_t offset = 0;
  std::vector<std::uint32_t> streams = {};  // [sequences]; empty: the batch index
};

struct AttentionOptions {
  Mask mask = {};
  Score score = {};
  // Position of query 0; a prefilled cache has query_start = k_len - q_len. There is no silent
  // choice: the default is 0.
  std::int64_t query_start = 0;
  std::vector<std::int64_t> q_positions = {};  // [q_len], instead of query_start
  std::vector<std::int64_t> k_positions = {};  // [k_len]; empty: 0, 1, ...
  Ragged ragged = {};
  Dropout dropout = {};
};

// Where paged keys and values lie: consecutive keys of one sequence, from key `begin`, in
// consecutive rows of the pool, from `row`.
struct PageRun {
  std::int64_t begin = 0;
  std::int64_t row = 0;
};
struct Pages {
  std::vector<std::int64_t> run_begin = {};  // [sequences + 1]
  std::vector<PageRun> runs = {};            // ascending in a sequence; the first begins at key 0
};

// A rotary embedding that is applied when keys are read: key j of a sequence is rotated by row j.
struct KeyRotation {
  const float* cosines = nullptr;  // [rows][width / 2], magnitude included
  const float* sines = nullptr;
  std::int64_t width = 0;    // components that rotate, from the front
  bool interleaved = false;  // pairs (2i, 2i + 1) instead of (i, i + width / 2)
  // [sequences]: key j of sequence s is rotated by row first_row[s] + j; null: by row j.
  const std::int64_t* first_row = nullptr;
};

// Keys and values as they are stored.
struct KeyValue {
  ConstTensor k;  // [B, Hkv, Lk, D]; paged: a pool [1, Hkv, rows, D]
  ConstTensor v;  // [B, Hkv, Lk, Dv]; paged: a pool [1, Hkv, rows, Dv]
  // int8: an element is int8 * scale, one scale a token and head; float32, shaped as k and v with
  // width 1.
  ConstTensor k_scale = {}, v_scale = {};
  const Pages* pages = nullptr;
  // Keys lie in panels [rows / k_panel][width][k_panel], as the kernel reads them; 0: in rows.
  std::int64_t k_panel = 0;
  const KeyRotation* rotation = nullptr;
};

// What a plan will do.
struct PlanSummary {
  std::string kernel;  // "flash forward, float32"
  Isa isa = Isa::scalar;
  int threads = 1;
  std::int64_t tiles_full = 0, tiles_partial = 0, tiles_skipped = 0;  // over batch and heads
  std::int64_t row_block = 0;  // query rows (tokens x grouped heads) of a block
  std::int64_t key_tile = 0;   // keys of a tile
  std::int64_t segment = 0;    // keys of a segment, the unit of folding
  std::int64_t visible_pairs = 0;
  double flops = 0;               // of the two products, over visible pairs
  double bytes = 0;               // of q, k, v and out, each once
  double score_matrix_bytes = 0;  // the matrix that is never formed
  std::int64_t workspace_bytes = 0;
  std::int64_t empty_rows = 0;
  bool sees_future = false;
};

// Immutable; copies share it. Runs of one plan use its context, so one at a time: for two calling
// threads make two plans, each on a context of its own.
class Plan {
 public:
  // No allocation beyond the first call's workspace, no checks beyond the shapes; any thread count.
  // Throws std::invalid_argument when a tensor does not fit the plan, or when its context is
  // already running. `out` must not overlap the inputs.
  void run(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const Tensor& out,
           const Observed& observed = {}) const;
  void run(const ConstTensor& q, const KeyValue& kv, const Tensor& out,
           const Observed& observed = {}) const;

  // Gradients; attn/gradient.h says how. Throws as run does, and when the score has a custom
  // function without its derivative.
  void backward(const AttentionInputs& inputs, const AttentionResults& results,
                const OutputGradients& from, const InputGradients& to) const;

  const PlanSummary& summary() const;
  // The summary as text for people, one fact a line, and how `observed` would be answered.
  std::string explain(const Observed& observed = {}) const;

  struct Impl;  // for the library's own rooms

 private:
  friend Plan plan(const AttentionShape&, const AttentionOptions&, const Context&);
  Plan() = default;
  std::shared_ptr<const Impl> impl_;
};

// Validates everything; throws std::invalid_argument.
Plan plan(const AttentionShape& shape, const AttentionOptions& options, const Context& context);

// Plan and run in one call.
void attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const Tensor& out,
               const AttentionOptions& options = {}, const Context& context = Context(),
               const Observed& observed = {});

// Joins two results over disjoint sets of keys: o = sum w_i o_i / sum w_i, w_i = e^(lse_i - max),
// lse = max + ln sum w_i. Parts are made without sinks; `sinks` ([heads] or empty) are applied
// here, to the last join. Two empty parts join to an empty part. Outputs may alias part a.
void merge(const ConstTensor& out_a, const ConstTensor& lse_a, const ConstTensor& out_b,
           const ConstTensor& lse_b, const Tensor& out, const Tensor& lse,
           const std::vector<float>& sinks = {});

}  // namespace attn
