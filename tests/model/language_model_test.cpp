// Language models from folders: text in, text out; what is wrong with a folder is said by name.
#include "attn/language_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "folder.h"
#include "made_weights.h"
#include "model/file.h"

namespace attn {
namespace {

using testing::HasSubstr;

constexpr const char* kConfig =
    R"({"model_type":"llama","hidden_size":48,"intermediate_size":64,"num_hidden_layers":2,)"
    R"("num_attention_heads":3,"num_key_value_heads":1,"vocab_size":1000,"hidden_act":"silu",)"
    R"("max_position_embeddings":64,"rms_norm_eps":1e-6,"rope_theta":10000.0,)"
    R"("tie_word_embeddings":true,"eos_token_id":0})";

std::string weights() {
  TensorShapes shapes = {{"model.embed_tokens.weight", {1000, 48}}, {"model.norm.weight", {48}}};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    shapes[layer + "input_layernorm.weight"] = {48};
    shapes[layer + "post_attention_layernorm.weight"] = {48};
    shapes[layer + "self_attn.q_proj.weight"] = {48, 48};
    shapes[layer + "self_attn.k_proj.weight"] = {16, 48};
    shapes[layer + "self_attn.v_proj.weight"] = {16, 48};
    shapes[layer + "self_attn.o_proj.weight"] = {48, 48};
    shapes[layer + "mlp.gate_proj.weight"] = {64, 48};
    shapes[layer + "mlp.up_proj.weight"] = {64, 48};
    shapes[layer + "mlp.down_proj.weight"] = {48, 64};
  }
  return made_weights(shapes);
}

class LanguageModels : public testing::Test {
 protected:
  void SetUp() override {
    folder_.write("config.json", kConfig);
    folder_.write("model.safetensors", weights());
    folder_.write("tokenizer.json", slurp(std::string(ATTN_TEST_DATA) + "/tokenizers/gpt2.json"));
  }
  LanguageModel load() const {
    return LanguageModel::load(folder_.path(), Context({.threads = 1}));
  }
  std::string message() const {
    return message_of<Error>([&] { load(); });
  }
  TestFolder folder_;
};

TEST_F(LanguageModels, TextInTextOut) {
  const LanguageModel model = load();
  EXPECT_EQ(model.info().family, "llama");
  EXPECT_EQ(model.info().layers, 2);
  EXPECT_EQ(model.info().heads, 3);
  EXPECT_EQ(model.info().kv_heads, 1);
  EXPECT_EQ(model.info().head_width, 16);
  EXPECT_EQ(model.info().max_positions, 64);
  const std::string text = "The king is not here,\n and the night is dark.";
  const auto ids = model.encode(text);
  EXPECT_EQ(model.decode(ids), text);
  EXPECT_EQ(model.piece(0), "<|endoftext|>");
  EXPECT_THROW(model.piece(-1), std::invalid_argument);

  std::string shown;
  const Generation got =
      model.generate(ids, {.max_tokens = 12}, [&](std::string_view part) { shown += part; });
  EXPECT_EQ(got.prompt_tokens, static_cast<std::int64_t>(ids.size()));
  EXPECT_EQ(got.text, shown);
  EXPECT_EQ(got.text, model.decode(got.ids));

  // Greedy: each token is where the logits of what came before are largest.
  std::vector<std::int32_t> all = ids;
  for (const std::int32_t id : got.ids) {
    const auto logits = model.logits(all);
    ASSERT_EQ(logits.size(), all.size() * 1000);
    const auto last = logits.end() - 1000;
    EXPECT_EQ(std::max_element(last, logits.end()) - last, id);
    all.push_back(id);
  }
}

TEST_F(LanguageModels, AreToldFromEncoders) {
  EXPECT_TRUE(is_language_model(folder_.path()));
  folder_.write("config.json", R"({"model_type":"bert"})");
  EXPECT_FALSE(is_language_model(folder_.path()));
  std::filesystem::remove(folder_.file("config.json"));
  EXPECT_FALSE(is_language_model(folder_.path()));
  EXPECT_TRUE(is_language_model(std::string(ATTN_TEST_DATA) + "/golden.gguf"));
  EXPECT_THROW(is_language_model(folder_.file("nothing")), Error);
}

// Bytes in, the same bytes out.
TEST_F(LanguageModels, TakesAnyBytes) {
  const LanguageModel model = load();
  for (const std::string& text :
       {std::string("\xff\xfe\x00 x", 5), std::string("\xe2\x82"), std::string()}) {
    EXPECT_EQ(model.decode(model.encode(text)), text);
  }
}

// The end tokens are those of generation_config.json, or else of config.json; one or several.
TEST_F(LanguageModels, EndsWhereTheModelEnds) {
  const auto ids = load().encode("The king");
  const Generation whole = load().generate(ids, {.max_tokens = 10});
  ASSERT_EQ(whole.ids.size(), 10U);
  const std::int32_t third = whole.ids[2];
  const auto first = static_cast<std::size_t>(std::find(whole.ids.begin(), whole.ids.end(), third) -
                                              whole.ids.begin());
  folder_.write("generation_config.json",
                R"({"eos_token_id":[999999,)" + std::to_string(third) + "]}");
  const Generation ended = load().generate(ids, {.max_tokens = 10});
  EXPECT_EQ(ended.end, GenerationEnd::end_token);
  EXPECT_EQ(ended.ids.size(), first);
  folder_.write("generation_config.json", R"({"eos_token_id":)" + std::to_string(third) + "}");
  EXPECT_EQ(load().generate(ids, {.max_tokens = 10}).ids.size(), first);
  folder_.write("generation_config.json", R"({"eos_token_id":null})");
  EXPECT_EQ(load().generate(ids, {.max_tokens = 10}).ids.size(), 10U);
  folder_.write("generation_config.json", R"({"eos_token_id":"x"})");
  EXPECT_THAT(message(), HasSubstr("eos_token_id is no token"));
}

// The oracle's answers are in families_test.cpp.
TEST_F(LanguageModels, HeadsAnswerQuestions) {
  const LanguageModel model = load();
  const auto ids = model.encode("The king is not here");
  const auto n = static_cast<std::int64_t>(ids.size());
  std::vector<float> entropy(static_cast<std::size_t>(2 * 3 * n), -1);
  const Observed asked{.entropy = {entropy.data(), Shape{2, 3, n, 1}}};
  const auto hidden = model.observe(ids, asked);
  EXPECT_EQ(hidden, model.hidden(ids));
  ASSERT_EQ(hidden.size(), ids.size() * 48);
  for (std::size_t i = 0; i < entropy.size(); ++i) {
    const auto q = static_cast<double>(i % ids.size());
    EXPECT_GE(entropy[i], 0);
    EXPECT_LE(entropy[i], std::log(q + 1) + 1e-5) << i;
  }
  EXPECT_TRUE(model.hidden({}).empty());

  const auto refused = [&](const Observed& observed) {
    return message_of<std::invalid_argument>([&] { model.observe(ids, observed); });
  };
  EXPECT_EQ(refused({.entropy = {entropy.data(), Shape{1, 3, n, 1}}}),
            "[observe] entropy has 1 entries for 2 layers");
  EXPECT_THAT(refused({.entropy = {entropy.data(), Shape{2, 3, n - 1, 1}}}), HasSubstr("entropy"));
  std::vector<std::int32_t> keys(7);
  EXPECT_EQ(refused({.top = {.k = 1, .keys = keys}}),
            "[observe] top.keys has 7 entries for 2 layers");
  EXPECT_THAT(message_of<std::invalid_argument>([&] { model.hidden(std::vector{1000}); }),
              HasSubstr("outside"));
}

TEST_F(LanguageModels, EmbedsTheMeanOfHiddenStates) {
  const LanguageModel model = load();
  const std::vector<std::string> texts = {"The king", "The king is not here"};
  const auto vectors = model.embed(texts);
  ASSERT_EQ(vectors.size(), 2U);
  const auto hidden = model.hidden(model.encode(texts[1]));
  std::vector<double> mean(48);
  for (std::size_t i = 0; i < hidden.size(); ++i) mean[i % 48] += hidden[i];
  double square = 0;
  for (const double x : mean) square += x * x;
  for (std::size_t j = 0; j < 48; ++j)
    EXPECT_NEAR(vectors[1][j], mean[j] / std::sqrt(square), 1e-6);
  EXPECT_THROW(model.embed(std::vector<std::string>{""}), std::invalid_argument);
}

TEST_F(LanguageModels, KnowsItsMasksAndWhatIsText) {
  const LanguageModel model = load();
  EXPECT_EQ(model.mask(1).row({.q_len = 5, .k_len = 5}, 0, 0, 2),
            (std::vector<Interval>{{0, 3, 1}}));
  EXPECT_THROW(model.mask(2), std::invalid_argument);
  EXPECT_THROW(model.mask(-1), std::invalid_argument);
  EXPECT_FALSE(model.is_text(0));  // <|endoftext|>
  EXPECT_TRUE(model.is_text(model.encode("king")[0]));
  EXPECT_FALSE(model.is_text(-1));
  EXPECT_FALSE(model.is_text(1 << 20));
}

TEST_F(LanguageModels, SaysWhatIsWrong) {
  EXPECT_THAT(message_of<std::invalid_argument>([&] { load().encode_chat("", "hello"); }),
              HasSubstr("no token <|im_start|>"));
  EXPECT_THAT(message_of<std::invalid_argument>([&] { load().generate({}, {}); }),
              HasSubstr("prompt has no tokens"));
  EXPECT_THAT(message_of<Error>([&] { LanguageModel::load(folder_.file("model.safetensors")); }),
              HasSubstr("holds weights alone"));
  std::string config = kConfig;
  config.replace(config.find("\"vocab_size\":1000"), 17, "\"vocab_size\":999");
  folder_.write("config.json", config);
  EXPECT_THAT(message(), HasSubstr("embed_tokens.weight"));
  folder_.write("config.json", R"({"model_type":"bert"})");
  EXPECT_THAT(message(), HasSubstr("model_type \"bert\" is an encoder's"));
  folder_.write("config.json", kConfig);
  folder_.write("tokenizer.json", R"({"model":{"type":"Telepathy"}})");
  EXPECT_THAT(message(), HasSubstr("tokenizer.json"));
  std::filesystem::remove(folder_.file("tokenizer.json"));
  EXPECT_THAT(message(), HasSubstr("tokenizer.json"));
}

}  // namespace
}  // namespace attn
