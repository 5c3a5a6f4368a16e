// Mamba (arXiv 2312.00752): layers of a convolution and a selective scan between two products, with
// a norm before.
#include <algorithm>
#include <cmath>
#include <deque>

#include "attn/scan.h"
#include "model/families.h"
#include "model/recurrent_model.h"
#include "nn/dense.h"

namespace attn {

namespace {

struct MambaConfig {
  std::int64_t inner = 0, states = 0, rank = 0, convolution = 0;
  double norm_epsilon = 1e-5;
};

struct MambaLayer {
  const float* norm = nullptr;                        // [width]
  TransformerWeights::Linear in;                      // [2 * inner][width]: values, then gates
  const float *taps = nullptr, *bias = nullptr;       // [convolution][inner], [inner] or null
  const float* mix = nullptr;                         // [rank + 2 * states][inner]
  const float *step = nullptr, *step_bias = nullptr;  // [inner][rank], [inner]
  const float *a = nullptr, *d = nullptr;             // [states][inner], [inner]
  TransformerWeights::Linear out;                     // [width][inner]
};

class Mamba final : public RecurrentModel {
 public:
  Mamba(const Sizes& sizes, const Ends& ends, const MambaConfig& config,
        std::vector<MambaLayer> layers, const float* norm, std::deque<std::vector<float>> made)
      : RecurrentModel(sizes, ends),
        config_(config),
        layers_(std::move(layers)),
        norm_(norm),
        made_(std::move(made)) {}

 private:
  // Inputs of the convolution that came before, then the states of the scan.
  std::int64_t kept_inputs() const { return (config_.convolution - 1) * config_.inner; }
  std::vector<float> start_layer() const override {
    return std::vector<float>(
        static_cast<std::size_t>(kept_inputs() + config_.states * config_.inner));
  }

  void normalise(const RecurrentPass& p) const override {
    rms_norm(p, norm_, config_.norm_epsilon, p.x);
  }

  void run_layer(std::int64_t layer, const RecurrentPass& p) const override {
    const MambaLayer& w = layers_[static_cast<std::size_t>(layer)];
    const std::int64_t width = sizes().width, inner = config_.inner, n = p.tokens,
                       mixed = config_.rank + 2 * config_.states;
    const auto numbers = [&](std::int64_t of_token) {
      return std::vector<float>(static_cast<std::size_t>(n * of_token));
    };
    std::vector<float> x = numbers(width), xz = numbers(2 * inner), u = numbers(inner),
                       mix = numbers(mixed), delta = numbers(inner), y = numbers(inner);
    rms_norm(p, w.norm, config_.norm_epsilon, x.data());
    dense(p, w.in, width, 2 * inner, x.data(), width, xz.data());

    // Rows of some columns of a matrix.
    const auto rows = [&](const float* from, std::int64_t columns, std::int64_t stride) {
      return ConstTensor(from, {1, 1, n, columns}, {n * stride, 0, stride, 1});
    };
    const auto row = [&](const float* from) { return ConstTensor(from, {1, 1, 1, inner}); };
    const Tensor inputs(p.state, {1, 1, config_.convolution - 1, inner});
    causal_convolution({.x = rows(xz.data(), inner, 2 * inner),
                        .weight = ConstTensor(w.taps, {1, 1, config_.convolution, inner}),
                        .bias = w.bias == nullptr ? ConstTensor() : row(w.bias),
                        .state = inputs},
                       {Tensor(u.data(), {1, 1, n, inner}), inputs}, {.silu = true}, p.context);

    dense(p, {w.mix}, inner, mixed, u.data(), inner, mix.data());
    dense(p, {w.step}, config_.rank, inner, mix.data(), mixed, delta.data());
    const Tensor states(p.state + kept_inputs(), {1, 1, config_.states, inner});
    const ScanInputs scan{
        .u = rows(u.data(), inner, inner),
        .delta = rows(delta.data(), inner, inner),
        .a = ConstTensor(w.a, {1, 1, config_.states, inner}),
        .b = rows(mix.data() + config_.rank, config_.states, mixed),
        .c = rows(mix.data() + config_.rank + config_.states, config_.states, mixed),
        .d = row(w.d),
        .z = rows(xz.data() + inner, inner, 2 * inner),
        .delta_bias = row(w.step_bias),
        .state = states};
    if (p.see) p.see(ImpliedAttention::of(scan, {.softplus = true}));
    selective_scan(scan, {Tensor(y.data(), {1, 1, n, inner}), states}, {.softplus = true},
                   p.context);

    dense(p, w.out, inner, width, y.data(), inner, x.data());
    nn::add(n * width, x.data(), p.x, p.context);
  }

  MambaConfig config_;
  std::vector<MambaLayer> layers_;
  const float* norm_;
  std::deque<std::vector<float>> made_;  // what the layers' taps and a point to
};

}  // namespace

std::unique_ptr<RecurrentModel> load_mamba(const Fields& fields, Weights& weights) {
  RecurrentModel::Sizes s;
  s.width = fields.needed_size("hidden_size", kLargestSize);
  s.layers = fields.needed_size("num_hidden_layers", kLargestLayers);
  s.vocabulary = fields.needed_size("vocab_size", kLargestSize);
  MambaConfig c;
  c.inner = fields.size("intermediate_size", kLargestSize)
                .value_or(s.width * fields.size("expand", 64).value_or(2));
  c.states = fields.needed_size("state_size", kLargestSize);
  c.rank = fields.size("time_step_rank", kLargestSize).value_or((s.width + 15) / 16);
  c.convolution = fields.integer("conv_kernel", 2, 8).value_or(4);
  c.norm_epsilon = read_epsilon(fields, "layer_norm_epsilon", 1e-5);
  const bool bias = fields.boolean("use_bias").value_or(false);
  const bool convolution_bias = fields.boolean("use_conv_bias").value_or(true);
  const bool tied = fields.boolean("tie_word_embeddings").value_or(true);
  if (activation_named(fields, "hidden_act") != nn::Activation::silu)
    fields.fail("hidden_act", "is not silu, the only one that we run");
  refuse_others(fields,
                {"expand", "rescale_prenorm_residual", "residual_in_fp32", "time_step_floor",
                 "time_step_init_scheme", "time_step_max", "time_step_min", "time_step_scale",
                 "use_associative_scan", "use_mambapy"});

  std::deque<std::vector<float>> made;
  // [inner][columns] as [columns][inner], each number through `f`.
  const auto transposed = [&](const float* from, std::int64_t columns, auto f) {
    std::vector<float>& to = made.emplace_back(static_cast<std::size_t>(columns * c.inner));
    for (std::int64_t i = 0; i < c.inner; ++i) {
      for (std::int64_t j = 0; j < columns; ++j)
        to[static_cast<std::size_t>(j * c.inner + i)] = f(from[i * columns + j]);
    }
    return to.data();
  };
  std::vector<MambaLayer> layers;
  for (std::int64_t i = 0; i < s.layers; ++i) {
    const std::string layer = "backbone.layers." + std::to_string(i) + ".", m = layer + "mixer.";
    MambaLayer& w = layers.emplace_back();
    w.norm = weights.floats(layer + "norm.weight", {s.width});
    w.in = read_linear(weights, m + "in_proj", 2 * c.inner, s.width, bias);
    w.taps = transposed(weights.floats(m + "conv1d.weight", {c.inner, 1, c.convolution}),
                        c.convolution, [](float x) { return x; });
    if (convolution_bias) w.bias = weights.floats(m + "conv1d.bias", {c.inner});
    w.mix = weights.floats(m + "x_proj.weight", {c.rank + 2 * c.states, c.inner});
    w.step = weights.floats(m + "dt_proj.weight", {c.inner, c.rank});
    w.step_bias = weights.floats(m + "dt_proj.bias", {c.inner});
    w.a = transposed(weights.floats(m + "A_log", {c.inner, c.states}), c.states,
                     [](float x) { return -std::exp(x); });
    w.d = weights.floats(m + "D", {c.inner});
    w.out = read_linear(weights, m + "out_proj", s.width, c.inner, bias);
  }
  const float* const norm = weights.floats("backbone.norm_f.weight", {s.width});
  RecurrentModel::Ends ends;
  ends.embedding = weights.floats("backbone.embeddings.weight", {s.vocabulary, s.width});
  ends.head = tied ? ends.embedding : weights.floats("lm_head.weight", {s.vocabulary, s.width});
  return std::make_unique<Mamba>(s, ends, c, std::move(layers), norm, std::move(made));
}

}  // namespace attn
