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

#include "attn/inspect.h"
#include "model/file.h"
#include "small_model.h"

namespace attn {
namespace {

using testing::HasSubstr;

class LanguageModels : public testing::Test {
 protected:
  void SetUp() override { write_small_model(folder_); }
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

// The record's rows are causal, sum to one, and belong to the layers that were asked for.
TEST_F(LanguageModels, RecordWhatTheirHeadsRead) {
  const LanguageModel model = load();
  const std::string text = "The king is not here,\n and the night \xe2\x80\x94 dark.";
  const auto ids = model.encode(text);
  const AttentionRecord record = model.record(ids, {}, 5);
  EXPECT_EQ(record.layers.size(), 2U);
  EXPECT_EQ(record.heads, 3);
  EXPECT_EQ(record.kv_heads, 1);
  EXPECT_TRUE(record.verbatim);
  std::string joined;
  for (const RecordToken& token : record.tokens) joined += token.text;
  EXPECT_EQ(joined, text);
  EXPECT_FALSE(record.tokens[4].generated);
  EXPECT_TRUE(record.tokens[5].generated && record.tokens.back().generated);
  const auto n = static_cast<std::int64_t>(ids.size());
  for (std::int64_t q = 0; q < n; ++q) {
    const std::vector<double> row = attention_row(record, 1, 2, q);
    double sum = 0;
    for (std::int64_t k = 0; k < n; ++k) {
      sum += row[static_cast<std::size_t>(k)];
      if (k > q) {
        EXPECT_EQ(row[static_cast<std::size_t>(k)], 0);
      }
    }
    EXPECT_NEAR(sum, 1, 1e-12);
  }
  const AttentionRecord second = model.record(ids, {1, 1});
  EXPECT_EQ(second.layer_numbers, std::vector<std::int64_t>{1});
  EXPECT_EQ(attention_row(second, 1, 0, 3), attention_row(record, 1, 0, 3));
  EXPECT_EQ(head_statistics(second)[0].layer, 1);
  EXPECT_EQ(second.layers[0].value_norm.size(), 3 * ids.size());
  EXPECT_THROW(attention_row(second, 0, 0, 3), std::invalid_argument);
  EXPECT_THAT(message_of<std::invalid_argument>([&] {
                model.record(ids, {0, 2});
              }),
              HasSubstr("layer 2 is not in 0 ... 1"));
  EXPECT_THROW(model.record({}), std::invalid_argument);
  EXPECT_THAT(
      message_of<std::invalid_argument>([&] { model.record(std::vector<std::int32_t>(65, 5)); }),
      HasSubstr("65 tokens, the model has 64 positions"));
}

// What is told of a generation on its way is what a record of the whole text shows afterwards, and
// telling it changes nothing.
TEST_F(LanguageModels, TellWhereHeadsLookWhileTheyGenerate) {
  const LanguageModel model = load();
  const auto prompt = model.encode("The king is not here");
  const Generation plain = model.generate(prompt, {.max_tokens = 6, .chunk = 4});
  EXPECT_TRUE(plain.attention.empty());
  const std::int64_t top = 4;
  const Generation got = model.generate(prompt, {.max_tokens = 6, .chunk = 4, .top_keys = top});
  EXPECT_EQ(got.ids, plain.ids);
  ASSERT_EQ(got.attention.size(), got.ids.size());
  std::vector<std::int32_t> all = prompt;
  all.insert(all.end(), got.ids.begin(), got.ids.end());
  const AttentionRecord record = model.record(all);
  for (std::size_t i = 0; i < got.ids.size(); ++i) {
    const TokenAttention& told = got.attention[i];
    for (int l = 0; l < 2; ++l) {
      for (int h = 0; h < 3; ++h) {
        const auto at = static_cast<std::size_t>(l * 3 + h);
        const auto query = static_cast<std::int64_t>(prompt.size() + i) - 1;
        std::vector<double> row = attention_row(record, l, h, query);
        EXPECT_NEAR(told.sink[at], row[0], 1e-5);
        double entropy = 0, rest = 1;
        for (const double p : row) entropy -= p > 0 ? p * std::log(p) : 0;
        EXPECT_NEAR(told.entropy[at], entropy, 1e-4);
        for (std::size_t k = 0; k < static_cast<std::size_t>(top); ++k) {
          const std::int32_t key = told.keys[at * static_cast<std::size_t>(top) + k];
          const float weight = told.weights[at * static_cast<std::size_t>(top) + k];
          ASSERT_GE(key, 0);
          EXPECT_NEAR(weight, row[static_cast<std::size_t>(key)], 1e-5);
          row[static_cast<std::size_t>(key)] = 0;
          rest = weight;
        }
        EXPECT_LE(*std::max_element(row.begin(), row.end()), rest + 1e-5);  // the largest were told
      }
    }
  }
  // More keys than there are.
  const Generation many =
      model.generate(std::vector<std::int32_t>{5}, {.max_tokens = 1, .top_keys = 3});
  EXPECT_EQ(many.attention[0].keys[0], 0);
  EXPECT_EQ(many.attention[0].keys[1], -1);
  EXPECT_EQ(many.attention[0].sink[0], 1);
  EXPECT_THROW(model.generate(prompt, {.max_tokens = 1, .top_keys = -1}), std::invalid_argument);
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
  const std::vector<std::int32_t> many(65, 1);
  for (const auto& run :
       {std::function<void(const LanguageModel&)>([&](const LanguageModel& m) { m.logits(many); }),
        std::function<void(const LanguageModel&)>([&](const LanguageModel& m) { m.hidden(many); }),
        std::function<void(const LanguageModel&)>(
            [&](const LanguageModel& m) { m.record(many); })}) {
    EXPECT_THAT(
        message_of<std::invalid_argument>([&] { run(load()); }),
        HasSubstr("has 65 tokens, the model has 64 positions; rope_scaling stretches them"));
  }
  EXPECT_THAT(message_of<Error>([&] { LanguageModel::load(folder_.file("model.safetensors")); }),
              HasSubstr("holds weights alone"));
  std::string config = kSmallConfig;
  config.replace(config.find("\"vocab_size\":1000"), 17, "\"vocab_size\":999");
  folder_.write("config.json", config);
  EXPECT_THAT(message(), HasSubstr("embed_tokens.weight"));
  folder_.write("config.json", R"({"model_type":"bert"})");
  EXPECT_THAT(message(), HasSubstr("model_type \"bert\" is an encoder's"));
  folder_.write("config.json", kSmallConfig);
  folder_.write("tokenizer.json", R"({"model":{"type":"Telepathy"}})");
  EXPECT_THAT(message(), HasSubstr("tokenizer.json"));
  std::filesystem::remove(folder_.file("tokenizer.json"));
  EXPECT_THAT(message(), HasSubstr("tokenizer.json"));
}

}  // namespace
}  // namespace attn
