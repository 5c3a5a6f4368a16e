// Longformer's layer (arXiv 2004.05150): rows of global tokens have projections of their own.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/context.h"
#include "attn/longformer.h"
#include "model/text_pattern.h"
#include "model/transformer.h"

namespace attn {

class GlobalRows {
 public:
  // Of texts one after another, each with its global tokens; `window` keys on each side. Throws
  // std::invalid_argument for a global token that its text does not have.
  GlobalRows(const TransformerConfig& config, const PackedTexts& texts, std::int64_t window,
             const Context& context);

  // Projects x [tokens][width] for the global rows: their queries, and all keys and values.
  void project(const TransformerWeights::Layer& layer, const float* x, const Context& context);

  // Attention of all rows; q, k and v are what local rows use, all [1, heads, tokens, ...] of
  // [tokens][heads][...] memory.
  void run(const Tensor& q, const Tensor& k, const ConstTensor& v, const Tensor& out) const;

  // Both projections side by side: a query is 0 where its row has no use for it, so that products
  // are the scores of the two runs.
  WideHeads wide(const Tensor& q, const Tensor& k) const;

  // Answers for all rows, `mask` being that of the texts: one more run, whose output is dropped.
  void observe(const WideHeads& wide, const ConstTensor& v, const Mask& mask,
               const Observed& observed, const Context& context) const;

 private:
  const TransformerConfig& config_;
  std::int64_t tokens_;
  std::vector<std::int64_t> offsets_;
  std::vector<std::int64_t> rows_;  // tokens of the pack
  LongformerPlan plan_;
  std::vector<float> q_, k_, v_;  // [rows | tokens | tokens][heads][head_width]
};

}  // namespace attn
