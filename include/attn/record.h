// What a model's attention read for one text: enough to compute any attention row of any head
// afterwards, without storing an n x n matrix. Models make records; statistics and pages read them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attn/implied.h"
#include "attn/mask.h"
#include "attn/score.h"

namespace attn {

struct RecordToken {
  std::string text;          // as a person would read it: "play", "##ing"
  bool special = false;      // [CLS], [SEP], ...
  std::int32_t word = -1;    // index of the word that it belongs to; -1 for special tokens
  std::int32_t segment = 0;  // 0, or 1 for the second text of a pair
  bool generated = false;    // by the model, after a prompt
};

struct LayerRecord {
  std::vector<float> q = {};  // [heads][tokens][width], as attention reads it (rotated)
  std::vector<float> k = {};  // [kv_heads][key tokens][width]
  // [heads][key tokens]: ||f(x)||, the norm of a token's value after this head's slice of the
  // output projection; may be empty.
  std::vector<float> value_norm = {};
  Mask mask = {};
  Score score = {};
  // Of a layer with a state, in place of q, k, value_norm and score; its mask is causal.
  std::optional<ImpliedAttention> implied = {};
};

struct AttentionRecord {
  std::string model;  // name for titles
  std::vector<RecordToken> tokens;
  // Of cross-attention: the tokens that keys are of, such as a source's; `tokens` are the queries'.
  // Empty: keys are of `tokens` too.
  std::vector<RecordToken> keys = {};
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t width = 0;  // of a head; any where all layers have states
  std::vector<LayerRecord> layers;
  // Which layers of the model `layers` are, ascending, as heads are named by them; empty: 0, 1, ...
  std::vector<std::int64_t> layer_numbers = {};
  // Tokens and keys hold their spaces and line breaks: joined, they are the text. A character that
  // begins in one token and ends in later ones is the first one's, and those may be left empty.
  bool verbatim = false;
  bool truncated = false;

  bool is_cross() const { return !keys.empty(); }
  const std::vector<RecordToken>& key_tokens() const { return is_cross() ? keys : tokens; }
  std::int64_t layer_number(std::size_t layer) const {
    return layer_numbers.empty() ? static_cast<std::int64_t>(layer) : layer_numbers[layer];
  }
};

// What an encoder-decoder's heads read while a target is scored against its source: the encoder's,
// the decoder's among its own tokens, and the decoder's on the source, whose `keys` are
// encoder.tokens.
struct TranslationRecord {
  AttentionRecord encoder, decoder, cross;
};

}  // namespace attn
