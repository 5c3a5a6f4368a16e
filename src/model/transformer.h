// The decoder-only transformer that language models are variants of (arXiv 1706.03762; GPT-2), as a
// description and weights: norm, then attention to what came before, then norm and feed-forward,
// each added to the residual stream. A family of models fills in the two structures; nothing here
// knows its name.
#pragma once

#include <cstdint>
#include <deque>
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

struct TransformerConfig {
  std::int64_t layers = 0, width = 0;
  std::int64_t heads = 0, kv_heads = 0, head_width = 0;
  std::int64_t feed_forward_width = 0, vocabulary = 0;
  std::int64_t positions = 0;  // tokens that it was made for
  NormKind norm = NormKind::layer;
  double norm_epsilon = 1e-5;
  // Attention and feed-forward read the same residual stream, side by side (GPT-J, GPT-NeoX), not
  // one after the other.
  bool parallel = false;
  std::optional<RopeOptions> rope = {};
  bool alibi = false;
  double alibi_max = 8;        // ALiBi's largest exponent
  double attention_scale = 0;  // of queries times keys; 0: 1 / sqrt(head_width)
  double attention_cap = 0;    // soft cap of scores; 0: none
  double logit_cap = 0;        // soft cap of logits; 0: none
  double embedding_scale = 1;  // of token embeddings
  // [layers]: keys that a query sees, its own included; 0: all before it. Empty: 0 everywhere.
  std::vector<std::int64_t> windows = {};
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
    Norm attention_norm;
    Linear query, key, value, output;
    Norm query_norm, key_norm;  // of each head, [head_width]; null: none
    Norm feed_forward_norm;
    Linear gate, up, down;                     // gate: only when gated
    Norm after_attention, after_feed_forward;  // of a branch before it is added; null: none
  };

  const float* embedding = nullptr;  // [vocabulary][width]
  const float* positions = nullptr;  // [positions][width]; null: not learned
  Norm embedding_norm;               // of the embeddings; null: none
  std::vector<Layer> layers;
  Norm final_norm;
  Linear head;  // [vocabulary][width]; the embedding itself where they are tied
  // What a family had to rearrange.
  std::deque<std::vector<float>> made = {};
};

class Transformer {
 public:
  Transformer(const TransformerConfig& config, TransformerWeights weights);

  const TransformerConfig& config() const { return config_; }

  // Of a cache for `tokens` tokens, all sequences together. `dtype`: float32, bfloat16 or int8.
  KvCacheOptions cache_options(std::int64_t tokens, DType dtype = DType::f32) const;

  // Hidden states [ids][width], after the last norm, of tokens that follow what `cache` holds of
  // `sequence`; their keys and values are appended. A long text may come in pieces. Throws
  // std::invalid_argument for an id outside the vocabulary and for a learned position past the
  // last, attn::Error when the cache is full; the cache then holds what it held.
  std::vector<float> hidden(std::span<const std::int32_t> ids, KvCache& cache, SequenceId sequence,
                            const Context& context) const;

  // Logits [rows][vocabulary] of hidden states [rows][width].
  std::vector<float> logits(std::span<const float> hidden, const Context& context) const;

 private:
  struct Buffers;
  void embed(std::span<const std::int32_t> ids, std::int64_t first, float* x,
             const Context& context) const;
  std::vector<Plan> plans(const KvBatch& batch, const Context& context) const;
  void attend(std::int64_t layer, const Plan& plan, const KvBatch& batch, KvCache& cache,
              Buffers& b, const Context& context) const;
  void feed_forward(const TransformerWeights::Layer& layer, Buffers& b,
                    const Context& context) const;
  void normalise(const TransformerWeights::Norm& norm, std::int64_t rows, std::int64_t width,
                 const float* x, float* y, const Context& context) const;
  // Keys are cached as they were before the rotation, because its base moves with the length.
  bool rotates_late() const;

  TransformerConfig config_;
  TransformerWeights weights_;
  std::vector<std::int64_t> windows_;      // those that differ
  std::vector<std::size_t> window_index_;  // [layers]
};

}  // namespace attn
