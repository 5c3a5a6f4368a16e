// RWKV-4 as a whole against rwkv.cpp: the logits that it publishes for a tiny model after the
// prompt `"in`. The layers are written out here, the recurrence is ours.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "attn/scan.h"
#include "recurrent/ggmf.h"

namespace attn::test {
namespace {

const std::string kFolder = std::string(ATTN_ASSETS) + "/rwkv/";

using Row = std::vector<float>;

Row norm(const Row& x, const Row& weight, const Row& bias) {
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
Row times(const Row& matrix, const Row& x) {
  Row y(matrix.size() / x.size());
  for (std::size_t i = 0; i < y.size(); ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < x.size(); ++j) sum += double{matrix[i * x.size() + j]} * x[j];
    y[i] = static_cast<float>(sum);
  }
  return y;
}
Row mix(const Row& now, const Row& before, const Row& share) {
  Row y(now.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = now[i] * share[i] + before[i] * (1 - share[i]);
  return y;
}
float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

// What a layer remembers.
struct Memory {
  Row attention, feed_forward, wkv;
  explicit Memory(std::size_t width) : attention(width), feed_forward(width), wkv(3 * width) {
    std::fill(wkv.begin() + static_cast<std::ptrdiff_t>(2 * width), wkv.end(),
              static_cast<float>(kWkv4Fresh));
  }
};

void run_layer(const Ggmf& model, const std::string& block, Memory& memory, Row& x) {
  const auto w = [&](const char* name) -> const Row& { return model[block + name]; };
  const auto n = static_cast<std::int64_t>(x.size());
  const Row a = norm(x, w("ln1.weight"), w("ln1.bias"));
  const Row k = times(w("att.key.weight"), mix(a, memory.attention, w("att.time_mix_k")));
  const Row v = times(w("att.value.weight"), mix(a, memory.attention, w("att.time_mix_v")));
  const Row r = times(w("att.receptance.weight"), mix(a, memory.attention, w("att.time_mix_r")));
  memory.attention = a;
  Row out(x.size());
  const Shape row{1, 1, 1, n};
  const auto view = [&](const Row& of) { return ConstTensor(of.data(), row); };
  const Tensor state(memory.wkv.data(), {1, 1, 3, n});
  wkv4({view(k), view(v), view(w("att.time_decay")), view(w("att.time_first")), state},
       {Tensor(out.data(), row), state});
  for (std::size_t i = 0; i < out.size(); ++i) out[i] *= sigmoid(r[i]);
  const Row attended = times(w("att.output.weight"), out);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += attended[i];

  const Row f = norm(x, w("ln2.weight"), w("ln2.bias"));
  Row inner = times(w("ffn.key.weight"), mix(f, memory.feed_forward, w("ffn.time_mix_k")));
  for (float& value : inner) value = value > 0 ? value * value : 0;
  const Row gate =
      times(w("ffn.receptance.weight"), mix(f, memory.feed_forward, w("ffn.time_mix_r")));
  memory.feed_forward = f;
  const Row forward = times(w("ffn.value.weight"), inner);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += sigmoid(gate[i]) * forward[i];
}

TEST(Rwkv4, LogitsAsPublished) {
  std::ifstream file(kFolder + "expected-logits-4v0-660K.bin", std::ios::binary);
  if (!file) GTEST_SKIP() << "no " << kFolder;
  Row expected(256);
  file.read(reinterpret_cast<char*>(expected.data()), 256 * sizeof(float));
  ASSERT_TRUE(file);

  const Ggmf model(kFolder + "tiny-rwkv-4v0-660K-FP32.bin");
  std::vector<Memory> memory(model.layers, Memory(model.width));
  Row logits;
  for (const unsigned char byte : std::string("\"in")) {
    const Row& embedding = model["emb.weight"];
    const auto begin = embedding.begin() + byte * static_cast<std::ptrdiff_t>(model.width);
    Row x(begin, begin + model.width);
    x = norm(x, model["blocks.0.ln0.weight"], model["blocks.0.ln0.bias"]);
    for (std::size_t layer = 0; layer < model.layers; ++layer)
      run_layer(model, "blocks." + std::to_string(layer) + ".", memory[layer], x);
    logits = times(model["head.weight"], norm(x, model["ln_out.weight"], model["ln_out.bias"]));
  }
  for (std::size_t i = 0; i < 256; ++i) EXPECT_NEAR(logits[i], expected[i], 1e-3) << i;
}

}  // namespace
}  // namespace attn::test
