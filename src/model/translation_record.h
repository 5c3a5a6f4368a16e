// What an encoder-decoder's heads read while a given target is scored against its source.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attn/context.h"
#include "attn/record.h"
#include "model/transformer.h"

namespace attn {

// Runs the encoder over `source` and the decoder over `target`, which begins with its start token.
// Throws std::invalid_argument for more tokens than either has positions, and for no source.
void score_target(const Transformer& encoder, const Transformer& decoder,
                  std::span<const std::int32_t> source, std::span<const std::int32_t> target,
                  const Context& context, const AttentionWatch& encoder_watch,
                  const AttentionWatch& decoder_watch);

// The same, and records layers, counted from 0 on each side; none named: all. The records have no
// tokens and no names yet. Throws std::invalid_argument for a layer that either side lacks.
TranslationRecord record_target(const Transformer& encoder, const Transformer& decoder,
                                std::span<const std::int32_t> source,
                                std::span<const std::int32_t> target,
                                const std::vector<std::int64_t>& layers, const Context& context);

}  // namespace attn
