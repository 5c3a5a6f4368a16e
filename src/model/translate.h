// From a source's tokens to a target's: the encoder once, then the decoder a token at a time, over
// all running texts of a beam search together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attn/context.h"
#include "model/beam_search.h"
#include "model/transformer.h"

namespace attn {

// The best texts that the search finds, the best first; at least one. `start` is the token that
// targets begin with. Throws std::invalid_argument for a source without tokens or with more than
// the encoder's positions, and for more tokens than the decoder's.
std::vector<FoundText> translate(const Transformer& encoder, const Transformer& decoder,
                                 std::span<const std::int32_t> source, std::int32_t start,
                                 const SearchSettings& settings, const Context& context);

// An encoder's hidden states [source][width].
std::vector<float> encode_source(const Transformer& encoder, std::span<const std::int32_t> source,
                                 const Context& context, const AttentionWatch& watch = {});

}  // namespace attn
