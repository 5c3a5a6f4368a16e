// The weights of SmolLM2-135M-Instruct against what gguf-py 0.19.0 reads from the same file. `attn
// get smollm2` puts it into the cache; without it these tests skip and say so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "attn/model.h"
#include "folder.h"
#include "model/families.h"
#include "model/generate.h"
#include "model/weights.h"

namespace attn {
namespace {

class SmolLm2 : public testing::Test {
 protected:
  void SetUp() override {
    try {
      weights_.emplace(fetch_model("smollm2", {.offline = true}));
    } catch (const Error& error) {
      GTEST_SKIP() << "SmolLM2 is not in the cache: " << error.what();
    }
  }
  std::optional<Weights> weights_;
};

TEST_F(SmolLm2, HasItsMetadataAndTokens) {
  const Gguf& gguf = *weights_->gguf();
  EXPECT_EQ(gguf.text("general.architecture"), "llama");
  EXPECT_EQ(gguf.integer("llama.block_count"), 30);
  EXPECT_EQ(gguf.integer("llama.attention.head_count_kv"), 3);
  EXPECT_EQ(gguf.real("llama.rope.freq_base"), 100000);
  EXPECT_FALSE(gguf.boolean("tokenizer.ggml.add_bos_token"));
  const auto tokens = gguf.texts("tokenizer.ggml.tokens");
  ASSERT_EQ(tokens.size(), 49152U);
  EXPECT_EQ(tokens[1], "<|im_start|>");
  EXPECT_EQ(gguf.texts("tokenizer.ggml.merges").at(0), "\xc4\xa0 t");
  EXPECT_EQ(gguf.integers("tokenizer.ggml.token_type").size(), tokens.size());
}

TEST_F(SmolLm2, HasItsWeights) {
  EXPECT_EQ(weights_->entries().size(), 272U);
  EXPECT_EQ(weights_->parameters(), 134'515'008);
  const auto expect = [&](const char* name, const std::vector<std::int64_t>& shape, float first,
                          float second, float last, double sum) {
    const float* const x = weights_->floats(name, shape);
    std::int64_t count = 1;
    for (const std::int64_t size : shape) count *= size;
    EXPECT_EQ(x[0], first) << name;
    EXPECT_EQ(x[1], second) << name;
    EXPECT_EQ(x[count - 1], last) << name;
    // The numbers are multiples of 2^-24 or more; double sums them exactly or nearly so.
    EXPECT_NEAR(std::accumulate(x, x + count, 0.0), sum, 1e-9 * static_cast<double>(count)) << name;
  };
  expect("token_embd.weight", {49152, 576}, -0.10654449462890625F, 0.032978057861328125F,
         -0.0417022705078125F, -15353.04449415207);
  expect("blk.0.attn_q.weight", {576, 576}, -0.0963134765625F, 0.1573486328125F, -0.255859375F,
         59.22322082519531);
  expect("blk.29.ffn_down.weight", {576, 1536}, -0.2733154296875F, 0.186279296875F, 0.056640625F,
         49.83570861816406);
  expect("output_norm.weight", {576}, 1.7578125F, 1.8203125F, 1.984375F, 1038.33203125);
}

// What Transformers 5.24 computes from the same file, dequantised to float32: the first 64 tokens
// of a Wikipedia article, logits of three of them, and the 20 most probable tokens that follow.
TEST_F(SmolLm2, AgreesWithTransformers) {
  const std::vector<std::int32_t> prompt = {
      3717,  446,   12928, 21777, 310,  2078, 21777, 446,   3717, 3717, 12928, 21777, 310,
      2078,  21777, 3297,  1343,  347,  260,  3284,  43868, 355,  1273, 43868, 3297,  314,
      253,   1772,  282,   2067,  5131, 46,   43868, 429,   260,  7826, 8464,  7357,  3297,
      10834, 6427,  284,   2391,  282,  260,  4290,  6427,  1673, 657,  314,   5076,  2484,
      288,   260,   1547,  43868, 3297, 407,  30,    23430, 376,  1673, 657,   654};
  const std::vector<std::int32_t> follows = {325, 12931, 429,  260, 3284, 43868, 411,
                                             624, 2203,  28,   527, 314,  563,   216,
                                             33,  32,    5973, 365, 36,   6439};
  struct Row {
    std::size_t row;
    std::vector<std::int32_t> top;
    std::vector<float> values;  // of `top`
    std::vector<float> at;      // of tokens 0, 1, 1000, 20000, 49151
  };
  const std::vector<Row> rows = {
      {0,
       {29, 28, 198, 284, 79},
       {24.382488F, 23.139370F, 22.271963F, 21.889355F, 21.562645F},
       {14.096037F, 4.1225777F, 16.665499F, 9.5203495F, 1.9434991F}},
      {31,
       {365, 84, 92, 4500, 87},
       {24.539793F, 24.027166F, 24.020937F, 23.930178F, 23.917946F},
       {17.694843F, 8.4600754F, 18.640797F, 11.915439F, 15.882639F}},
      {63,
       {325, 457, 597, 4523, 1689},
       {26.296024F, 25.662220F, 25.499168F, 24.267260F, 23.320560F},
       {15.585094F, -1.1068866F, 10.526703F, 8.0175114F, 5.6997695F}},
  };
  DescribedModel loaded = load_gguf(*weights_);
  const Transformer model(loaded.config, std::move(loaded.weights));
  const Context context({.threads = 1});
  KvCache cache(model.cache_options(64), context);
  const auto logits = model.logits(model.hidden(prompt, cache, cache.create(), context), context);
  ASSERT_EQ(logits.size(), 64U * 49152);
  for (const Row& row : rows) {
    const float* const got = logits.data() + row.row * 49152;
    std::vector<std::int32_t> order(49152);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + 5, order.end(),
                      [&](std::int32_t a, std::int32_t b) { return got[a] > got[b]; });
    order.resize(5);
    EXPECT_EQ(order, row.top) << row.row;
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(got[row.top[i]], row.values[i], 1e-3 * row.values[i]) << row.row;
      const std::int32_t tokens[] = {0, 1, 1000, 20000, 49151};
      EXPECT_NEAR(got[tokens[i]], row.at[i], 1e-3 * row.values[0]) << row.row << " " << tokens[i];
    }
  }
  const Generation greedy = generate(
      model, prompt, [](std::int32_t) { return ""; }, {}, {.max_tokens = 20}, context);
  EXPECT_EQ(greedy.ids, follows);
}

}  // namespace
}  // namespace attn
