// Language models: load a folder in Hugging Face layout or a GGUF file, continue a text, say how
// well the model foresees one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attn/context.h"
#include "attn/error.h"
#include "attn/mask.h"
#include "attn/model.h"
#include "attn/observe.h"
#include "attn/position.h"
#include "attn/record.h"
#include "attn/tensor.h"

namespace attn {

// How the next token is chosen. The settings act in this order, as in Hugging Face's generate().
struct SamplerOptions {
  double repetition_penalty = 1;  // divides positive logits of tokens that are there already, and
                                  // multiplies negative ones (arXiv 1909.05858)
  double temperature = 0;         // 0: the token of the largest logit, the lowest among equals
  std::int64_t top_k = 0;         // only the k most probable; 0: all
  double top_p = 1;               // only the fewest that have this much probability together
  double min_p = 0;               // only those with this share of the most probable's probability
  std::uint64_t seed = 0;         // the same seed gives the same text
};

struct GenerationOptions {
  std::int64_t max_tokens = 128;  // that are generated
  SamplerOptions sampler = {};
  std::vector<std::string> stop = {};  // texts that end the text where they begin
  DType cache = DType::f32;            // of keys and values: float32, bfloat16 or int8
  std::int64_t chunk = 512;            // tokens of the prompt that run together
  // Prompts of generate_batch() that run at a time; the next one begins when one has ended. Memory
  // grows with them; speed only as long as reading the weights, once for all of them, takes more
  // time than multiplying by them.
  std::int64_t side_by_side = 64;
  std::int64_t top_keys = 0;  // above 0: report where heads look, so many keys of each
  // Above 0: remember so many tokens, the first `sinks` and the last others, and go on for as long
  // as asked, past the model's positions (StreamingLLM, arXiv 2309.17453). Positions are counted
  // within what is remembered. A prompt that is longer runs in pieces of a quarter of the window.
  std::int64_t window = 0;
  std::int64_t sinks = 4;
};

enum class GenerationEnd : std::uint8_t {
  end_token,  // the model ended its text
  stop_text,
  max_tokens
};

// Where every head looked when a token was chosen: the row of the token before it, as it ran. Keys
// count from the first token of the prompt.
struct TokenAttention {
  std::vector<float> entropy;      // [layers][heads], nats
  std::vector<float> sink;         // [layers][heads]: mass on the first token
  std::vector<std::int32_t> keys;  // [layers][heads][top_keys], largest weight first; -1: no more
  std::vector<float> weights;      // [layers][heads][top_keys]
};

struct Generation {
  std::vector<std::int32_t> ids;  // generated, without the end token
  std::string text;
  GenerationEnd end = GenerationEnd::max_tokens;
  std::int64_t prompt_tokens = 0;
  double prompt_seconds = 0, seconds = 0;  // until the first token; after it
  std::vector<TokenAttention> attention;   // [ids]; empty unless asked for by top_keys
};

// Heads whose output is replaced, before the output projection, for every token: what a model loses
// by it is what they are worth (Michel et al. 2019, arXiv 1905.10650).
struct HeadAblation {
  struct Head {
    std::int64_t layer = 0, head = 0;  // counted from 0
  };
  std::vector<Head> heads = {};
  // What stands in their place: [heads][value width], as LanguageModel::mean_ablation fills it in;
  // empty: zeros.
  std::vector<float> means = {};
};

struct ScoreOptions {
  // A token is foreseen from those before it in its window. The first window begins with the text,
  // each other one `step` later; a token counts in the first window that holds it, as in
  // Transformers' guide to perplexity. Small steps give tokens more to look back on, and cost more.
  std::int64_t window = 0;  // tokens; 0: 2048, or the model's positions where those are fewer
  std::int64_t step = 0;    // below `window`; 0: half of it
  // Given: one run over the whole text instead, with a cache of `window` tokens, the first `sinks`
  // and the last others (StreamingLLM, arXiv 2309.17453; positions within the cache). Then `step`
  // tokens run at a time, and a token sees at least window - step others; 0: 1, as the paper.
  std::optional<std::int64_t> sinks = {};
  HeadAblation ablation = {};
  DType cache = DType::f32;  // of keys and values: float32, bfloat16 or int8
  // Told now and then how many of the tokens are done.
  std::function<void(std::int64_t done, std::int64_t all)> progress = {};
};

// Of a text of n tokens; entry i belongs to token i + 1, as the first has nothing before it.
struct TextScore {
  std::vector<float> losses;      // [n - 1]: -ln of the probability that the model gave the token
  std::vector<std::int32_t> top;  // [n - 1]: the token that it held for the most probable
  double mean_loss = 0;           // nats a token
  double perplexity = 0;          // e^mean_loss
  std::int64_t window = 0, step = 0;  // that were taken
};

// Does a folder or file hold a language model, and not an encoder for Model? By model_type of its
// config.json; a GGUF file does. Throws attn::Error when it has neither.
bool is_language_model(const std::string& path);

struct LanguageModelOptions {
  // Stretches rotary positions in place of what the model's description says, for texts longer than
  // it was made for: the model then has `factor` times original_length positions. original_length
  // 0: what the description gives as the length before stretching, or else as its positions.
  std::optional<RopeScaling> rope_scaling = {};
};

// Immutable and cheap to copy, but copies share the context given to load(): one calling thread at
// a time.
class LanguageModel {
 public:
  // A folder with config.json, model.safetensors (or shards) and tokenizer.json (GPT-2 also:
  // vocab.json and merges.txt; RWKV: rwkv_vocab_v20230424.txt, or vocab.txt with a literal of
  // Python's a line); a .gguf file, or a folder with one. Families: LLaMA, Mistral, Qwen 2 and 3,
  // Gemma 2, GPT-2, GPT-NeoX, GPT-J, BLOOM, MPT, DeepSeek-V2 without experts (its latent vectors
  // are expanded, and the cache holds keys and values); with a state in place of a cache: Mamba,
  // Mamba-2, RWKV-4, RWKV-5 (texts of any length; heads look by what the state implies, see
  // attn/implied.h; ablation, windows of a cache and value_weighted throw std::invalid_argument);
  // of GGUF: LLaMA, Mistral, Qwen 2 and 3, Gemma 2, Phi-3 (without long factors), GPT-2. Throws
  // attn::Error with file and reason; a setting that is not known is an error that names it. Throws
  // std::invalid_argument for a rope_scaling of a model without RoPE.
  static LanguageModel load(const std::string& path, const Context& context = Context(),
                            const LanguageModelOptions& options = {});

  const ModelInfo& info() const;

  // Special tokens that the model's texts begin with included. Any bytes are taken.
  std::vector<std::int32_t> encode(const std::string& text) const;
  // The vocabulary's spelling of a token, as "Ġthe". Throws std::invalid_argument for an id
  // without.
  std::string piece(std::int32_t id) const;
  // The bytes that tokens stand for, without special tokens.
  std::string decode(std::span<const std::int32_t> ids) const;
  // Tokens for people and pages: joined, their texts are the text, special ones by their names.
  std::vector<RecordToken> tokens(std::span<const std::int32_t> ids) const;
  // Does the id stand for a piece of text, and not for something special or nothing?
  bool is_text(std::int32_t id) const;
  // A conversation's beginning in ChatML, up to where the model answers; `system` may be empty.
  // Throws std::invalid_argument when the model has no such tokens.
  std::vector<std::int32_t> encode_chat(const std::string& system, const std::string& user) const;

  // Logits [tokens][vocabulary]. Throws std::invalid_argument for more tokens than the model has
  // positions, an id outside the vocabulary, a head that is not there, or means of another size.
  std::vector<float> logits(std::span<const std::int32_t> ids,
                            const HeadAblation& ablation = {}) const;

  // How well the model foresees a text. Memory grows with the window, not with the text. Throws
  // std::invalid_argument for fewer than two tokens, a window of more tokens than the model has
  // positions, sinks of a model with learned positions, and as logits().
  TextScore score(std::span<const std::int32_t> ids, const ScoreOptions& options = {}) const;
  // The mean of what each head puts out, before the output projection, [layers][heads][value
  // width]: over all tokens of the text but the last, each in the window where score() reads its
  // successor off it. `options.ablation` holds in this run too.
  std::vector<float> head_means(std::span<const std::int32_t> ids,
                                const ScoreOptions& options = {}) const;
  // Heads with those of their means: mean ablation over this text.
  HeadAblation mean_ablation(const std::vector<HeadAblation::Head>& heads,
                             std::span<const std::int32_t> ids,
                             const ScoreOptions& options = {}) const;

  // Runs the tokens and records queries, keys (rotated) and value norms of layers, counted from 0;
  // none named: of all. The tokens from `generated` on are marked as the model's own; below 0: none
  // are. Throws std::invalid_argument for no token, for more than the model has positions, and for
  // a layer that is not there.
  AttentionRecord record(std::span<const std::int32_t> ids, std::vector<std::int64_t> layers = {},
                         std::int64_t generated = -1) const;

  // Last hidden states [tokens][width], after the last norm. Throws as logits().
  std::vector<float> hidden(std::span<const std::int32_t> ids) const;
  // hidden(), while every head answers questions on the way: float32, as Plan::run does, with
  // layers in place of the batch: [layers, heads, ...]. value_weighted weighs values before the
  // output projection. Throws std::invalid_argument too for an answer of another shape.
  std::vector<float> observe(std::span<const std::int32_t> ids, const Observed& observed) const;
  // Which keys the queries of a layer may see. Throws std::invalid_argument for no such layer.
  Mask mask(std::int64_t layer) const;
  // One vector a text, [texts][width]: the mean of its hidden states, scaled to length 1. Throws
  // std::invalid_argument for a text without tokens.
  std::vector<std::vector<float>> embed(std::span<const std::string> texts) const;

  // Continues a prompt; `show` takes text as soon as it is certain, never a part of a character.
  // Throws std::invalid_argument for an empty prompt, a setting without meaning, when prompt and
  // max_tokens are more than the model's positions and there is no window, and for a window of more
  // tokens than positions, or of a model with learned ones.
  Generation generate(std::span<const std::int32_t> prompt, const GenerationOptions& options = {},
                      const std::function<void(std::string_view)>& show = {}) const;
  // Continues prompts of any lengths side by side, which is faster than one after the other. Each
  // is sampled as it would be alone; its numbers agree to rounding, not to the bit, as products of
  // several rows do. `show` takes the prompt's index too. Times count from this call.
  std::vector<Generation> generate_batch(
      std::span<const std::vector<std::int32_t>> prompts, const GenerationOptions& options = {},
      const std::function<void(std::size_t, std::string_view)>& show = {}) const;

 private:
  struct Impl;
  explicit LanguageModel(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace attn
