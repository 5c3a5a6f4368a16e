// The weights of SmolLM2-135M-Instruct against what gguf-py 0.19.0 reads from the same file. `attn
// get smollm2` puts it into the cache; without it these tests skip and say so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <optional>
#include <string>

#include "attn/model.h"
#include "folder.h"
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

}  // namespace
}  // namespace attn
