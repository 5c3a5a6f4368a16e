// Text from a language model, a token at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attn/context.h"
#include "attn/language_model.h"
#include "model/recurrent_model.h"
#include "model/transformer.h"

namespace attn {

// Pieces of text on their way to a reader: whole characters only, nothing that a stop text may
// begin with, and nothing from a stop text on.
class TextStream {
 public:
  // Throws std::invalid_argument for an empty stop text.
  explicit TextStream(std::vector<std::string> stop);

  // What can be shown after these bytes came. Nothing comes after a stop text.
  std::string push(std::string_view bytes);
  // What was held back, when nothing follows; an unfinished character as it is.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stop_;
  std::string held_;
  bool stopped_ = false;
};

// Continues `prompts`, side by side. `bytes_of` gives a token's bytes; `end_tokens` end a text and
// are no part of it; `show` takes a text's number and what is certain of it. Throws
// std::invalid_argument as LanguageModel::generate does.
std::vector<Generation> generate_batch(
    const Transformer& model, std::span<const std::vector<std::int32_t>> prompts,
    const std::function<std::string(std::int32_t)>& bytes_of,
    const std::vector<std::int32_t>& end_tokens, const GenerationOptions& options,
    const Context& context, const std::function<void(std::size_t, std::string_view)>& show = {});

// The same for one prompt.
Generation generate(const Transformer& model, std::span<const std::int32_t> prompt,
                    const std::function<std::string(std::int32_t)>& bytes_of,
                    const std::vector<std::int32_t>& end_tokens, const GenerationOptions& options,
                    const Context& context, const std::function<void(std::string_view)>& show = {});

// The same from a state, which replaces the cache: window, top_keys and cache are not taken.
Generation generate(const RecurrentModel& model, std::span<const std::int32_t> prompt,
                    const std::function<std::string(std::int32_t)>& bytes_of,
                    const std::vector<std::int32_t>& end_tokens, const GenerationOptions& options,
                    const Context& context, const std::function<void(std::string_view)>& show = {});

}  // namespace attn
