// RWKV-4 (arXiv 2305.13048): layers of a weighted mean over the text and of a gated feed-forward,
// both of which mix a token with the one before it.
#include <algorithm>
#include <cmath>
#include <deque>

#include "attn/scan.h"
#include "model/families.h"
#include "model/recurrent_model.h"
#include "nn/dense.h"

namespace attn {

namespace {

struct RwkvConfig {
  std::int64_t attention = 0, feed_forward = 0;  // widths
  double norm_epsilon = 1e-5;
};

struct RwkvLayer {
  TransformerWeights::Norm attention_norm, feed_forward_norm;
  // Shares of the token itself, [width]; matrices [out][in]; [attention].
  const float *mix_key = nullptr, *mix_value = nullptr, *mix_receptance = nullptr;
  const float *key = nullptr, *value = nullptr, *receptance = nullptr, *output = nullptr;
  const float *decay = nullptr, *bonus = nullptr;
  // Of the feed-forward.
  const float *mix_inner = nullptr, *mix_gate = nullptr;
  const float *inner = nullptr, *gate = nullptr, *outer = nullptr;
};

class Rwkv4 final : public RecurrentModel {
 public:
  Rwkv4(const Sizes& sizes, const Ends& ends, const RwkvConfig& config,
        std::vector<RwkvLayer> layers, const TransformerWeights::Norm& first,
        const TransformerWeights::Norm& last, std::deque<std::vector<float>> made)
      : RecurrentModel(sizes, ends),
        config_(config),
        layers_(std::move(layers)),
        first_(first),
        last_(last),
        made_(std::move(made)) {}

 private:
  // The last token as attention and as the feed-forward read it, then the state of the mean.
  std::vector<float> start_layer() const override {
    std::vector<float> state(static_cast<std::size_t>(2 * sizes().width + 3 * config_.attention));
    std::fill(state.end() - config_.attention, state.end(), static_cast<float>(kWkv4Fresh));
    return state;
  }

  void norm(const RecurrentPass& p, const TransformerWeights::Norm& w, double epsilon,
            float* y) const {
    nn::layer_norm({.rows = p.tokens,
                    .width = sizes().width,
                    .x = p.x,
                    .weight = w.weight,
                    .bias = w.bias,
                    .epsilon = static_cast<float>(epsilon),
                    .y = y},
                   p.context);
  }
  void begin(const RecurrentPass& p) const override { norm(p, first_, config_.norm_epsilon, p.x); }
  // The last norm has an epsilon of its own, which no setting changes.
  void normalise(const RecurrentPass& p) const override { norm(p, last_, 1e-5, p.x); }

  void run_layer(std::int64_t layer, const RecurrentPass& p) const override {
    const RwkvLayer& w = layers_[static_cast<std::size_t>(layer)];
    attend(w, p);
    feed_forward(w, p);
  }

  void attend(const RwkvLayer& w, const RecurrentPass& p) const {
    const std::int64_t width = sizes().width, inner = config_.attention;
    std::vector<float> x = shifted(p, w.attention_norm, p.state);
    const std::vector<float> k = product(p, w.key, width, inner, mixed(x, w.mix_key)),
                             v = product(p, w.value, width, inner, mixed(x, w.mix_value)),
                             r = product(p, w.receptance, width, inner, mixed(x, w.mix_receptance));
    std::vector<float> mean(k.size());
    const Shape rows{1, 1, p.tokens, inner}, row{1, 1, 1, inner};
    const Tensor state(p.state + 2 * width, {1, 1, 3, inner});
    const Wkv4Inputs in{ConstTensor(k.data(), rows), ConstTensor(v.data(), rows),
                        ConstTensor(w.decay, row), ConstTensor(w.bonus, row), state};
    if (p.see) p.see(ImpliedAttention::of(in));
    wkv4(in, {Tensor(mean.data(), rows), state}, {}, p.context);
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] /= 1 + std::exp(-r[i]);
    const std::vector<float> out = product(p, w.output, inner, width, mean);
    nn::add(p.tokens * width, out.data(), p.x, p.context);
  }

  void feed_forward(const RwkvLayer& w, const RecurrentPass& p) const {
    const std::int64_t width = sizes().width, inner = config_.feed_forward;
    std::vector<float> x = shifted(p, w.feed_forward_norm, p.state + width);
    std::vector<float> k = product(p, w.inner, width, inner, mixed(x, w.mix_inner));
    const std::vector<float> r = product(p, w.gate, width, width, mixed(x, w.mix_gate));
    for (float& value : k) value = value > 0 ? value * value : 0;
    std::vector<float> out = product(p, w.outer, inner, width, k);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] /= 1 + std::exp(-r[i]);
    nn::add(p.tokens * width, out.data(), p.x, p.context);
  }

  // The token before the first, from `last`, and the normalised tokens: [1 + tokens][width]. The
  // last one goes to `last`.
  std::vector<float> shifted(const RecurrentPass& p, const TransformerWeights::Norm& w,
                             float* last) const {
    const auto width = static_cast<std::size_t>(sizes().width);
    std::vector<float> x((static_cast<std::size_t>(p.tokens) + 1) * width);
    std::copy_n(last, width, x.data());
    norm(p, w, config_.norm_epsilon, x.data() + width);
    std::copy_n(x.end() - sizes().width, width, last);
    return x;
  }
  // share x_t + (1 - share) x_(t - 1).
  std::vector<float> mixed(const std::vector<float>& x, const float* share) const {
    const auto width = static_cast<std::size_t>(sizes().width);
    std::vector<float> y(x.size() - width);
    for (std::size_t row = 0; row < y.size(); row += width) {
      for (std::size_t i = 0; i < width; ++i)
        y[row + i] = share[i] * x[row + width + i] + (1 - share[i]) * x[row + i];
    }
    return y;
  }
  static std::vector<float> product(const RecurrentPass& p, const float* w, std::int64_t in,
                                    std::int64_t out, const std::vector<float>& x) {
    std::vector<float> y(static_cast<std::size_t>(p.tokens * out));
    nn::dense({.rows = p.tokens, .in = in, .out = out, .x = x.data(), .w = w, .y = y.data()},
              p.context);
    return y;
  }

  RwkvConfig config_;
  std::vector<RwkvLayer> layers_;
  TransformerWeights::Norm first_, last_;
  std::deque<std::vector<float>> made_;  // what the layers' decays point to
};

}  // namespace

std::unique_ptr<RecurrentModel> load_rwkv4(const Fields& fields, Weights& weights) {
  RecurrentModel::Sizes s;
  s.width = fields.needed_size("hidden_size", kLargestSize);
  s.layers = fields.needed_size("num_hidden_layers", kLargestLayers);
  s.vocabulary = fields.needed_size("vocab_size", kLargestSize);
  RwkvConfig c;
  c.attention = fields.size("attention_hidden_size", kLargestSize).value_or(s.width);
  c.feed_forward = fields.size("intermediate_size", kLargestSize).value_or(4 * s.width);
  c.norm_epsilon = read_epsilon(fields, "layer_norm_epsilon", 1e-5);
  const bool tied = fields.boolean("tie_word_embeddings").value_or(false);
  // rescale_every halves the residual stream now and then, for float16: the last norm undoes it.
  refuse_others(fields, {"context_length", "rescale_every"});

  std::deque<std::vector<float>> made;
  const auto matrix = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return weights.floats(name + ".weight", {out, in});
  };
  const auto norm = [&](const std::string& name) {
    return read_norm(weights, name, s.width, true);
  };
  std::vector<RwkvLayer> layers;
  for (std::int64_t i = 0; i < s.layers; ++i) {
    const std::string block = "rwkv.blocks." + std::to_string(i) + ".", a = block + "attention.",
                      f = block + "feed_forward.";
    const auto mix = [&](const std::string& name) { return weights.floats(name, {1, 1, s.width}); };
    RwkvLayer& w = layers.emplace_back();
    w.attention_norm = norm(block + "ln1");
    w.feed_forward_norm = norm(block + "ln2");
    w.mix_key = mix(a + "time_mix_key");
    w.mix_value = mix(a + "time_mix_value");
    w.mix_receptance = mix(a + "time_mix_receptance");
    w.key = matrix(a + "key", c.attention, s.width);
    w.value = matrix(a + "value", c.attention, s.width);
    w.receptance = matrix(a + "receptance", c.attention, s.width);
    w.output = matrix(a + "output", s.width, c.attention);
    w.bonus = weights.floats(a + "time_first", {c.attention});
    const float* const decay = weights.floats(a + "time_decay", {c.attention});
    std::vector<float>& to = made.emplace_back(decay, decay + c.attention);
    for (float& x : to) x = -std::exp(x);
    w.decay = to.data();
    w.mix_inner = mix(f + "time_mix_key");
    w.mix_gate = mix(f + "time_mix_receptance");
    w.inner = matrix(f + "key", c.feed_forward, s.width);
    w.gate = matrix(f + "receptance", s.width, s.width);
    w.outer = matrix(f + "value", s.width, c.feed_forward);
  }
  RecurrentModel::Ends ends;
  ends.embedding = weights.floats("rwkv.embeddings.weight", {s.vocabulary, s.width});
  ends.head = tied ? ends.embedding : weights.floats("head.weight", {s.vocabulary, s.width});
  return std::make_unique<Rwkv4>(s, ends, c, std::move(layers), norm("rwkv.blocks.0.pre_ln"),
                                 norm("rwkv.ln_out"), std::move(made));
}

}  // namespace attn
