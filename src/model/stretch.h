// RoPE stretched otherwise than a model's description says.
#pragma once

#include "attn/position.h"
#include "model/transformer.h"

namespace attn {

// Replaces the scaling, and the positions by `factor` times the original length: that of `scaling`,
// or if it is 0, of the description's scaling, or else its positions. Throws std::invalid_argument
// for a model without RoPE and for a scaling without meaning.
void stretch(TransformerConfig& config, RopeScaling scaling);

}  // namespace attn
