// The attention that a recurrence implies. What a head with a state puts out at token i is a sum
// over the tokens up to it, y_i = sum_j a_ij v_j, where a_ij = q_iᵀ G_i ... G_(j+1) beta_j k_j goes
// through the gates G between them (Ali et al. 2024, arXiv 2403.01590; Zimerman et al. 2024,
// 2405.16504). Its weights are |a_ij| over the sum of their row: as probabilities of attention they
// are 0 or more and sum to 1, but an a_ij may be negative.
//
// Where every channel has gates of its own (Mamba, RWKV-4) all channels are one head, whose |a_ij|
// are summed over them. Left out is what reaches the output around the state (Mamba's skip, output
// gates) and what mixes tokens before it (convolutions, token shifts).
#pragma once

#include <cstdint>
#include <memory>

#include "attn/context.h"
#include "attn/mamba2.h"
#include "attn/observe.h"
#include "attn/recurrent.h"
#include "attn/scan.h"

namespace attn {

// Of one text that begins without a state: inputs have a batch of 1 and no offsets; states among
// them are not read, and values only for their number of heads. Immutable; holds copies of what
// rows are computed from, O(L), and computes in their type (RWKV-4's in float64).
class ImpliedAttention {
 public:
  // All throw std::invalid_argument when shapes or types do not fit.
  static ImpliedAttention of(const RecurrentInputs& inputs, const RecurrentOptions& options = {});
  static ImpliedAttention of(const Mamba2Inputs& inputs, const Mamba2Options& options = {});
  static ImpliedAttention of(const ScanInputs& inputs, const ScanOptions& options = {});
  static ImpliedAttention of(const Wkv4Inputs& inputs);

  std::int64_t heads() const;
  std::int64_t tokens() const;

  // The weights of a query's row, [tokens]; 0 for later tokens, and all 0 where nothing is read.
  // Throws std::invalid_argument for a head or query that is not there.
  void row(std::int64_t head, std::int64_t query, double* weights,
           const Context& context = Context()) const;

  // Answers questions about all rows, as Plan::run does: tensors [1, heads, ...], all float32 or
  // all float64 where Plan::run has one of them. lse is the logarithm of the row's sum of |a_ij|,
  // max_logit that of the largest. Memory O(L). Throws std::invalid_argument for an answer of
  // another shape, and for value_weighted, as values are not kept.
  void observe(const Observed& observed, const Context& context = Context()) const;

  struct Impl;

 private:
  explicit ImpliedAttention(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace attn
