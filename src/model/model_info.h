// What a model says of itself.
#pragma once

#include <cstdint>
#include <string>

#include "attn/model.h"
#include "model/transformer.h"

namespace attn {

// max_length and max_positions are the description's positions.
ModelInfo model_info(const TransformerConfig& config, std::string family, std::string path,
                     std::int64_t parameters);

}  // namespace attn
