// The BERT encoder (arXiv 1810.04805): embeddings, then layers of self-attention and feed-forward,
// each followed by a residual sum and layer norm. Texts of any lengths run packed one after
// another, each seeing only itself, so that nothing is ever padded.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "attn/context.h"
#include "attn/mask.h"
#include "attn/observe.h"
#include "model/config.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace attn {

class Bert {
 public:
  // One layer's attention as it ran, [tokens][width]: heads side by side in a token's row. Valid
  // during the call.
  struct Seen {
    std::int64_t layer = 0;
    const float* q = nullptr;
    const float* k = nullptr;
    const float* v = nullptr;
    const float* output_weight = nullptr;  // [width][width], W_O as PyTorch stores it
  };
  using Observer = std::function<void(const Seen&)>;
  // What a layer's attention is to answer as it runs.
  using Asker = std::function<Observed(std::int64_t layer)>;

  // Finds every weight, with and without the "bert." prefix; the names LayerNorm.gamma and
  // LayerNorm.beta of early checkpoints too. `weights` must outlive this object.
  Bert(const BertConfig& config, Weights& weights);

  // Last hidden states [tokens][width].
  std::vector<float> run(const PackedTexts& texts, const Context& context,
                         const Observer& observer = {}, const Asker& ask = {}) const;

 private:
  struct Linear {
    const float* weight = nullptr;  // [out][in]
    const float* bias = nullptr;    // [out]
  };
  struct Norm {
    const float* weight = nullptr;
    const float* bias = nullptr;
  };
  struct Layer {
    Linear query, key, value, output, up, down;
    Norm attention_norm, output_norm;
  };
  struct Buffers;

  void run_layer(const Layer& layer, std::int64_t index, const class Plan& plan, Buffers& buffers,
                 const Context& context, const Observer& observer, const Asker& ask) const;

  BertConfig config_;
  const float* words_ = nullptr;
  const float* positions_ = nullptr;
  const float* types_ = nullptr;
  Norm embedding_norm_;
  std::vector<Layer> layers_;
};

}  // namespace attn
