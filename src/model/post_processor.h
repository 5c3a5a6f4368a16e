// Post-processors of a tokenizer.json: they put special tokens around a text and trim offsets.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/json.h"
#include "model/token_text.h"
#include "model/vocabulary.h"

namespace attn {

// A token of a text on its way out.
struct PlacedToken {
  std::int32_t id = 0;
  std::int32_t type = 0;  // which of two texts, as the model is told
  Range source;
  bool special = false;    // put in by a post-processor
  std::int32_t text = 0;   // which of two texts it is of
  std::int32_t word = -1;  // which word of that text; -1: put in
  // Spaces of the piece at both ends, in characters; ByteLevel's letter for a space counts.
  std::uint32_t leading = 0, trailing = 0;
};
using PlacedTokens = std::vector<PlacedToken>;

// Texts in, one or two of them; out, parts that follow each other. `sources` are the texts' bytes.
// Without special tokens only offsets and types change.
using PostProcessor =
    std::function<void(std::vector<PlacedTokens>& parts,
                       const std::vector<std::string_view>& sources, bool special_tokens)>;

// Throws attn::Error "<place>: ..." for a type or a setting that is not known, and for a special
// token that the vocabulary does not have with that id.
PostProcessor make_post_processor(const Json& part, const Vocabulary& vocabulary,
                                  const std::string& place);

// RoBERTa's: `begin`, a text, `end`, and for a second text `end`, the text, `end`; offsets without
// the spaces of their pieces.
PostProcessor roberta_frame(std::int32_t begin, std::int32_t end);

// Special tokens in front of and behind every text; nothing: none.
PostProcessor put_around(std::optional<std::int32_t> begin, std::optional<std::int32_t> end);

}  // namespace attn
