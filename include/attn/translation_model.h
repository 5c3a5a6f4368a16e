// Encoder-decoders: load one, translate texts (or whatever else it was trained to make of a text).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attn/context.h"
#include "attn/error.h"
#include "attn/model.h"
#include "attn/observe.h"
#include "attn/record.h"

namespace attn {

// What is not given is as the model's generation_config.json says, or else as here.
struct TranslationOptions {
  std::optional<std::int64_t> beams = {};       // texts that run side by side; 1: greedy. 1
  std::optional<double> length_penalty = {};    // scores are divided by tokens to this power. 1
  std::optional<std::int64_t> max_tokens = {};  // of the target, its end included. 512;
                                                // CTranslate2: 256
};

struct Translation {
  std::string text;
  std::vector<std::int32_t> ids;    // without the start and the end
  std::vector<std::string> tokens;  // the vocabulary's spelling of ids, as "▁the"
  double score = 0;                 // log_probability divided by tokens to the length penalty
  double log_probability = 0;       // of all its tokens, the end's included
  bool ended = false;               // by its end, not by max_tokens
};

// What is asked of the heads that a TranslationRecord has, each [layers, heads, ...] of its own
// side.
struct TranslationObserved {
  Observed encoder, decoder, cross;
};

// Does a folder hold an encoder-decoder? By model_type of its config.json, or as CTranslate2's
// model.bin. Throws attn::Error for a config.json that cannot be read.
bool is_translation_model(const std::string& folder);

// Immutable and cheap to copy, but copies share the context given to load(): one calling thread at
// a time.
class TranslationModel {
 public:
  // A folder in Hugging Face layout of a T5, BART or Marian model: config.json, model.safetensors
  // (or shards), and tokenizer.json, or SentencePiece's spiece.model (T5) or source.spm, target.spm
  // and vocab.json (Marian). Or one of CTranslate2: model.bin, and source_vocabulary and
  // target_vocabulary (or shared_vocabulary) as .txt or .json, whose texts are tokens with spaces
  // between. Throws attn::Error with file and reason; a setting that is not known is an error that
  // names it.
  static TranslationModel load(const std::string& folder, const Context& context = Context());

  // `layers` and `heads` are the encoder's; `vocabulary` is the target's.
  const ModelInfo& info() const;
  // The same with the decoder's `layers` and `heads`.
  const ModelInfo& decoder_info() const;

  // Tokens of a source, special ones included. Any bytes are taken.
  std::vector<std::int32_t> encode(const std::string& text) const;
  // Tokens of a target as translate() gives them: without the start and the end.
  std::vector<std::int32_t> encode_target(const std::string& text) const;
  // The bytes that target tokens stand for, without special tokens.
  std::string decode(std::span<const std::int32_t> ids) const;
  // The vocabulary's spelling of a source token. Throws std::invalid_argument for an id without.
  std::string piece(std::int32_t id) const;
  // Tokens for people and pages: joined, their texts are the text, special ones by their names.
  std::vector<RecordToken> tokens(std::span<const std::int32_t> source) const;
  // The start token and those of a target: what the decoder reads.
  std::vector<RecordToken> target_tokens(std::span<const std::int32_t> target) const;

  // The best translation that beam search finds. Throws std::invalid_argument for a text without
  // tokens or with more than the model has positions, and for an option without meaning.
  Translation translate(const std::string& text, const TranslationOptions& options = {}) const;
  Translation translate(std::span<const std::int32_t> source,
                        const TranslationOptions& options = {}) const;

  // Runs the encoder over `source` and the decoder over its start token and `target`, and records
  // queries, keys and value norms of layers, counted from 0 on each side; none named: of all.
  // `generated`: the target is what the model made of the source. Throws std::invalid_argument as
  // translate() does, and for a layer that either side lacks.
  TranslationRecord record(std::span<const std::int32_t> source,
                           std::span<const std::int32_t> target,
                           const std::vector<std::int64_t>& layers = {},
                           bool generated = false) const;

  // The same run, while every head answers questions: float32, with layers in place of the batch.
  // Rows of the decoder and of cross are the start token's and the target's. value_weighted weighs
  // values before the output projection. Throws std::invalid_argument for an answer of another
  // shape, too.
  void observe(std::span<const std::int32_t> source, std::span<const std::int32_t> target,
               const TranslationObserved& observed) const;

 private:
  struct Impl;
  explicit TranslationModel(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace attn
