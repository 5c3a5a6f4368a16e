// RWKV-5, "Eagle" (arXiv 2404.05892): the mechanism has heads with a matrix for a state, a decay a
// channel, a norm a head and a gate. As the Hub's RWKV/rwkv-5-world-* have it (modeling_rwkv5.py).
#include <cmath>

#include "attn/recurrent.h"
#include "model/families.h"
#include "model/rwkv_model.h"
#include "nn/dense.h"

namespace attn {

namespace {

struct Rwkv5Gate {
  const float *mix = nullptr, *weight = nullptr;  // [width], [width][width]
  TransformerWeights::Norm norm;                  // of the heads, side by side
};

struct Rwkv5Config {
  std::int64_t heads = 0, head_width = 64;
  double norm_epsilon = 0;  // of the heads
};

class Rwkv5 final : public RwkvModel {
 public:
  Rwkv5(RwkvParts parts, const Rwkv5Config& config, std::vector<Rwkv5Gate> gates)
      : RwkvModel(std::move(parts)), config_(config), gates_(std::move(gates)) {}

 private:
  // Behind the last tokens the states of the heads.
  std::vector<float> start_layer() const override {
    return std::vector<float>(static_cast<std::size_t>(sizes().width * (2 + config_.head_width)));
  }

  void attend(std::int64_t layer, const RecurrentPass& p) const override {
    const RwkvLayer& w = parts().layers[static_cast<std::size_t>(layer)];
    const Rwkv5Gate& gate = gates_[static_cast<std::size_t>(layer)];
    const std::int64_t width = sizes().width;
    const std::vector<float> x = shifted(p, w.attention_norm, p.state);
    const std::vector<float> k = product(p, w.key, width, width, mixed(x, w.mix_key)),
                             v = product(p, w.value, width, width, mixed(x, w.mix_value)),
                             r = product(p, w.receptance, width, width, mixed(x, w.mix_receptance)),
                             g = product(p, gate.weight, width, width, mixed(x, gate.mix));
    std::vector<float> y(k.size());
    const Shape rows{1, config_.heads, p.tokens, config_.head_width},
        row{1, config_.heads, 1, config_.head_width};
    const Tensor state(p.state + 2 * width,
                       {1, config_.heads, config_.head_width, config_.head_width});
    const RecurrentInputs in{.q = ConstTensor::blhd(r.data(), rows),
                             .k = ConstTensor::blhd(k.data(), rows),
                             .v = ConstTensor::blhd(v.data(), rows),
                             .log_decay = ConstTensor(w.decay, row),
                             .bonus = ConstTensor(w.bonus, row),
                             .state = state};
    if (p.see) p.see(ImpliedAttention::of(in));
    recurrent(in, Tensor::blhd(y.data(), rows), state, {}, p.context);
    norm_and_gate(gate.norm, g.data(), y);
    const std::vector<float> out = product(p, w.output, width, width, y);
    nn::add(p.tokens * width, out.data(), p.x, p.context);
  }

  // A norm by head, then times silu of the gates.
  void norm_and_gate(const TransformerWeights::Norm& norm, const float* gates,
                     std::vector<float>& y) const {
    const auto width = static_cast<std::size_t>(sizes().width),
               head = static_cast<std::size_t>(config_.head_width);
    for (std::size_t at = 0; at < y.size(); at += head) {
      float* const part = y.data() + at;
      double mean = 0, squares = 0;
      for (std::size_t i = 0; i < head; ++i) mean += static_cast<double>(part[i]);
      mean /= static_cast<double>(head);
      for (std::size_t i = 0; i < head; ++i) {
        const double difference = static_cast<double>(part[i]) - mean;
        squares += difference * difference;
      }
      const double factor =
          1 / std::sqrt(squares / static_cast<double>(head) + config_.norm_epsilon);
      for (std::size_t i = 0; i < head; ++i) {
        const std::size_t channel = at % width + i;
        const float z = gates[at + i];
        part[i] = static_cast<float>((static_cast<double>(part[i]) - mean) * factor);
        part[i] = (part[i] * norm.weight[channel] + norm.bias[channel]) * z / (1 + std::exp(-z));
      }
    }
  }

  Rwkv5Config config_;
  std::vector<Rwkv5Gate> gates_;
};

}  // namespace

std::unique_ptr<RecurrentModel> load_rwkv5(const Fields& fields, Weights& weights) {
  RwkvParts parts = read_rwkv_settings(fields);
  const std::int64_t width = parts.sizes.width;
  if (parts.feed_forward == 0) parts.feed_forward = width * 7 / 2 / 32 * 32;
  if (parts.feed_forward == 0) fields.fail("intermediate_size", "is missing, at this hidden_size");
  if (parts.attention != width)
    fields.fail("attention_hidden_size", "is not hidden_size, the only one that we run");
  Rwkv5Config c;
  c.head_width = fields.size("head_size", kLargestHeadWidth).value_or(c.head_width);
  if (width % c.head_width != 0) fields.fail("head_size", "does not divide hidden_size");
  c.heads = parts.sizes.heads = width / c.head_width;
  // The published code divides what heads read by this and normalises with an epsilon of 1e-5:
  // the same as a norm with a larger one.
  const double divisor = fields.number("head_size_divisor").value_or(8);
  if (!(divisor > 0)) fields.fail("head_size_divisor", "must be above 0");
  c.norm_epsilon = 1e-5 * divisor * divisor;
  if (const std::string version = fields.text("model_version").value_or("5_2"); version != "5_2")
    fields.fail("model_version", "\"" + version + "\" is not known, \"5_2\" is");
  // num_attention_heads of early folders is 64 whatever the model; their code goes by head_size.
  refuse_others(fields, {"auto_map", "num_attention_heads"});

  read_rwkv_weights(weights, "time_faaaa", {c.heads, c.head_width}, parts);
  std::vector<Rwkv5Gate> gates;
  for (std::int64_t i = 0; i < parts.sizes.layers; ++i) {
    const std::string a = "rwkv.blocks." + std::to_string(i) + ".attention.";
    gates.push_back({weights.floats(a + "time_mix_gate", {1, 1, width}),
                     weights.floats(a + "gate.weight", {width, width}),
                     read_norm(weights, a + "ln_x", width, true)});
  }
  return std::make_unique<Rwkv5>(std::move(parts), c, std::move(gates));
}

}  // namespace attn
