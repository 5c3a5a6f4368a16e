// What texts see where that depends on how long each is, or on its global tokens: BigBird's blocks,
// Longformer's global tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attn/mask.h"
#include "attn/tensor.h"
#include "model/transformer.h"

namespace attn {

// A text's mask in a layer whose attention() is `of_layer`.
Mask text_mask(const TransformerConfig& config, const Mask& of_layer, std::int64_t tokens,
               std::span<const std::int64_t> global_tokens);

// Of texts one after another, each a sequence.
Mask texts_mask(const TransformerConfig& config, const Mask& of_layer, const PackedTexts& texts);

// Queries and keys of wider heads, [tokens][heads][width], whose products are the scores of rows
// that differ in more than their mask.
struct WideHeads {
  // As q and k [1, heads, tokens, head_width] of [tokens][heads][head_width] memory, zeros behind.
  WideHeads(const Tensor& q, const Tensor& k, std::int64_t wider);

  std::int64_t tokens, heads, kv_heads, width;
  std::vector<float> q, k;

  ConstTensor queries() const { return ConstTensor::blhd(q.data(), {1, heads, tokens, width}); }
  ConstTensor keys() const { return ConstTensor::blhd(k.data(), {1, kv_heads, tokens, width}); }
};

// Numbers that each token appends to its queries and its keys, so that their product adds what
// BlockSparseConfig says to a score; [tokens], empty where no text needs it.
struct AppendedNumbers {
  AppendedNumbers() = default;
  AppendedNumbers(const TransformerConfig& config, const PackedTexts& texts);

  bool empty() const { return of_query.empty(); }
  WideHeads to(const Tensor& q, const Tensor& k) const;

  std::vector<float> of_query, of_key;
};

}  // namespace attn
