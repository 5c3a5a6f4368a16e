// Every family of language models against Transformers (tests/data/families.json), on weights made
// by the formula of tools/golden_families.py; and configurations that are not known.
#include "model/families.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/error.h"
#include "folder.h"
#include "golden_models.h"
#include "model/file.h"

namespace attn {
namespace {

using testing::HasSubstr;

const Json& golden() {
  static const Json json = [] {
    const std::string path = std::string(ATTN_TEST_DATA) + "/families.json";
    return Json::parse(read_file(path), path);
  }();
  return json;
}

class Family : public testing::TestWithParam<std::size_t> {
 protected:
  const std::string& name() const { return golden().find("cases")->names[GetParam()]; }
  const Json& given() const { return golden().find("cases")->items[GetParam()]; }
};

TEST_P(Family, AgreesWithTransformers) {
  SCOPED_TRACE(name());
  const TestFolder folder;
  Weights weights(
      folder.write("model.safetensors", made_weights(shapes_of(*given().find("tensors")))));
  DescribedModel loaded = load_described(written(*given().find("config")), "config.json", weights);
  const Transformer model(loaded.config, std::move(loaded.weights));
  const auto width = static_cast<std::size_t>(model.config().width),
             vocabulary = static_cast<std::size_t>(model.config().vocabulary);
  const Context context({.threads = 2});
  for (const Json& run : given().find("runs")->items) {
    const auto ids = ids_of(*run.find("ids"));
    KvCache cache(model.cache_options(static_cast<std::int64_t>(ids.size())), context);
    const auto hidden = model.hidden(ids, cache, cache.create(), context);
    const auto logits = model.logits(hidden, context);
    ASSERT_EQ(hidden.size(), ids.size() * width);
    ASSERT_EQ(logits.size(), ids.size() * vocabulary);
    for (std::size_t i = 0; i < run.find("rows")->items.size(); ++i) {
      const auto row = static_cast<std::size_t>(run.find("rows")->items[i].integer);
      const std::string what = std::to_string(ids.size()) + " tokens, row " + std::to_string(row);
      expect_close(hidden.data() + row * width, run.find("hidden")->items[i], "hidden, " + what);
      expect_close(logits.data() + row * vocabulary, run.find("logits")->items[i],
                   "logits, " + what);
    }
  }
}

TEST_P(Family, GreedyContinuationIsTheSame) {
  SCOPED_TRACE(name());
  const TestFolder folder;
  Weights weights(
      folder.write("model.safetensors", made_weights(shapes_of(*given().find("tensors")))));
  DescribedModel loaded = load_described(written(*given().find("config")), "config.json", weights);
  const Transformer model(loaded.config, std::move(loaded.weights));
  const Context context({.threads = 1});
  auto next = ids_of(*given().find("runs")->items[1].find("ids"));
  const auto expected = ids_of(*given().find("greedy"));
  KvCache cache(model.cache_options(64), context);
  const SequenceId id = cache.create();
  std::vector<std::int32_t> got;
  while (got.size() < expected.size()) {
    const auto hidden = model.hidden(next, cache, id, context);
    const auto logits = model.logits(
        std::span(hidden).last(static_cast<std::size_t>(model.config().width)), context);
    got.push_back(
        static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    next = {got.back()};
  }
  EXPECT_EQ(got, expected);
}

INSTANTIATE_TEST_SUITE_P(Transformers, Family,
                         testing::Range(std::size_t{0}, golden().find("cases")->names.size()));

// Replaces the first `from` in the case's configuration.
std::string message_with(const std::string& name, const std::string& from, const std::string& to) {
  const Json& given = *golden().find("cases")->find(name);
  std::string config = written(*given.find("config"));
  const std::size_t at = config.find(from);
  if (at == std::string::npos) throw std::logic_error(from + " is not in " + config);
  config.replace(at, from.size(), to);
  const TestFolder folder;
  Weights weights(
      folder.write("model.safetensors", made_weights(shapes_of(*given.find("tensors")))));
  return message_of<Error>([&] { load_described(config, "config.json", weights); });
}

TEST(FamilyConfigs, NothingIsGuessed) {
  EXPECT_EQ(message_with("llama", "\"model_type\":\"llama\"", "\"model_type\":\"lama\""),
            "config.json: model_type \"lama\" is not known (bert, roberta, distilbert, llama, "
            "mistral, qwen2, qwen3, gemma2, gpt2, gpt_neox, gptj, bloom, mpt, deepseek_v2)");
  EXPECT_EQ(message_with("llama", "\"hidden_act\":\"silu\"", "\"hidden_act\":\"mish\""),
            "config.json: hidden_act \"mish\" is not known (gelu, gelu_new, gelu_pytorch_tanh, "
            "silu, relu)");
  EXPECT_EQ(message_with("llama", "\"mlp_bias\"", "\"mlp_biases\""),
            "config.json: mlp_biases is not known");
  EXPECT_EQ(message_with("llama", "\"rope_type\":\"default\"", "\"rope_type\":\"longrope\""),
            "config.json: rope_parameters: factor is missing");
  EXPECT_EQ(message_with("llama, linear", "\"rope_type\":\"linear\"", "\"rope_type\":\"longrope\""),
            "config.json: rope_parameters: rope_type \"longrope\" is not known (default, linear, "
            "dynamic, yarn, llama3)");
  EXPECT_EQ(message_with("llama, linear", "\"factor\":2", "\"factors\":2"),
            "config.json: rope_parameters: factor is missing");
  EXPECT_EQ(message_with("llama", "\"num_key_value_heads\":1", "\"num_key_value_heads\":2"),
            "config.json: num_key_value_heads does not divide num_attention_heads");
  EXPECT_EQ(message_with("gpt2", "\"scale_attn_weights\":true", "\"scale_attn_weights\":false"),
            "config.json: scale_attn_weights is false, which we do not run");
  EXPECT_EQ(message_with("qwen2", "\"use_sliding_window\":false", "\"use_sliding_window\":true"),
            "config.json: use_sliding_window is true, which we do not run");
  EXPECT_THAT(message_with("qwen2", "full_attention", "sliding_attention"),
              HasSubstr("layer_types names \"sliding_attention\""));
  EXPECT_THAT(message_with("gpt2", "\"n_embd\":60", "\"n_embd\":72"), HasSubstr("wte.weight"));
  EXPECT_THAT(message_with("gpt_neox", "\"hidden_size\":60", "\"hidden_size\":61"),
              HasSubstr("does not divide"));
}

// The names that version 4 of Transformers wrote.
TEST(FamilyConfigs, EarlierSpellingsOfRotationMeanTheSame) {
  const Json& given = *golden().find("cases")->find("llama, linear");
  const TestFolder folder;
  Weights weights(
      folder.write("model.safetensors", made_weights(shapes_of(*given.find("tensors")))));
  std::string config = written(*given.find("config"));
  const std::size_t at = config.find("\"rope_parameters\":"), end = config.find('}', at) + 1;
  config.replace(at, end - at,
                 "\"rope_theta\":500.0,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}");
  const DescribedModel model = load_described(config, "config.json", weights);
  ASSERT_TRUE(model.config.rope);
  EXPECT_EQ(model.config.rope->base, 500);
  EXPECT_EQ(model.config.rope->scaling.kind, RopeScaling::Kind::linear);
  EXPECT_EQ(model.config.rope->scaling.factor, 2);
}

}  // namespace
}  // namespace attn
