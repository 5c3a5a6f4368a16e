// RWKV-4 as a whole against rwkv.cpp: the logits that it publishes for a tiny model after the
// prompt `"in`. The layers are written out here, the recurrence is ours.
#include <gtest/gtest.h>

#include <algorithm>

#include "attn/scan.h"
#include "recurrent/rwkv_layers.h"

namespace attn::test {
namespace {

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

  add_channel_mix(model, block, memory.feed_forward, x);
}

TEST(Rwkv4, LogitsAsPublished) {
  const Row expected = published_logits("expected-logits-4v0-660K.bin");
  if (expected.empty()) GTEST_SKIP() << "no " << kRwkvFolder;
  const Ggmf model(kRwkvFolder + "tiny-rwkv-4v0-660K-FP32.bin");
  const Row logits =
      logits_after<Memory>(model, "\"in", [&](const std::string& block, Memory& memory, Row& x) {
        run_layer(model, block, memory, x);
      });
  for (std::size_t i = 0; i < 256; ++i) EXPECT_NEAR(logits[i], expected[i], 1e-3) << i;
}

}  // namespace
}  // namespace attn::test
