// RWKV-5 (5.1: a decay and a bonus a head) as a whole against rwkv.cpp: the logits that it
// publishes for a tiny model after the prompt `"in`. The layers are written out here, the
// recurrence is ours.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "attn/recurrent.h"
#include "recurrent/rwkv_layers.h"

namespace attn::test {
namespace {

constexpr std::int64_t kHeads = 8;

struct Memory {
  Row attention, feed_forward, state;
  explicit Memory(std::size_t width)
      : attention(width), feed_forward(width), state(width * width / kHeads) {}
};

void run_layer(const Ggmf& model, const std::string& block, Memory& memory, Row& x) {
  const auto w = [&](const char* name) -> const Row& { return model[block + name]; };
  const std::int64_t width = static_cast<std::int64_t>(x.size()) / kHeads;
  const Row a = norm(x, w("ln1.weight"), w("ln1.bias"));
  const Row k = times(w("att.key.weight"), mix(a, memory.attention, w("att.time_mix_k")));
  const Row v = times(w("att.value.weight"), mix(a, memory.attention, w("att.time_mix_v")));
  const Row r = times(w("att.receptance.weight"), mix(a, memory.attention, w("att.time_mix_r")));
  memory.attention = a;
  // The file holds the decays themselves, and one bonus for all channels of a head.
  Row log_decay = w("att.time_decay"), bonus(x.size()), out(x.size());
  for (float& decay : log_decay) decay = std::log(decay);
  for (std::size_t i = 0; i < bonus.size(); ++i)
    bonus[i] = w("att.time_first")[i / static_cast<std::size_t>(width)];
  const Shape heads{1, kHeads, 1, width}, states{1, kHeads, width, width};
  recurrent({.q = {r.data(), heads},
             .k = {k.data(), heads},
             .v = {v.data(), heads},
             .log_decay = {log_decay.data(), {1, kHeads, 1, 1}},
             .bonus = {bonus.data(), heads},
             .state = {memory.state.data(), states}},
            {out.data(), heads}, {memory.state.data(), states});
  // A norm a head.
  for (std::int64_t h = 0; h < kHeads; ++h) {
    const auto part = [&](const Row& of) {
      return Row(of.begin() + h * width, of.begin() + (h + 1) * width);
    };
    const Row normal = norm(part(out), part(w("att.ln_x.weight")), part(w("att.ln_x.bias")));
    std::copy(normal.begin(), normal.end(), out.begin() + h * width);
  }
  const Row attended = times(w("att.output.weight"), out);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += attended[i];
  add_channel_mix(model, block, memory.feed_forward, x);
}

TEST(Rwkv5, LogitsAsPublished) {
  const Row expected = published_logits("expected-logits-5v1-730K.bin");
  if (expected.empty()) GTEST_SKIP() << "no " << kRwkvFolder;
  const Ggmf model(kRwkvFolder + "tiny-rwkv-5v1-730K-FP32.bin");
  const Row logits =
      logits_after<Memory>(model, "\"in", [&](const std::string& block, Memory& memory, Row& x) {
        run_layer(model, block, memory, x);
      });
  for (std::size_t i = 0; i < 256; ++i) EXPECT_NEAR(logits[i], expected[i], 1e-3) << i;
}

}  // namespace
}  // namespace attn::test
