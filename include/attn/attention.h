// Exact attention: plan once, run many times.
//
//   attn::Context context;
//   auto plan = attn::plan(attn::AttentionShape::of(q, k, v), {.mask = attn::Mask::causal()},
//   context); plan.run(q, k, v, out);
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
#include <string>
#include <vector>

#include "attn/context.h"
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
  DType dtype = DType::f32;

  // Throws std::invalid_argument when the tensors do not fit each other.
  static AttentionShape of(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v);
};

struct AttentionOptions {
  Mask mask = {};
  Score score = {};
  // Position of query 0; a prefilled cache has query_start = k_len - q_len. There is no silent
  // choice: the default is 0.
  std::int64_t query_start = 0;
  std::vector<std::int64_t> q_positions = {};  // [q_len], instead of query_start
  std::vector<std::int64_t> k_positions = {};  // [k_len]; empty: 0, 1, ...
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

  const PlanSummary& summary() const;
  // The summary as text for people, one fact a line.
  std::string explain() const;

 private:
  friend Plan plan(const AttentionShape&, const AttentionOptions&, const Context&);
  Plan() = default;
  struct Impl;
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
