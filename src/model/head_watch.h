// Where heads look while a language model generates: asked of the runs themselves.
#pragma once

#include <cstdint>
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

}  // namespace attn
