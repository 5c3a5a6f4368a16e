// Makes an AttentionRecord of what a model's layers tell on the way.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attn/context.h"
#include "attn/model.h"
#include "attn/record.h"

namespace attn {

// A record without layers yet: the model's name and sizes.
AttentionRecord begin_record(const ModelInfo& info);

// The layers to record, ascending and each once; empty: all. Throws std::invalid_argument,
// "[record] ...", for one that the model does not have.
std::vector<std::int64_t> recorded_layers(std::vector<std::int64_t> asked, std::int64_t layers);

// A layer's attention as it ran, heads side by side in a token's row.
struct RecordedAttention {
  std::int64_t tokens = 0;
  const float* q = nullptr;              // [tokens][heads * head_width]
  const float* k = nullptr;              // [tokens][kv_heads * head_width]
  const float* v = nullptr;              // [tokens][kv_heads * head_width]
  const float* output_weight = nullptr;  // [width][heads * head_width], W_O as PyTorch stores it
};
LayerRecord record_layer(const RecordedAttention& seen, const ModelInfo& info,
                         const Context& context);

}  // namespace attn
