// What the layers of RWKV-4 and -5 share, written out: for tests of whole models.
#pragma once

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "recurrent/ggmf.h"

namespace attn::test {

inline const std::string kRwkvFolder = std::string(ATTN_ASSETS) + "/rwkv/";

using Row = std::vector<float>;

inline Row norm(const Row& x, const Row& weight, const Row& bias) {
  double mean = 0, square = 0;
  for (const float v : x) mean += v;
  mean /= static_cast<double>(x.size());
  for (const float v : x) square += (v - mean) * (v - mean);
  const double scale = 1 / std::sqrt(square / static_cast<double>(x.size()) + 1e-5);
  Row y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    y[i] = static_cast<float>((x[i] - mean) * scale) * weight[i] + bias[i];
  return y;
}
inline Row times(const Row& matrix, const Row& x) {
  Row y(matrix.size() / x.size());
  for (std::size_t i = 0; i < y.size(); ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < x.size(); ++j) sum += double{matrix[i * x.size() + j]} * x[j];
    y[i] = static_cast<float>(sum);
  }
  return y;
}
inline Row mix(const Row& now, const Row& before, const Row& share) {
  Row y(now.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = now[i] * share[i] + before[i] * (1 - share[i]);
  return y;
}
inline float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

// x += the channel mixing of a block; `before` is what it saw of the last token.
inline void add_channel_mix(const Ggmf& model, const std::string& block, Row& before, Row& x) {
  const auto w = [&](const char* name) -> const Row& { return model[block + name]; };
  const Row f = norm(x, w("ln2.weight"), w("ln2.bias"));
  Row inner = times(w("ffn.key.weight"), mix(f, before, w("ffn.time_mix_k")));
  for (float& value : inner) value = value > 0 ? value * value : 0;
  const Row gate = times(w("ffn.receptance.weight"), mix(f, before, w("ffn.time_mix_r")));
  before = f;
  const Row forward = times(w("ffn.value.weight"), inner);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += sigmoid(gate[i]) * forward[i];
}

// The logits after a prompt of bytes; run_layer(block, memory, x) runs one layer of one token.
template <class Memory, class RunLayer>
Row logits_after(const Ggmf& model, const std::string& prompt, const RunLayer& run_layer) {
  std::vector<Memory> memory(model.layers, Memory(model.width));
  Row logits;
  for (const unsigned char byte : prompt) {
    const Row& embedding = model["emb.weight"];
    const auto begin = embedding.begin() + byte * static_cast<std::ptrdiff_t>(model.width);
    Row x(begin, begin + model.width);
    x = norm(x, model["blocks.0.ln0.weight"], model["blocks.0.ln0.bias"]);
    for (std::size_t layer = 0; layer < model.layers; ++layer)
      run_layer("blocks." + std::to_string(layer) + ".", memory[layer], x);
    logits = times(model["head.weight"], norm(x, model["ln_out.weight"], model["ln_out.bias"]));
  }
  return logits;
}

// 256 published logits; empty where the assets are absent.
inline Row published_logits(const std::string& file) {
  std::ifstream in(kRwkvFolder + file, std::ios::binary);
  Row logits(in ? 256 : 0);
  if (in) in.read(reinterpret_cast<char*>(logits.data()), 256 * sizeof(float));
  return logits;
}

}  // namespace attn::test
