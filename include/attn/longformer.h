// Longformer attention (arXiv 2004.05150, section 3.1): a window, and a few global tokens whose
// rows are projected apart.
//
//   attn::LongformerPlan plan(attn::AttentionShape::of(q, k, v),
//                             {.window = 256, .global_tokens = {{0}}}, context);
//   plan.run({q, k, v, global_q, global_k, global_v}, {.out = out});
//
// A local row sees the keys of its window and the global tokens, each once, by q, k and v. A global
// row sees all keys of its sequence by global_q, global_k and global_v. Each is exact attention
// under a mask (Mask::longformer, Mask::full), so all that attn/attention.h promises holds: what is
// here only computes some rows apart. Without projections of their own, one call under
// Mask::longformer does it all.
//
// q, k, v [B, H, L, D], values [B, Hkv, L, Dv]; float32 or float64. Sequences end where they end:
// no length is a multiple of anything.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "attn/attention.h"

namespace attn {

struct LongformerOptions {
  // Keys on each side, w of the paper; Hugging Face's attention_window is 2 w.
  std::int64_t window = 256;
  // Between the keys of a window: one number for each query head, or for all; empty: 1.
  std::vector<std::int64_t> dilation = {};
  // Of each sequence, or one list for all: indices in the sequence, ascending. Empty: none, and the
  // global inputs are not read.
  std::vector<std::vector<std::int64_t>> global_tokens = {};
  std::vector<std::int64_t> lengths = {};  // [B]: real tokens, the rest is padding; empty: all
  // Sequences one after another along L, as in Ragged; B is then 1. Empty: one in each batch entry.
  std::vector<std::int64_t> offsets = {};
  std::optional<double> scale = {};  // default 1 / sqrt(D)
};

struct LongformerInputs {
  ConstTensor q, k, v;
  // Rows of the global tokens, [B, H, G, D], as many in each batch entry; with offsets [1, H, G,
  // D], those of one sequence after another.
  ConstTensor global_q = {};
  ConstTensor global_k = {}, global_v = {};  // as k and v, of all keys
};

// Log-sum-exps are needed for gradients only.
struct LongformerOutputs {
  Tensor out;              // [B, H, L, Dv]
  Tensor lse = {};         // [B, H, L, 1], by q and k: not that of global rows, which run apart
  Tensor global_lse = {};  // [B, H, G, 1]
};

// Where gradients go; empty: not computed.
struct LongformerGradients {
  Tensor q = {}, k = {}, v = {}, global_q = {}, global_k = {}, global_v = {};
};

// Immutable; copies share it. As a Plan, it runs on its context, so one run at a time.
class LongformerPlan {
 public:
  // Throws std::invalid_argument "[longformer] ...".
  LongformerPlan(const AttentionShape& shape, const LongformerOptions& options,
                 const Context& context);

  void run(const LongformerInputs& inputs, const LongformerOutputs& outputs) const;
  // `outputs` are those of run(), with both log-sum-exps; d_out [B, H, L, Dv].
  void backward(const LongformerInputs& inputs, const LongformerOutputs& outputs,
                const ConstTensor& d_out, const LongformerGradients& to) const;

  // Rows of global tokens in all, G times the batch.
  std::int64_t global_rows() const { return static_cast<std::int64_t>(rows_.size()); }
  const Plan& local() const { return local_; }
  const std::optional<Plan>& global() const { return global_; }

 private:
  struct Row {
    std::int64_t batch, index;  // of out
  };
  Tensor global_view(std::vector<char>& memory, std::int64_t width, DType dtype) const;

  AttentionShape shape_;
  std::vector<Row> rows_;  // in the order of global_q
  Plan local_;
  std::optional<Plan> global_;
};

}  // namespace attn
