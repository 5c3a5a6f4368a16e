#include "model/recurrent_model.h"

#include <algorithm>
#include <stdexcept>

#include "nn/dense.h"
#include "nn/layers.h"

namespace attn {

TextState RecurrentModel::start() const {
  return {std::vector<std::vector<float>>(static_cast<std::size_t>(sizes_.layers), start_layer())};
}

std::vector<float> RecurrentModel::hidden(std::span<const std::int32_t> ids, TextState& state,
                                          const Context& context,
                                          const RecurrentWatch& watch) const {
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= sizes_.vocabulary) {
      throw std::invalid_argument("[hidden] token " + std::to_string(id) + " is outside [0, " +
                                  std::to_string(sizes_.vocabulary) + ")");
    }
  }
  const auto width = static_cast<std::size_t>(sizes_.width);
  std::vector<float> x(ids.size() * width);
  for (std::size_t i = 0; i < ids.size(); ++i)
    std::copy_n(ends_.embedding + ids[i] * sizes_.width, width, x.data() + i * width);
  RecurrentPass pass{static_cast<std::int64_t>(ids.size()), x.data(), nullptr, context, {}};
  if (ids.empty()) return x;
  begin(pass);
  for (std::int64_t layer = 0; layer < sizes_.layers; ++layer) {
    pass.state = state.layers.at(static_cast<std::size_t>(layer)).data();
    if (watch) pass.see = [&](const ImpliedAttention& implied) { watch(layer, implied); };
    run_layer(layer, pass);
  }
  normalise(pass);
  return x;
}

void RecurrentModel::dense(const RecurrentPass& pass, const TransformerWeights::Linear& w,
                           std::int64_t in, std::int64_t out, const float* x, std::int64_t x_stride,
                           float* y) {
  nn::dense({.rows = pass.tokens,
             .in = in,
             .out = out,
             .x = x,
             .x_stride = x_stride,
             .w = w.weight,
             .bias = w.bias,
             .y = y},
            pass.context);
}

void RecurrentModel::rms_norm(const RecurrentPass& pass, const float* weight, double epsilon,
                              float* y) const {
  nn::rms_norm({.rows = pass.tokens,
                .width = sizes_.width,
                .x = pass.x,
                .weight = weight,
                .epsilon = static_cast<float>(epsilon),
                .y = y},
               pass.context);
}

std::vector<float> RecurrentModel::logits(std::span<const float> hidden,
                                          const Context& context) const {
  const auto rows = static_cast<std::int64_t>(hidden.size()) / sizes_.width;
  std::vector<float> y(static_cast<std::size_t>(rows * sizes_.vocabulary));
  nn::dense({.rows = rows,
             .in = sizes_.width,
             .out = sizes_.vocabulary,
             .x = hidden.data(),
             .w = ends_.head,
             .y = y.data()},
            context);
  return y;
}

bool is_recurrent(const std::string& model_type) {
  return model_type == "mamba" || model_type == "mamba2" || model_type == "rwkv" ||
         model_type == "rwkv5";
}

std::unique_ptr<RecurrentModel> load_recurrent(const std::string& config_json,
                                               const std::string& source, Weights& weights) {
  const Json tree = Json::parse(config_json, source);
  const Fields fields(tree, source);
  const std::string type = fields.needed_text("model_type");
  if (type == "mamba") return load_mamba(fields, weights);
  if (type == "mamba2") return load_mamba2(fields, weights);
  if (type == "rwkv") return load_rwkv4(fields, weights);
  if (type == "rwkv5") return load_rwkv5(fields, weights);
  fields.fail("model_type", "\"" + type + "\" is not known (mamba, mamba2, rwkv, rwkv5)");
}

}  // namespace attn
