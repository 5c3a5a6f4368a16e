// A cache of fixed size under a text without end (StreamingLLM, arXiv 2309.17453): sinks and the
// last tokens stay, positions are counted within the cache.
#pragma once

#include <cstdint>

#include "model/transformer.h"

namespace attn {

// Throws std::invalid_argument, beginning with `who`, unless the model can run like this:
// `together` tokens at a time, in a window of that many tokens, its sinks included.
void require_window(const TransformerConfig& model, const char* who, std::int64_t window,
                    std::int64_t sinks, std::int64_t together);

}  // namespace attn
