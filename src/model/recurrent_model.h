// Language models that remember a text in a state of fixed size, however long it gets: layers that
// read and add to a residual stream, each with a part of the state of its own. A family is one file
// that maps names and settings and says what its layer computes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attn/context.h"
#include "attn/implied.h"
#include "model/fields.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace attn {

// What a model remembers of one text: numbers that can be copied, to go on twice, or kept.
struct TextState {
  std::vector<std::vector<float>> layers;
};

// Told what each layer's recurrence implies, of a text that begins with the call.
using RecurrentWatch = std::function<void(std::int64_t layer, const ImpliedAttention&)>;

// Tokens on their way through the layers.
struct RecurrentPass {
  std::int64_t tokens = 0;
  float* x = nullptr;      // [tokens][width], the residual stream
  float* state = nullptr;  // of the layer
  const Context& context;
  std::function<void(const ImpliedAttention&)> see = {};  // of the layer; empty: nobody asks
};

class RecurrentModel {
 public:
  struct Sizes {
    std::int64_t layers = 0, width = 0, vocabulary = 0;
    std::int64_t heads = 1;  // of a layer, with gates of their own
  };
  // Pointers into the file's weights, which must live longer.
  struct Ends {
    const float* embedding = nullptr;  // [vocabulary][width]
    const float* head = nullptr;       // [vocabulary][width]
  };
  virtual ~RecurrentModel() = default;

  const Sizes& sizes() const { return sizes_; }
  // Of a text that has not begun.
  TextState start() const;

  // Hidden states [ids][width], after the last norm, of tokens that follow what `state` remembers,
  // and are remembered then. A text may come in pieces: the results agree to
  // rounding. Throws std::invalid_argument for an id outside the vocabulary.
  std::vector<float> hidden(std::span<const std::int32_t> ids, TextState& state,
                            const Context& context, const RecurrentWatch& watch = {}) const;
  // Logits [rows][vocabulary] of hidden states [rows][width].
  std::vector<float> logits(std::span<const float> hidden, const Context& context) const;

 protected:
  RecurrentModel(const Sizes& sizes, const Ends& ends) : sizes_(sizes), ends_(ends) {}

  // What layers have in common. y [tokens][out] = x wᵀ, rows of x `x_stride` apart.
  static void dense(const RecurrentPass& pass, const TransformerWeights::Linear& w, std::int64_t in,
                    std::int64_t out, const float* x, std::int64_t x_stride, float* y);
  // y = the RMS norm of the residual stream.
  void rms_norm(const RecurrentPass& pass, const float* weight, double epsilon, float* y) const;

 private:
  virtual std::vector<float> start_layer() const = 0;
  virtual void begin(const RecurrentPass&) const {}  // after the embedding
  virtual void run_layer(std::int64_t layer, const RecurrentPass& pass) const = 0;
  virtual void normalise(const RecurrentPass& pass) const = 0;  // after the last layer

  Sizes sizes_;
  Ends ends_;
};

// Is it the model_type of one?
bool is_recurrent(const std::string& model_type);

// By model_type of config.json: mamba, mamba2, rwkv (version 4), rwkv5. Throws attn::Error for
// another, and for a setting that is not known or that we do not run, by its name.
std::unique_ptr<RecurrentModel> load_recurrent(const std::string& config_json,
                                               const std::string& source, Weights& weights);

// The families, one file each.
std::unique_ptr<RecurrentModel> load_mamba(const Fields& fields, Weights& weights);
std::unique_ptr<RecurrentModel> load_mamba2(const Fields& fields, Weights& weights);
std::unique_ptr<RecurrentModel> load_rwkv4(const Fields& fields, Weights& weights);
std::unique_ptr<RecurrentModel> load_rwkv5(const Fields& fields, Weights& weights);

}  // namespace attn
