#include "model/recorder.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "nn/dense.h"

namespace attn {

std::vector<float> value_norms(const SeenAttention& seen, std::int64_t tokens,
                               const TransformerConfig& c, const Context& context) {
  const std::int64_t group = c.heads / c.kv_heads;
  std::vector<float> norms(static_cast<std::size_t>(c.heads * tokens));
  std::vector<float> projected(static_cast<std::size_t>(tokens * c.width));
  for (std::int64_t h = 0; h < c.heads; ++h) {
    nn::dense({.rows = tokens,
               .in = c.value_width,
               .out = c.width,
               .x = seen.v + h / group * c.value_width,
               .x_stride = c.kv_heads * c.value_width,
               .w = seen.output_weight + h * c.value_width,
               .w_stride = c.heads * c.value_width,
               .y = projected.data()},
              context);
    for (std::int64_t t = 0; t < tokens; ++t) {
      double square = 0;
      for (std::int64_t j = 0; j < c.width; ++j) {
        const double x = projected[static_cast<std::size_t>(t * c.width + j)];
        square += x * x;
      }
      norms[static_cast<std::size_t>(h * tokens + t)] = static_cast<float>(std::sqrt(square));
    }
  }
  return norms;
}

AttentionRecord begin_record(const ModelInfo& info) {
  AttentionRecord record;
  record.model = std::filesystem::path(info.path).lexically_normal().filename().string();
  if (record.model.empty() || record.model == ".") record.model = info.family;
  record.heads = info.heads;
  record.kv_heads = info.kv_heads;
  record.width = info.head_width;
  return record;
}

std::vector<std::int64_t> recorded_layers(std::vector<std::int64_t> asked, std::int64_t layers) {
  if (asked.empty()) {
    for (std::int64_t i = 0; i < layers; ++i) asked.push_back(i);
    return asked;
  }
  std::sort(asked.begin(), asked.end());
  asked.erase(std::unique(asked.begin(), asked.end()), asked.end());
  for (const std::int64_t i : asked) {
    if (i >= 0 && i < layers) continue;
    throw std::invalid_argument("[record] layer " + std::to_string(i) + " is not in 0 ... " +
                                std::to_string(layers - 1));
  }
  return asked;
}

std::vector<float> by_head(const float* x, std::int64_t tokens, std::int64_t heads,
                           std::int64_t width) {
  std::vector<float> out;
  out.reserve(static_cast<std::size_t>(tokens * heads * width));
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float* const row = x + (t * heads + h) * width;
      out.insert(out.end(), row, row + width);
    }
  }
  return out;
}

LayerRecord implied_layer(const ImpliedAttention& implied) {
  LayerRecord layer;
  layer.mask = Mask::causal();
  layer.implied = implied;
  return layer;
}

LayerRecord record_layer(const SeenAttention& seen, std::int64_t tokens,
                         const TransformerConfig& config, const Context& context) {
  LayerRecord layer;
  layer.q = by_head(seen.q, tokens, config.heads, seen.head_width);
  layer.k = by_head(seen.k, tokens, config.kv_heads, seen.head_width);
  layer.value_norm = value_norms(seen, tokens, config, context);
  return layer;
}

}  // namespace attn
