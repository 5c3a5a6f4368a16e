// How well a language model foresees a text.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attn/context.h"
#include "attn/language_model.h"
#include "model/recurrent_model.h"
#include "model/transformer.h"

namespace attn {

// Tokens of a text that run together.
struct TextChunk {
  std::int64_t first = 0, count = 0;
  std::int64_t skip = 0;  // at the beginning: their successors are scored already
  bool fresh = false;     // a window begins: nothing before it is remembered

  bool operator==(const TextChunk&) const = default;
};

// What runs to score a text of `tokens`: every token but the last is unskipped once, in order. A
// window is cut into chunks of at most `most` tokens.
std::vector<TextChunk> text_chunks(std::int64_t tokens, std::int64_t window, std::int64_t step,
                                   std::int64_t most = 512);
// The same in one run over the text, `step` tokens at a time.
std::vector<TextChunk> stream_chunks(std::int64_t tokens, std::int64_t step);

// LanguageModel::score and head_means.
TextScore score(const Transformer& model, std::span<const std::int32_t> ids,
                const ScoreOptions& options, const Context& context);
// From a state, which remembers all of a text unless a window is asked for; takes no sinks and no
// ablation.
TextScore score(const RecurrentModel& model, std::span<const std::int32_t> ids,
                const ScoreOptions& options, const Context& context);
std::vector<float> head_means(const Transformer& model, std::span<const std::int32_t> ids,
                              const ScoreOptions& options, const Context& context);

}  // namespace attn
