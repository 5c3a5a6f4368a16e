// GGUF files of every architecture against Transformers' reading of the same files
// (tests/data/gguf_models.json, tools/golden_gguf_models.py); and files that are wrong, each in one
// way, with the message that says which.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attn/error.h"
#include "folder.h"
#include "made_gguf.h"
#include "made_transformer.h"
#include "model/families.h"

namespace attn {
namespace {

using testing::HasSubstr;

const Json& cases() {
  static const Json json = read_golden("gguf_models.json");
  return *json.find("cases");
}

// A model and the file that it lies in.
struct Loaded {
  explicit Loaded(const std::string& file)
      : weights(folder.write("model.gguf", file)), described(load_gguf(weights)) {}

  TestFolder folder;
  Weights weights;
  DescribedModel described;
};

class GgufModel : public testing::TestWithParam<std::size_t> {
 protected:
  const std::string& name() const { return cases().names[GetParam()]; }
  const Json& given() const { return cases().items[GetParam()]; }
};

TEST_P(GgufModel, AgreesWithTransformers) {
  SCOPED_TRACE(name());
  Loaded loaded(made_gguf(given()));
  const Transformer model(loaded.described.config, std::move(loaded.described.weights));
  const Context context({.threads = 2});
  for (const Json& run : given().find("runs")->items) {
    const auto ids = ids_of(*run.find("ids"));
    expect_rows(run, "logits", model.logits(hidden_of(model, ids, context), context), ids.size());
  }
}

TEST_P(GgufModel, GreedyContinuationIsTheSame) {
  SCOPED_TRACE(name());
  Loaded loaded(made_gguf(given()));
  expect_greedy(given(), Transformer(loaded.described.config, std::move(loaded.described.weights)));
}

INSTANTIATE_TEST_SUITE_P(Transformers, GgufModel,
                         testing::Range(std::size_t{0}, cases().names.size()));

TEST(GgufModels, GemmasQueryScaleFollowsTheSize) {
  const Json& given = *cases().find("gemma2");
  EXPECT_DOUBLE_EQ(Loaded(made_gguf(given)).described.config.attention_scale, 0.25);
  // The model of 46 layers scales by the width over the heads, 60 / 3.
  const std::string layers = "gemma2.block_count";
  Json large = given;
  Json& tensors = large.items[static_cast<std::size_t>(
      std::find(large.names.begin(), large.names.end(), "tensors") - large.names.begin())];
  for (std::size_t i = 0, n = tensors.names.size(); i < n; ++i) {
    if (!tensors.names[i].starts_with("blk.1.")) continue;
    for (int layer = 2; layer < 46; ++layer) {
      tensors.names.push_back("blk." + std::to_string(layer) + tensors.names[i].substr(5));
      tensors.items.push_back(Json(tensors.items[i]));
    }
  }
  const Loaded made(made_gguf(large, {.keys = {{layers, gguf_pair(layers, 4, u32(46))}}}));
  EXPECT_DOUBLE_EQ(made.described.config.attention_scale, 1 / std::sqrt(20.0));
  EXPECT_EQ(made.described.config.windows[44], 17);
  EXPECT_EQ(made.described.config.windows[45], 0);
}

struct Wrong {
  const char* name;
  const char* of;  // the case that is changed
  GgufChange change;
  std::string message;
};

GgufChange number(const std::string& key, std::uint32_t value) {
  return {.keys = {{key, gguf_pair(key, 4, u32(value))}}};
}
GgufChange real(const std::string& key, float value) {
  return {.keys = {{key, gguf_pair(key, 6, raw(value))}}};
}
GgufChange text(const std::string& key, const std::string& value) {
  return {.keys = {{key, gguf_pair(key, 8, gguf_text(value))}}};
}
GgufChange missing(const std::string& key) { return {.keys = {{key, ""}}}; }

std::vector<Wrong> wrong_settings() {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  return {
      {"no_architecture", "llama", missing("general.architecture"),
       "key general.architecture: is missing"},
      {"architecture", "llama", text("general.architecture", "mamba"),
       "key general.architecture: \"mamba\" is not known (gpt2, llama, qwen2, qwen3, gemma2, "
       "phi3)"},
      {"architecture_type", "llama", number("general.architecture", 1), "must be a string"},
      {"no_layers", "llama", missing("llama.block_count"), "key llama.block_count: is missing"},
      {"layers_0", "llama", number("llama.block_count", 0),
       "key llama.block_count: is 0, must be in [1, 4096]"},
      {"layers_of_most", "llama", number("llama.block_count", ~0U), "is 4294967295, must be in"},
      {"layers_text", "llama", text("llama.block_count", "2"), "llama.block_count: is string"},
      {"a_layer_more", "llama", number("llama.block_count", 3), "tensor blk.2.attn_norm.weight"},
      {"a_layer_less", "llama", number("llama.block_count", 1),
       "tensor blk.1.attn_k.weight: is not known to architecture \"llama\""},
      {"no_width", "qwen2", missing("qwen2.embedding_length"), "embedding_length: is missing"},
      {"width", "qwen2", number("qwen2.embedding_length", 66), "token_embd.weight"},
      {"heads_0", "llama", number("llama.attention.head_count", 0), "head_count: is 0"},
      {"heads_7", "llama", number("llama.attention.head_count", 7),
       "attention.head_count: does not divide embedding_length"},
      {"groups", "qwen2", number("qwen2.attention.head_count_kv", 2),
       "attention.head_count_kv: does not divide attention.head_count"},
      {"groups_by_layer",
       "llama",
       {.keys = {{"llama.attention.head_count_kv", gguf_pair("llama.attention.head_count_kv", 9,
                                                             gguf_array(4, 2, u32(1) + u32(1)))}}},
       "key llama.attention.head_count_kv: is array of uint32, must be a whole number"},
      {"key_length", "qwen3", number("qwen3.attention.key_length", 1025), "is 1025, must be in"},
      {"value_length", "qwen3", number("qwen3.attention.value_length", 20),
       "value_length: is not the width of the keys"},
      {"no_context", "llama", missing("llama.context_length"), "context_length: is missing"},
      {"window_0", "llama", number("llama.attention.sliding_window", 0), "sliding_window: is 0"},
      {"window_pattern", "llama", number("llama.attention.sliding_window_pattern", 2),
       "key llama.attention.sliding_window_pattern: is not known"},
      {"window_pattern_0", "gemma2", number("gemma2.attention.sliding_window_pattern", 0),
       "sliding_window_pattern: is 0"},
      {"epsilon", "llama", real("llama.attention.layer_norm_rms_epsilon", nan), "is nan, must be"},
      {"epsilon_2", "gpt2", real("gpt2.attention.layer_norm_epsilon", 2), "is 2.0"},
      {"soft_cap", "gemma2", real("gemma2.attn_logit_softcapping", -1), "softcapping: is -1"},
      {"soft_cap_text", "gemma2", text("gemma2.final_logit_softcapping", "30"), "must be a number"},
      {"experts", "llama", number("llama.expert_count", 8), "expert_count: is not 0: mixtures"},
      {"two_way",
       "llama",
       {.keys = {{"llama.attention.causal",
                  gguf_pair("llama.attention.causal", 7, std::string(1, '\0'))}}},
       "attention.causal: is false"},
      {"unknown", "qwen3", real("qwen3.attention.scale", 0.1F),
       "key qwen3.attention.scale: is not known"},
      {"unknown_scale", "llama", real("llama.logit_scale", 0.1F),
       "llama.logit_scale: is not known"},
      {"no_tokens", "llama", missing("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens: is missing"},
      {"gpt2_groups", "gpt2", number("gpt2.attention.head_count_kv", 1), "does not share out"},
      {"base_0", "llama", real("llama.rope.freq_base", 0), "rope.freq_base: is 0"},
      {"base_infinite", "llama", real("llama.rope.freq_base", infinity), "rope.freq_base: is inf"},
      {"turns_all", "llama", number("llama.rope.dimension_count", 22), "is 22, must be in [1, 20]"},
      {"turns_odd", "llama", number("llama.rope.dimension_count", 5), "dimension_count: is odd"},
      {"scaling", "llama, linear", text("llama.rope.scaling.type", "longrope"),
       "rope.scaling.type: \"longrope\" is not known (none, linear, yarn)"},
      {"factor", "llama, linear", real("llama.rope.scaling.factor", 0.5F), "factor: is below 1"},
      {"factor_nan", "llama, linear", real("llama.rope.scaling.factor", nan), "factor: is nan"},
      {"beta", "llama, yarn", real("llama.rope.scaling.yarn_beta_fast", 0.5F),
       "yarn_beta_fast: is not above yarn_beta_slow"},
      {"ext", "llama, yarn", real("llama.rope.scaling.yarn_ext_factor", 0),
       "yarn_ext_factor: is 0"},
      {"log", "llama, yarn", real("llama.rope.scaling.yarn_log_multiplier", 0.1F),
       "rope.scaling.yarn_log_multiplier: is not known"},
      {"length_0", "llama, yarn", number("llama.rope.scaling.original_context_length", 0),
       "original_context_length: is 0"},
      {"divided_twice",
       "llama, divided",
       {.keys = {{"llama.rope.scaling.factor",
                  gguf_pair("llama.rope.scaling.factor", 6, raw(2.0F))}}},
       "tensor rope_freqs.weight: and rope.scaling.type are both there"},
      {"divisors", "llama", {.with = {"rope_freqs.weight"}}, "rope_freqs.weight"},
      {"no_bias", "qwen2", {.without = {"blk.0.attn_k.bias"}}, "blk.0.attn_k.bias"},
      {"no_norm", "qwen3", {.without = {"blk.1.attn_q_norm.weight"}}, "blk.1.attn_q_norm.weight"},
      {"no_positions", "gpt2", {.without = {"position_embd.weight"}}, "position_embd.weight"},
      {"another_norm",
       "llama",
       {.with = {"blk.0.attn_q_norm.weight"}},
       "tensor blk.0.attn_q_norm.weight: is not known to architecture \"llama\""},
      {"long_factors",
       "phi3",
       {.with = {"rope_factors_long.weight"}},
       "tensor rope_factors_long.weight: is not known to architecture \"phi3\""},
  };
}

TEST(GgufModels, RefusesWrongSettingsAndSaysWhich) {
  for (const Wrong& wrong : wrong_settings()) {
    const std::string file = made_gguf(*cases().find(wrong.of), wrong.change);
    const TestFolder folder;
    Weights weights(folder.write("model.gguf", file));
    const std::string message = message_of<Error>([&] { load_gguf(weights); });
    EXPECT_THAT(message, HasSubstr(wrong.message)) << wrong.name;
    EXPECT_THAT(message, HasSubstr("model.gguf: ")) << wrong.name;
  }
}

// What a file may say besides, and what it may leave out.
TEST(GgufModels, ReadsWhatChangesNothing) {
  const Json& given = *cases().find("llama");
  const auto config_of = [&](const GgufChange& change) {
    return Loaded(made_gguf(given, change)).described.config;
  };
  EXPECT_EQ(config_of(number("llama.expert_count", 0)).layers, 2);
  EXPECT_EQ(config_of(text("llama.tensor_data_layout", "Meta AI original pth")).layers, 2);
  EXPECT_EQ(config_of(missing("llama.rope.freq_base")).rope->base, 10000);
  EXPECT_EQ(config_of(missing("llama.rope.dimension_count")).rope->fraction, 1);
  EXPECT_EQ(config_of(missing("llama.vocab_size")).vocabulary, 101);
  EXPECT_EQ(config_of(number("llama.rope.dimension_count", 10)).rope->fraction, 0.5);
  // A factor without a type is linear; with the type "none" it means nothing.
  const std::string factor = "llama.rope.scaling.factor", type = "llama.rope.scaling.type";
  const auto pair = gguf_pair(factor, 6, raw(4.0F));
  const RopeScaling linear = config_of({.keys = {{factor, pair}}}).rope->scaling;
  EXPECT_EQ(linear.kind, RopeScaling::Kind::linear);
  EXPECT_EQ(linear.factor, 4);
  EXPECT_EQ(config_of({.keys = {{factor, pair}, {type, gguf_pair(type, 8, gguf_text("none"))}}})
                .rope->scaling.kind,
            RopeScaling::Kind::none);
}

}  // namespace
}  // namespace attn
