// Where heads look while a language model generates: asked of the runs themselves.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "attn/language_model.h"
#include "model/transformer.h"

namespace attn {

// Watches runs of a transformer, and keeps what the last query of the last run saw.
class HeadWatch {
 public:
  HeadWatch(const TransformerConfig& config, std::int64_t top_keys);

  // For a run of `queries` tokens. Refers to this object.
  AttentionWatch watch(std::int64_t queries);
  const TokenAttention& last() const { return last_; }

 private:
  void keep(std::int64_t layer);

  std::int64_t heads_, top_, queries_ = 0;
  // Of one layer: [heads][queries], weights and keys with [top_] more.
  std::vector<float> entropy_, sink_, weights_;
  std::vector<std::int32_t> keys_;
  TokenAttention last_;
};

// The same of queries [from, tokens) of a text that is there: `observe` answers for all of them.
std::vector<TokenAttention> attention_of(const ModelInfo& info, std::int64_t tokens,
                                         std::int64_t from, std::int64_t top_keys,
                                         const std::function<void(const Observed&)>& observe);

}  // namespace attn
