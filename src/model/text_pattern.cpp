#include "model/text_pattern.h"

#include <algorithm>
#include <cmath>

namespace attn {
namespace {

// Shorter texts see everything, as in Transformers.
bool is_sparse(const TransformerConfig& config, std::int64_t tokens) {
  if (!config.block_sparse) return false;
  const auto& [block, random] = *config.block_sparse;
  return tokens > (5 + 2 * random) * block;
}

}  // namespace

Mask text_mask(const TransformerConfig& config, const Mask& of_layer, std::int64_t tokens,
               std::span<const std::int64_t> global_tokens) {
  if (is_sparse(config, tokens)) {
    const std::int64_t block = config.block_sparse->block;
    return Mask::block_window(block, 1, 1) | Mask::global_blocks(block, 1, 1);
  }
  if (global_tokens.empty()) return of_layer;
  return of_layer | Mask::global_tokens({global_tokens.begin(), global_tokens.end()});
}

Mask texts_mask(const TransformerConfig& config, const Mask& of_layer, const PackedTexts& texts) {
  if (!config.block_sparse && !config.global_tokens) return of_layer;
  std::vector<Mask> masks;
  for (std::size_t t = 0; t < texts.lengths.size(); ++t)
    masks.push_back(text_mask(config, of_layer, texts.lengths[t], texts.globals_of(t)));
  return masks.size() == 1 ? masks[0] : Mask::per_batch(std::move(masks));
}

WideHeads::WideHeads(const Tensor& q_heads, const Tensor& k_heads, std::int64_t wider)
    : tokens(q_heads.length()), heads(q_heads.heads()), kv_heads(k_heads.heads()), width(wider) {
  const auto widen = [&](const Tensor& x, std::vector<float>& y) {
    const std::int64_t rows = x.length() * x.heads(), narrow = x.width();
    y.resize(static_cast<std::size_t>(rows * wider));
    for (std::int64_t i = 0; i < rows; ++i)
      std::copy_n(static_cast<const float*>(x.data) + i * narrow, narrow, y.data() + i * wider);
  };
  widen(q_heads, q);
  widen(k_heads, k);
}

AppendedNumbers::AppendedNumbers(const TransformerConfig& config, const PackedTexts& texts) {
  const bool some = std::any_of(texts.lengths.begin(), texts.lengths.end(),
                                [&](std::int64_t n) { return is_sparse(config, n); });
  if (!some || config.block_sparse->random == 0) return;
  const std::int64_t block = config.block_sparse->block;
  const auto more = static_cast<float>(
      std::log(1.0 + static_cast<double>(config.block_sparse->random)) / config.attention_scale);
  for (const std::int64_t n : texts.lengths) {
    const bool sparse = is_sparse(config, n);
    for (std::int64_t i = 0; i < n; ++i) {
      const bool inner = i >= block && i / block < (n - 1) / block;
      of_query.push_back(sparse && inner ? more : 0);
      of_key.push_back(sparse && i < block ? 1 : 0);
    }
  }
}

WideHeads AppendedNumbers::to(const Tensor& q, const Tensor& k) const {
  WideHeads wide(q, k, q.width() + 1);
  const auto append = [&](const std::vector<float>& numbers, std::int64_t heads,
                          std::vector<float>& x) {
    float* last = x.data() + wide.width - 1;
    for (const float number : numbers) {
      for (std::int64_t h = 0; h < heads; ++h, last += wide.width) *last = number;
    }
  };
  append(of_query, wide.heads, wide.q);
  append(of_key, wide.kv_heads, wide.k);
  return wide;
}

}  // namespace attn
