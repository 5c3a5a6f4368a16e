// What a tokenizer is made of; model/tokenizer.h is its interface.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/added_tokens.h"
#include "model/decoder.h"
#include "model/post_processor.h"
#include "model/pre_tokenizer.h"
#include "model/subwords.h"
#include "model/tokenizer.h"
#include "model/vocabulary.h"

namespace attn {

struct Tokenizer::Parts {
  std::unique_ptr<const Subwords> subwords;
  Vocabulary vocabulary;  // the model's and the added tokens
  AddedTokens added;
  // Each may be empty; without a decoder pieces are joined by spaces.
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  Decoder decoder;

  // `which`: of two texts.
  PlacedTokens tokens(std::string_view bytes, std::int32_t which) const;
  // `most`: tokens, special ones included.
  TokenizedText encode(const std::vector<std::string_view>& texts, bool special_tokens,
                       std::optional<std::size_t> most = {}) const;
  // Cuts the texts to that length; true when something was lost.
  bool truncate(std::vector<PlacedTokens>& parts, const std::vector<std::string_view>& texts,
                std::size_t most) const;
  // What decoding takes for an id. Throws std::invalid_argument for one without a piece.
  const std::string& decoded(std::int32_t id) const;
};

}  // namespace attn
