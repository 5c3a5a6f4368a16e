// Mamba-2 (arXiv 2405.21060): layers of a convolution, a state space with a decay a head, and a
// gated norm between two products, with a norm before.
#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>

#include "attn/mamba2.h"
#include "attn/scan.h"
#include "model/families.h"
#include "model/recurrent_model.h"
#include "nn/dense.h"

namespace attn {

namespace {

struct Mamba2Config {
  std::int64_t heads = 0, head_width = 0, groups = 0, states = 0, convolution = 0;
  double norm_epsilon = 1e-5;
  Mamba2Options scan;

  std::int64_t inner() const { return heads * head_width; }
  std::int64_t mixed() const { return inner() + 2 * groups * states; }  // through the convolution
  std::int64_t projected() const { return inner() + mixed() + heads; }
};

struct Mamba2Layer {
  const float* norm = nullptr;                   // [width]
  TransformerWeights::Linear in;                 // [projected][width]: gates, x, b, c, dt
  const float *taps = nullptr, *bias = nullptr;  // [convolution][mixed], [mixed] or null
  const float *a = nullptr, *d = nullptr, *dt_bias = nullptr;  // [heads]
  const float* gated_norm = nullptr;                           // [inner]
  TransformerWeights::Linear out;                              // [width][inner]
};

class Mamba2 final : public RecurrentModel {
 public:
  Mamba2(const Sizes& sizes, const Ends& ends, const Mamba2Config& config,
         std::vector<Mamba2Layer> layers, const float* norm, std::deque<std::vector<float>> made)
      : RecurrentModel(sizes, ends),
        config_(config),
        layers_(std::move(layers)),
        norm_(norm),
        made_(std::move(made)) {}

 private:
  // Inputs of the convolution that came before, then the states of the heads.
  std::int64_t kept_inputs() const { return (config_.convolution - 1) * config_.mixed(); }
  std::vector<float> start_layer() const override {
    return std::vector<float>(
        static_cast<std::size_t>(kept_inputs() + config_.inner() * config_.states));
  }

  void normalise(const RecurrentPass& p) const override {
    rms_norm(p, norm_, config_.norm_epsilon, p.x);
  }

  void run_layer(std::int64_t layer, const RecurrentPass& p) const override {
    const Mamba2Config& c = config_;
    const Mamba2Layer& w = layers_[static_cast<std::size_t>(layer)];
    const std::int64_t width = sizes().width, inner = c.inner(), mixed = c.mixed(),
                       projected = c.projected(), n = p.tokens;
    const auto numbers = [&](std::int64_t of_token) {
      return std::vector<float>(static_cast<std::size_t>(n * of_token));
    };
    std::vector<float> x = numbers(width), all = numbers(projected), xbc = numbers(mixed),
                       y = numbers(inner);
    rms_norm(p, w.norm, config_.norm_epsilon, x.data());
    dense(p, w.in, width, projected, x.data(), width, all.data());

    const Tensor inputs(p.state, {1, 1, c.convolution - 1, mixed});
    causal_convolution(
        {.x = ConstTensor(all.data() + inner, {1, 1, n, mixed}, {n * projected, 0, projected, 1}),
         .weight = ConstTensor(w.taps, {1, 1, c.convolution, mixed}),
         .bias = w.bias == nullptr ? ConstTensor() : ConstTensor(w.bias, {1, 1, 1, mixed}),
         .state = inputs},
        {Tensor(xbc.data(), {1, 1, n, mixed}), inputs}, {.silu = true}, p.context);

    // Heads of some columns of a matrix.
    const auto heads = [&](const float* from, std::int64_t count, std::int64_t columns,
                           std::int64_t stride) {
      return ConstTensor(from, {1, count, n, columns}, {n * stride, columns, stride, 1});
    };
    const auto by_head = [&](const float* from) { return ConstTensor(from, {1, c.heads, 1, 1}); };
    const float *b = xbc.data() + inner, *dt = all.data() + inner + mixed;
    const Tensor states(p.state + kept_inputs(), {1, c.heads, c.states, c.head_width});
    const Mamba2Inputs in{.x = heads(xbc.data(), c.heads, c.head_width, mixed),
                          .dt = heads(dt, c.heads, 1, projected),
                          .a = by_head(w.a),
                          .b = heads(b, c.groups, c.states, mixed),
                          .c = heads(b + c.groups * c.states, c.groups, c.states, mixed),
                          .d = by_head(w.d),
                          .dt_bias = by_head(w.dt_bias),
                          .state = states};
    if (p.see) p.see(ImpliedAttention::of(in, c.scan));
    mamba2(in, Tensor::blhd(y.data(), {1, c.heads, n, c.head_width}), states, c.scan, p.context);

    gate(n, all.data(), projected, w.gated_norm, y.data());
    dense(p, w.out, inner, width, y.data(), inner, x.data());
    nn::add(n * width, x.data(), p.x, p.context);
  }

  // y times silu of its gates, then a norm by group.
  void gate(std::int64_t tokens, const float* gates, std::int64_t stride, const float* weight,
            float* y) const {
    const std::int64_t inner = config_.inner(), group = inner / config_.groups;
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t first = 0; first < inner; first += group) {
        float* const row = y + t * inner + first;
        const float* const z = gates + t * stride + first;
        double squares = 0;
        for (std::int64_t i = 0; i < group; ++i) {
          row[i] *= z[i] / (1 + std::exp(-z[i]));
          squares += static_cast<double>(row[i]) * static_cast<double>(row[i]);
        }
        const auto factor = static_cast<float>(
            1 / std::sqrt(squares / static_cast<double>(group) + config_.norm_epsilon));
        for (std::int64_t i = 0; i < group; ++i) row[i] *= factor * weight[first + i];
      }
    }
  }

  Mamba2Config config_;
  std::vector<Mamba2Layer> layers_;
  const float* norm_;
  std::deque<std::vector<float>> made_;  // what the layers' taps and a point to
};

// A number, or infinity as Transformers writes it.
double limit_of(const Fields& fields, const Json& value) {
  if (value.is_number()) return value.real;
  const Json* const name = value.find("__float__");
  if (name == nullptr || name->text != "Infinity")
    fields.fail("time_step_limit", "holds something that is no number");
  return std::numeric_limits<double>::infinity();
}

// [least, most] of a step of time.
void read_step_limit(const Fields& fields, Mamba2Options& scan) {
  const Json* const limit = fields.find("time_step_limit");
  if (limit == nullptr || limit->is(Json::Kind::null)) return;
  if (limit->items.size() == 2) {
    scan.dt_min = limit_of(fields, limit->items[0]);
    scan.dt_max = limit_of(fields, limit->items[1]);
  }
  if (limit->items.size() != 2 || !(scan.dt_min <= scan.dt_max))
    fields.fail("time_step_limit", "is no pair of ascending numbers");
}

}  // namespace

std::unique_ptr<RecurrentModel> load_mamba2(const Fields& fields, Weights& weights) {
  RecurrentModel::Sizes s;
  s.width = fields.needed_size("hidden_size", kLargestSize);
  s.layers = fields.needed_size("num_hidden_layers", kLargestLayers);
  s.vocabulary = fields.needed_size("vocab_size", kLargestSize);
  Mamba2Config c;
  c.heads = s.heads = fields.needed_size("num_heads", kLargestSize);
  c.head_width = fields.needed_size("head_dim", kLargestHeadWidth);
  c.groups = fields.needed_size("n_groups", kLargestSize);
  c.states = fields.needed_size("state_size", kLargestHeadWidth);
  c.convolution = fields.integer("conv_kernel", 2, 8).value_or(4);
  c.norm_epsilon = read_epsilon(fields, "layer_norm_epsilon", 1e-5);
  if (c.heads % c.groups != 0) fields.fail("n_groups", "does not divide num_heads");
  if (c.inner() != s.width * fields.size("expand", 64).value_or(2))
    fields.fail("expand", "times hidden_size is not num_heads times head_dim");
  read_step_limit(fields, c.scan);
  const bool bias = fields.boolean("use_bias").value_or(false);
  const bool convolution_bias = fields.boolean("use_conv_bias").value_or(true);
  const bool tied = fields.boolean("tie_word_embeddings").value_or(false);
  if (activation_named(fields, "hidden_act") != nn::Activation::silu)
    fields.fail("hidden_act", "is not silu, the only one that we run");
  refuse_others(fields, {"chunk_size", "rescale_prenorm_residual", "residual_in_fp32",
                         "time_step_floor", "time_step_max", "time_step_min", "time_step_rank"});

  std::deque<std::vector<float>> made;
  std::vector<Mamba2Layer> layers;
  for (std::int64_t i = 0; i < s.layers; ++i) {
    const std::string layer = "backbone.layers." + std::to_string(i) + ".", m = layer + "mixer.";
    Mamba2Layer& w = layers.emplace_back();
    w.norm = weights.floats(layer + "norm.weight", {s.width});
    w.in = read_linear(weights, m + "in_proj", c.projected(), s.width, bias);
    const float* const taps = weights.floats(m + "conv1d.weight", {c.mixed(), 1, c.convolution});
    std::vector<float>& across =
        made.emplace_back(static_cast<std::size_t>(c.convolution * c.mixed()));
    for (std::int64_t j = 0; j < c.mixed(); ++j) {
      for (std::int64_t k = 0; k < c.convolution; ++k)
        across[static_cast<std::size_t>(k * c.mixed() + j)] = taps[j * c.convolution + k];
    }
    w.taps = across.data();
    if (convolution_bias) w.bias = weights.floats(m + "conv1d.bias", {c.mixed()});
    const float* const log_a = weights.floats(m + "A_log", {c.heads});
    std::vector<float>& a = made.emplace_back(log_a, log_a + c.heads);
    for (float& x : a) x = -std::exp(x);
    w.a = a.data();
    w.d = weights.floats(m + "D", {c.heads});
    w.dt_bias = weights.floats(m + "dt_bias", {c.heads});
    w.gated_norm = weights.floats(m + "norm.weight", {c.inner()});
    w.out = read_linear(weights, m + "out_proj", s.width, c.inner(), bias);
  }
  const float* const norm = weights.floats("backbone.norm_f.weight", {s.width});
  RecurrentModel::Ends ends;
  ends.embedding = weights.floats("backbone.embeddings.weight", {s.vocabulary, s.width});
  ends.head = tied ? ends.embedding : weights.floats("lm_head.weight", {s.vocabulary, s.width});
  return std::make_unique<Mamba2>(s, ends, c, std::move(layers), norm, std::move(made));
}

}  // namespace attn
