// Questions to all layers of a model, with layers in place of the batch.
#pragma once

#include <cstdint>

#include "attn/observe.h"

namespace attn {

// What layer `layer` of `layers` is asked, with a batch of 1. Throws std::invalid_argument,
// "[observe] ...", when an answer has not one entry a layer.
Observed observed_of_layer(const Observed& all, std::int64_t layer, std::int64_t layers);

}  // namespace attn
