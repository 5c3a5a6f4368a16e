// Makes an AttentionRecord of what a model's layers tell on the way.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attn/context.h"
#include "attn/model.h"
#include "attn/record.h"
#include "model/transformer.h"

namespace attn {

// A record without layers yet: the model's name and sizes.
AttentionRecord begin_record(const ModelInfo& info);

// The layers to record, ascending and each once; empty: all. Throws std::invalid_argument,
// "[record] ...", for one that the model does not have.
std::vector<std::int64_t> recorded_layers(std::vector<std::int64_t> asked, std::int64_t layers);

// [tokens][heads * width] to [heads][tokens][width].
std::vector<float> by_head(const float* x, std::int64_t tokens, std::int64_t heads,
                           std::int64_t width);

// ||v_j W_O|| for every head h and token j, W_O restricted to the head's columns: [heads][tokens].
std::vector<float> value_norms(const SeenAttention& seen, std::int64_t tokens,
                               const TransformerConfig& config, const Context& context);

// A layer of a model with a state.
LayerRecord implied_layer(const ImpliedAttention& implied);

// A layer without its mask and score.
LayerRecord record_layer(const SeenAttention& seen, std::int64_t tokens,
                         const TransformerConfig& config, const Context& context);

}  // namespace attn
