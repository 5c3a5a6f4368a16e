// What RWKV-4 and -5 have in common: layers of two branches, a mechanism with a state and a gated
// feed-forward, both of which mix a token with the one before it (arXiv 2305.13048, 2404.05892).
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "model/recurrent_model.h"

namespace attn {

struct RwkvLayer {
  TransformerWeights::Norm attention_norm, feed_forward_norm;
  // Shares of the token itself, [width]; [attention][width], the output the other way round.
  const float *mix_key = nullptr, *mix_value = nullptr, *mix_receptance = nullptr;
  const float *key = nullptr, *value = nullptr, *receptance = nullptr, *output = nullptr;
  // Of a channel, [attention]; of the decay its logarithm, which is negative.
  const float *decay = nullptr, *bonus = nullptr;
  // Of the feed-forward.
  const float *mix_inner = nullptr, *mix_gate = nullptr;
  const float *inner = nullptr, *gate = nullptr, *outer = nullptr;
};

// What a folder says.
struct RwkvParts {
  RecurrentModel::Sizes sizes;
  RecurrentModel::Ends ends;
  std::int64_t attention = 0, feed_forward = 0;  // widths
  double norm_epsilon = 1e-5;
  bool tied = false;                     // the embedding is the head too
  TransformerWeights::Norm first, last;  // behind the embedding, before the head
  std::vector<RwkvLayer> layers;
  std::deque<std::vector<float>> made;  // what the layers' decays point to
};

// Settings that both versions know; a feed_forward of 0 where none is given.
RwkvParts read_rwkv_settings(const Fields& fields);
// Tensors that both versions have; the bonus has a name of its own in each, and its shape, which is
// the decay's too.
void read_rwkv_weights(Weights& weights, const std::string& bonus,
                       const std::vector<std::int64_t>& bonus_shape, RwkvParts& parts);

class RwkvModel : public RecurrentModel {
 protected:
  // The state of a layer begins with the last token as either branch read it, 2 * width numbers.
  explicit RwkvModel(RwkvParts parts)
      : RecurrentModel(parts.sizes, parts.ends), parts_(std::move(parts)) {}
  const RwkvParts& parts() const { return parts_; }

  // The token before the first, from `last`, and the normalised tokens: [1 + tokens][width]. The
  // last one goes to `last`.
  std::vector<float> shifted(const RecurrentPass& pass, const TransformerWeights::Norm& norm,
                             float* last) const;
  // share x_t + (1 - share) x_(t - 1).
  std::vector<float> mixed(const std::vector<float>& x, const float* share) const;
  // x wᵀ, w [out][in].
  static std::vector<float> product(const RecurrentPass& pass, const float* w, std::int64_t in,
                                    std::int64_t out, const std::vector<float>& x);

 private:
  // The first branch of a layer: adds to the residual stream.
  virtual void attend(std::int64_t layer, const RecurrentPass& pass) const = 0;

  void begin(const RecurrentPass& pass) const override;
  void run_layer(std::int64_t layer, const RecurrentPass& pass) const override;
  void normalise(const RecurrentPass& pass) const override;
  void feed_forward(const RwkvLayer& layer, const RecurrentPass& pass) const;
  void norm(const RecurrentPass& pass, const TransformerWeights::Norm& norm, double epsilon,
            float* y) const;

  RwkvParts parts_;
};

}  // namespace attn
