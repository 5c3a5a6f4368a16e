#include "model/rwkv_model.h"

#include <algorithm>
#include <cmath>

#include "model/families.h"
#include "nn/dense.h"

namespace attn {

RwkvParts read_rwkv_settings(const Fields& fields) {
  RwkvParts parts;
  RecurrentModel::Sizes& s = parts.sizes;
  s.width = fields.needed_size("hidden_size", kLargestSize);
  s.layers = fields.needed_size("num_hidden_layers", kLargestLayers);
  s.vocabulary = fields.needed_size("vocab_size", kLargestSize);
  parts.attention = fields.size("attention_hidden_size", kLargestSize).value_or(s.width);
  parts.feed_forward = fields.size("intermediate_size", kLargestSize).value_or(0);
  parts.norm_epsilon = read_epsilon(fields, "layer_norm_epsilon", 1e-5);
  parts.tied = fields.boolean("tie_word_embeddings").value_or(false);
  // rescale_every halves the residual stream now and then, for float16: the last norm undoes it.
  fields.find("rescale_every");
  fields.find("context_length");
  return parts;
}

void read_rwkv_weights(Weights& weights, const std::string& bonus,
                       const std::vector<std::int64_t>& bonus_shape, RwkvParts& parts) {
  const RecurrentModel::Sizes& s = parts.sizes;
  const std::int64_t attention = parts.attention, feed_forward = parts.feed_forward;
  const auto matrix = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return weights.floats(name + ".weight", {out, in});
  };
  const auto norm = [&](const std::string& name) {
    return read_norm(weights, name, s.width, true);
  };
  for (std::int64_t i = 0; i < s.layers; ++i) {
    const std::string block = "rwkv.blocks." + std::to_string(i) + ".", a = block + "attention.",
                      f = block + "feed_forward.";
    const auto mix = [&](const std::string& name) { return weights.floats(name, {1, 1, s.width}); };
    RwkvLayer& w = parts.layers.emplace_back();
    w.attention_norm = norm(block + "ln1");
    w.feed_forward_norm = norm(block + "ln2");
    w.mix_key = mix(a + "time_mix_key");
    w.mix_value = mix(a + "time_mix_value");
    w.mix_receptance = mix(a + "time_mix_receptance");
    w.key = matrix(a + "key", attention, s.width);
    w.value = matrix(a + "value", attention, s.width);
    w.receptance = matrix(a + "receptance", attention, s.width);
    w.output = matrix(a + "output", s.width, attention);
    w.bonus = weights.floats(a + bonus, bonus_shape);
    const float* const decay = weights.floats(a + "time_decay", bonus_shape);
    std::vector<float>& to = parts.made.emplace_back(decay, decay + attention);
    for (float& x : to) x = -std::exp(x);
    w.decay = to.data();
    w.mix_inner = mix(f + "time_mix_key");
    w.mix_gate = mix(f + "time_mix_receptance");
    w.inner = matrix(f + "key", feed_forward, s.width);
    w.gate = matrix(f + "receptance", s.width, s.width);
    w.outer = matrix(f + "value", s.width, feed_forward);
  }
  parts.first = norm("rwkv.blocks.0.pre_ln");
  parts.last = norm("rwkv.ln_out");
  RecurrentModel::Ends& ends = parts.ends;
  ends.embedding = matrix("rwkv.embeddings", s.vocabulary, s.width);
  ends.head = parts.tied ? ends.embedding : matrix("head", s.vocabulary, s.width);
}

void RwkvModel::norm(const RecurrentPass& p, const TransformerWeights::Norm& w, double epsilon,
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

void RwkvModel::begin(const RecurrentPass& p) const {
  norm(p, parts_.first, parts_.norm_epsilon, p.x);
}

// The last norm has an epsilon of its own, which no setting changes.
void RwkvModel::normalise(const RecurrentPass& p) const { norm(p, parts_.last, 1e-5, p.x); }

void RwkvModel::run_layer(std::int64_t layer, const RecurrentPass& p) const {
  attend(layer, p);
  feed_forward(parts_.layers[static_cast<std::size_t>(layer)], p);
}

void RwkvModel::feed_forward(const RwkvLayer& w, const RecurrentPass& p) const {
  const std::int64_t width = sizes().width, inner = parts_.feed_forward;
  const std::vector<float> x = shifted(p, w.feed_forward_norm, p.state + width);
  std::vector<float> k = product(p, w.inner, width, inner, mixed(x, w.mix_inner));
  const std::vector<float> r = product(p, w.gate, width, width, mixed(x, w.mix_gate));
  for (float& value : k) value = value > 0 ? value * value : 0;
  std::vector<float> out = product(p, w.outer, inner, width, k);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] /= 1 + std::exp(-r[i]);
  nn::add(p.tokens * width, out.data(), p.x, p.context);
}

std::vector<float> RwkvModel::shifted(const RecurrentPass& p, const TransformerWeights::Norm& w,
                                      float* last) const {
  const auto width = static_cast<std::size_t>(sizes().width);
  std::vector<float> x((static_cast<std::size_t>(p.tokens) + 1) * width);
  std::copy_n(last, width, x.data());
  norm(p, w, parts_.norm_epsilon, x.data() + width);
  std::copy_n(x.end() - sizes().width, width, last);
  return x;
}

std::vector<float> RwkvModel::mixed(const std::vector<float>& x, const float* share) const {
  const auto width = static_cast<std::size_t>(sizes().width);
  std::vector<float> y(x.size() - width);
  for (std::size_t row = 0; row < y.size(); row += width) {
    for (std::size_t i = 0; i < width; ++i)
      y[row + i] = share[i] * x[row + width + i] + (1 - share[i]) * x[row + i];
  }
  return y;
}

std::vector<float> RwkvModel::product(const RecurrentPass& p, const float* w, std::int64_t in,
                                      std::int64_t out, const std::vector<float>& x) {
  std::vector<float> y(static_cast<std::size_t>(p.tokens * out));
  dense(p, {w, nullptr}, in, out, x.data(), in, y.data());
  return y;
}

}  // namespace attn
