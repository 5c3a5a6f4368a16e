#include "model/model_info.h"

#include <utility>

namespace attn {

ModelInfo model_info(const TransformerConfig& config, std::string family, std::string path,
                     std::int64_t parameters) {
  ModelInfo info;
  info.family = std::move(family);
  info.path = std::move(path);
  info.layers = config.layers;
  info.heads = config.heads;
  info.kv_heads = config.kv_heads;
  info.head_width = config.head_width;
  info.width = config.width;
  info.feed_forward_width = config.feed_forward_width;
  info.vocabulary = config.vocabulary;
  info.max_length = info.max_positions = config.positions;
  info.parameters = parameters;
  return info;
}

}  // namespace attn
