// The transformer that encoders and language models are variants of (arXiv 1706.03762, 1810.04805;
// GPT-2), as a description and weights: layers of attention and feed-forward, each a branch that is
// added to the residual stream, with a norm before it or after the sum. A family of models fills in
// the two structures; nothing here knows its name.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "attn/attention.h"
#include "attn/context.h"
#include "attn/kv_cache.h"
#include "attn/position.h"
#include "nn/layers.h"

namespace attn {

enum class NormKind : std::uint8_t { layer, rms };

// Keys and values expanded from a latent vector of each token, which all heads share, and a part of
// every key that rotates, which they share too (DeepSeek-V2, arXiv 2405.04434, 2.1). A cache keeps
// them expanded.
struct LatentConfig {
  std::int64_t query_rank = 0;  // of the queries' own latent vector; 0: none
  std::int64_t rank = 0;        // of the keys' and values'
  std::int64_t rotated = 0;     // the last numbers of a head, of which RoPE's fraction is taken
  double norm_epsilon = 1e-6;
};

// BigBird (arXiv 2007.14062) as Transformers evaluates it: blocks of tokens see their neighbours
// and the first and last block of the text, which see everything. No block is drawn at random: each
// of the `random` would-be ones is the first block again, which every row of blocks but the first
// and last therefore counts 1 + random times, as ln(1 + random) added to its scores. Texts of no
// more than 5 + 2 random blocks see everything.
struct BlockSparseConfig {
  std::int64_t block = 64, random = 3;
};

struct TransformerConfig {
  std::int64_t layers = 0, width = 0;
  std::int64_t heads = 0, kv_heads = 0, head_width = 0;
  std::int64_t value_width = 0;  // of a head's values; 0: head_width
  std::optional<LatentConfig> latent = {};
  std::int64_t feed_forward_width = 0, vocabulary = 0;
  std::int64_t positions = 0;  // tokens that it was made for
  std::int64_t types = 0;      // of tokens, as the two texts of a pair; 0: none
  bool causal = true;          // false: a token sees those after it too, as in an encoder
  NormKind norm = NormKind::layer;
  double norm_epsilon = 1e-5;
  // x = norm(x + branch(x)) (BERT, BART), not x + branch(norm(x)).
  bool post_norm = false;
  // Attention and feed-forward read the same residual stream, side by side (GPT-J, GPT-NeoX), not
  // one after the other.
  bool parallel = false;
  std::optional<RopeOptions> rope = {};
  bool alibi = false;
  double alibi_max = 8;           // ALiBi's largest exponent
  std::optional<T5Bias> t5 = {};  // one table, of all layers
  double attention_scale = 0;     // of queries times keys; 0: 1 / sqrt(head_width)
  double attention_cap = 0;       // soft cap of scores; 0: none
  double logit_cap = 0;           // soft cap of logits; 0: none
  double embedding_scale = 1;     // of token embeddings
  // [layers]: keys that a query sees, its own included, and as many after it when not causal; 0:
  // all. Empty: 0 everywhere.
  std::vector<std::int64_t> windows = {};
  std::vector<Mask> masks = {};  // [layers]: what hides more of the keys; empty: nothing
  std::optional<BlockSparseConfig> block_sparse = {};
  // Tokens of each text see, and are seen by, all of it; their rows have projections of their own
  // (Longformer, arXiv 2004.05150). Every layer then has a window.
  bool global_tokens = false;
  nn::Activation activation = nn::Activation::gelu;
  bool gated = false;  // the feed-forward is down(activation(gate(x)) * up(x))
};

// Pointers into a file's weights, or into `made`. Matrices [out][in], as PyTorch stores them.
struct TransformerWeights {
  struct Linear {
    const float* weight = nullptr;
    const float* bias = nullptr;  // null: none
  };
  struct Norm {
    const float* weight = nullptr;
    const float* bias = nullptr;  // of layer norms
  };
  struct Layer {
    Norm attention_norm;  // of what attention reads, or of the sum after it (post_norm)
    Linear query, key, value, output;
    // Of a gate after attention (arXiv 2505.06708), null: none: heads' outputs are multiplied by
    // the sigmoid of what it makes of attention's input, [heads * value_width][width].
    Linear attention_gate;
    const float* sinks = nullptr;  // [heads]: logits in the denominators; null: none
    Linear global_query, global_key, global_value;  // of global tokens' rows; null: none
    // Of latent attention, in place of key and value: [rank + rotated][width], and rows of each
    // head, of the key and then of the value, [heads * (head_width - rotated + value_width)][rank].
    Linear query_latent, latent, expand;  // query: [heads * head_width][query_rank]
    Norm query_latent_norm, latent_norm;
    Norm query_norm, key_norm;                 // of each head, [head_width]; null: none
    Norm feed_forward_norm;                    // likewise
    Linear gate, up, down;                     // gate: only when gated
    Norm after_attention, after_feed_forward;  // of a branch before it is added; null: none
    // A decoder's attention to a source, between the two; null: none.
    Norm source_norm;
    Linear source_query, source_key, source_value, source_output;
  };

  const float* embedding = nullptr;  // [vocabulary][width]
  const float* positions = nullptr;  // [positions][width]; null: no table
  const float* types = nullptr;      // [types][width]; null: none
  Norm embedding_norm;               // of the embeddings; null: none
  std::vector<Layer> layers;
  Norm final_norm;  // null: none
  Linear head;      // [vocabulary][width]; the embedding itself where they are tied; null: none
  // What a family had to rearrange.
  std::deque<std::vector<float>> made = {};
};

// Texts one after another.
struct PackedTexts {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> type_ids;  // of each token; empty: 0
  std::vector<std::int64_t> lengths;
  std::vector<std::vector<std::int64_t>> global_tokens = {};  // of each text; empty: none

  void add(std::span<const std::int32_t> text_ids, std::span<const std::int32_t> text_type_ids);
  std::span<const std::int64_t> globals_of(std::size_t text) const {
    if (global_tokens.empty()) return {};
    return global_tokens[text];
  }
  std::int64_t tokens() const { return static_cast<std::int64_t>(ids.size()); }
};

// One layer's attention as it ran: heads side by side in a token's row. Valid during the call.
struct SeenAttention {
  std::int64_t layer = 0;
  // Of q and k. Where a text's rows differ in more than their mask (block_sparse, global_tokens),
  // it is above the description's: products of the wider vectors are the scores.
  std::int64_t head_width = 0;
  const float* q = nullptr;              // [tokens][heads * head_width], rotated
  const float* k = nullptr;              // [tokens][kv_heads * head_width], rotated
  const float* v = nullptr;              // [tokens][kv_heads * value_width]
  const float* output_weight = nullptr;  // [width][heads * value_width], behind a gate if there is
  // Attention to a source: its k and v are told by keep_source(), its q by the tokens' pass, each
  // with null for the other.
  bool source = false;
};

// Reads, and may change, what the heads of a layer put out, gated where they are, before the output
// projection: [tokens][heads][value_width].
using HeadOutputs = std::function<void(std::int64_t layer, std::int64_t tokens, float* outputs)>;

// What a run tells of its attention, layer by layer, on the way.
struct AttentionWatch {
  std::function<Observed(std::int64_t layer)> ask = {};  // before it runs: what it is to answer
  std::function<void(const SeenAttention&)> see = {};    // after
  HeadOutputs outputs = {};                              // then
  // As `ask`, of attention to a source.
  std::function<Observed(std::int64_t layer)> ask_source = {};
};

// Tokens that follow what a cache holds of some sequences, for one pass.
struct NextTokens {
  std::span<const std::int32_t> ids;  // of the first sequence, then of the next, ...
  KvCache& cache;
  std::vector<SequenceId> sequences;
  std::vector<std::int64_t> counts = {};  // [sequences] of ids; empty: one each
  // Of a decoder: the sources that keep_source() kept, and which one each sequence attends to;
  // those of one source stand together.
  KvCache* sources = nullptr;
  std::vector<SequenceId> source_of = {};
};

class Transformer {
 public:
  Transformer(const TransformerConfig& config, TransformerWeights weights);

  const TransformerConfig& config() const { return config_; }
  // The mask and the score of a layer, but for what depends on a text (text_pattern.h).
  const AttentionOptions& attention(std::int64_t layer) const {
    return attention_[attention_index_[static_cast<std::size_t>(layer)]];
  }

  // Of a cache for `tokens` tokens, all sequences together, each rounded up to whole pages.
  // `dtype`: float32, bfloat16 or int8. With `evicts` keys turn with their place in the cache, as
  // KvCache::evict needs it.
  KvCacheOptions cache_options(std::int64_t tokens, DType dtype = DType::f32,
                               bool evicts = false) const;

  // Hidden states [ids][width], after the last norm, of tokens that follow what `cache` holds of
  // `sequence`; their keys and values are appended. A long text may come in pieces. Throws
  // std::invalid_argument for an id outside the vocabulary and for a learned position past the
  // last, attn::Error when the cache is full; the cache then holds what it held.
  std::vector<float> hidden(std::span<const std::int32_t> ids, KvCache& cache, SequenceId sequence,
                            const Context& context, const AttentionWatch& watch = {}) const;

  // The same of several sequences in one pass, one after the other.
  // A decoder with attention to sources throws std::invalid_argument without them.
  std::vector<float> hidden(const NextTokens& next, const Context& context,
                            const AttentionWatch& watch = {}) const;

  // Keeps a source for a decoder: the keys and values of its hidden states [n][width] (an
  // encoder's), in every layer, as a new sequence of `cache`, which has this object's
  // cache_options().
  SequenceId keep_source(std::span<const float> hidden, KvCache& cache, const Context& context,
                         const AttentionWatch& watch = {}) const;

  // Hidden states [tokens][width] of whole texts, each of which sees itself alone; nothing is
  // padded or kept. Throws std::invalid_argument as above, for a type id outside its table, and for
  // global tokens that a text, or the description, does not have.
  std::vector<float> hidden(const PackedTexts& texts, const Context& context,
                            const AttentionWatch& watch = {}) const;

  // Logits [rows][vocabulary] of hidden states [rows][width].
  std::vector<float> logits(std::span<const float> hidden, const Context& context) const;

 private:
  struct Pass;
  void embed(std::span<const std::int32_t> ids, std::span<const std::int32_t> type_ids,
             std::span<const std::int64_t> positions, Pass& p) const;
  std::vector<float> run(Pass& p) const;
  // A branch reads Pass::input() and leaves what is to be added in Pass::branch.
  void begin_branch(const TransformerWeights::Norm& norm, Pass& p) const;
  void end_branch(const TransformerWeights::Norm& norm, const TransformerWeights::Norm& after,
                  Pass& p) const;
  void attend(std::int64_t layer, Pass& p) const;
  void run_attention(std::int64_t layer, const Tensor& q, const Tensor& k, Pass& p) const;
  void attend_source(std::int64_t layer, Pass& p) const;
  bool reads_source() const;
  void expand_latent(const TransformerWeights::Layer& layer, Pass& p) const;
  void feed_forward(const TransformerWeights::Layer& layer, Pass& p) const;
  void normalise(const TransformerWeights::Norm& norm, std::int64_t rows, std::int64_t width,
                 const float* x, float* y, const Context& context) const;
  // Keys are cached as they were before the rotation, because its base moves with the length.
  bool rotates_late() const;
  std::int64_t rotated_width() const;  // of a head

  TransformerConfig config_;
  TransformerWeights weights_;
  std::vector<AttentionOptions> attention_;   // those that differ
  std::vector<std::int64_t> windows_;         // of each of them
  std::vector<std::size_t> attention_index_;  // [layers]
};

}  // namespace attn
