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

// Continues `prompt`. `bytes_of` gives a token's bytes; `end_tokens` end the text and are no part
// of it; `show` takes text as soon as it is certain. Throws std::invalid_argument for an empty
// prompt, and when prompt and max_tokens are more than the model's positions.
Generation generate(const Transformer& model, std::span<const std::int32_t> prompt,
                    const std::function<std::string(std::int32_t)>& bytes_of,
                    const std::vector<std::int32_t>& end_tokens, const GenerationOptions& options,
                    const Context& context, const std::function<void(std::string_view)>& show = {});

}  // namespace attn
