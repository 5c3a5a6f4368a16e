// RWKV-4 (arXiv 2305.13048): the mechanism is a weighted mean over the text, by channel.
#include <algorithm>
#include <cmath>

#include "attn/scan.h"
#include "model/families.h"
#include "model/rwkv_model.h"
#include "nn/dense.h"

namespace attn {

namespace {

class Rwkv4 final : public RwkvModel {
 public:
  explicit Rwkv4(RwkvParts parts) : RwkvModel(std::move(parts)) {}

 private:
  // Behind the last tokens the state of the mean.
  std::vector<float> start_layer() const override {
    const std::int64_t inner = parts().attention;
    std::vector<float> state(static_cast<std::size_t>(2 * sizes().width + 3 * inner));
    std::fill(state.end() - inner, state.end(), static_cast<float>(kWkv4Fresh));
    return state;
  }

  void attend(std::int64_t layer, const RecurrentPass& p) const override {
    const RwkvLayer& w = parts().layers[static_cast<std::size_t>(layer)];
    const std::int64_t width = sizes().width, inner = parts().attention;
    const std::vector<float> x = shifted(p, w.attention_norm, p.state);
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
};

}  // namespace

std::unique_ptr<RecurrentModel> load_rwkv4(const Fields& fields, Weights& weights) {
  RwkvParts parts = read_rwkv_settings(fields);
  if (parts.feed_forward == 0) parts.feed_forward = 4 * parts.sizes.width;
  refuse_others(fields);
  read_rwkv_weights(weights, "time_first", {parts.attention}, parts);
  return std::make_unique<Rwkv4>(std::move(parts));
}

}  // namespace attn
