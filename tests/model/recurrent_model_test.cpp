// Models with a state against Transformers (tests/data/recurrent.json) and RWKV-5's published code
// (tests/data/rwkv5.json), on weights made by the formula of tools/golden_families.py: in one
// piece, in pieces, token by token.
#include "model/recurrent_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/error.h"
#include "attn/heads.h"
#include "attn/inspect.h"
#include "attn/language_model.h"
#include "folder.h"
#include "golden_models.h"
#include "state_model.h"

namespace attn {
namespace {

// An object, as the files have it; what comes from the second stands behind the first's in order.
const Json& cases() {
  static const Json all = [] {
    Json first = *read_golden("recurrent.json").find("cases");
    const Json second = *read_golden("rwkv5.json").find("cases");
    first.names.insert(first.names.end(), second.names.begin(), second.names.end());
    first.items.insert(first.items.end(), second.items.begin(), second.items.end());
    return first;
  }();
  return all;
}

class Recurrent : public testing::TestWithParam<std::size_t> {
 protected:
  const std::string& name() const { return cases().names[GetParam()]; }
  const Json& given() const { return cases().items[GetParam()]; }
};

// A model of a case, and the file that it points into.
struct Loaded : GoldenWeights {
  explicit Loaded(const Json& given)
      : GoldenWeights(given), model(load_recurrent(config_of(given), "config.json", weights)) {}
  std::unique_ptr<RecurrentModel> model;
};

TEST_P(Recurrent, AgreesWithTransformers) {
  SCOPED_TRACE(name());
  const Loaded loaded(given());
  const RecurrentModel& model = *loaded.model;
  const Context context({.threads = 2});
  for (const Json& run : given().find("runs")->items) {
    const auto ids = ids_of(*run.find("ids"));
    for (const std::size_t piece : {ids.size(), std::size_t{1}, std::size_t{17}}) {
      TextState state = model.start();
      std::vector<float> hidden;
      for (std::size_t t = 0; t < ids.size(); t += piece) {
        const auto some = std::span(ids).subspan(t, std::min(piece, ids.size() - t));
        const auto rows = model.hidden(some, state, context);
        hidden.insert(hidden.end(), rows.begin(), rows.end());
      }
      const std::string how = " by " + std::to_string(piece);
      expect_rows(run, "hidden", hidden, ids.size(), how);
      expect_rows(run, "logits", model.logits(hidden, context), ids.size(), how);
      const Json* const states = given().find("states");
      if (states == nullptr || &run != &given().find("runs")->items.back()) continue;
      ASSERT_EQ(states->items.size(), state.layers.size());
      for (std::size_t i = 0; i < state.layers.size(); ++i) {
        ASSERT_EQ(states->items[i].items.size(), state.layers[i].size());
        expect_close(state.layers[i].data(), states->items[i], "state" + how);
      }
    }
  }
}

TEST_P(Recurrent, GreedyContinuationIsTheSame) {
  SCOPED_TRACE(name());
  const Loaded loaded(given());
  const RecurrentModel& model = *loaded.model;
  const Context context({.threads = 1});
  TextState state = model.start();
  expect_greedy(given(), [&](const std::vector<std::int32_t>& ids) {
    const auto hidden = model.hidden(ids, state, context);
    return model.logits(std::span(hidden).last(static_cast<std::size_t>(model.sizes().width)),
                        context);
  });
}

TEST_P(Recurrent, IsALanguageModel) {
  SCOPED_TRACE(name());
  const TestFolder folder;
  write_state_model(folder, given());
  const LanguageModel model = LanguageModel::load(folder.path(), Context({.threads = 2}));
  EXPECT_TRUE(is_language_model(folder.path()));
  const Json& run = given().find("runs")->items[1];
  const auto ids = ids_of(*run.find("ids"));
  const auto logits = model.logits(ids);
  const auto vocabulary = static_cast<std::size_t>(model.info().vocabulary);
  expect_rows(run, "logits", logits, ids.size());
  // Greedy, the prompt in pieces; one text and two.
  GenerationOptions options;
  options.max_tokens = static_cast<std::int64_t>(given().find("greedy")->items.size());
  options.chunk = 3;
  std::string shown;
  const Generation one = model.generate(ids, options, [&](std::string_view s) { shown += s; });
  EXPECT_EQ(one.ids, ids_of(*given().find("greedy")));
  EXPECT_EQ(one.end, GenerationEnd::max_tokens);
  EXPECT_EQ(shown, one.text);
  EXPECT_EQ(one.text, model.decode(one.ids));
  EXPECT_FALSE(one.text.empty());
  const std::vector<std::vector<std::int32_t>> prompts = {{1, 2}, ids};
  const auto both = model.generate_batch(prompts, options, {});
  EXPECT_EQ(both.at(1).ids, one.ids);
  // The losses are those of the logits; a window forgets what is before it.
  const TextScore score = model.score(ids, {});
  ASSERT_EQ(score.losses.size(), ids.size() - 1);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
    double sum = 0;
    const float* row = logits.data() + i * vocabulary;
    for (std::size_t v = 0; v < vocabulary; ++v) sum += std::exp(static_cast<double>(row[v]));
    EXPECT_NEAR(score.losses[i], std::log(sum) - row[ids[i + 1]], 1e-4) << i;
  }
  ScoreOptions windowed;
  windowed.window = 4;
  windowed.step = 2;
  const TextScore part = model.score(ids, windowed);
  EXPECT_NEAR(part.losses[0], score.losses[0], 1e-5);
  EXPECT_NE(part.losses.back(), score.losses.back());
}

// Heads look by what the state implies: of a layer, from what Transformers' projections put out.
TEST_P(Recurrent, ImpliesAttention) {
  SCOPED_TRACE(name());
  constexpr int kLayer = 1;
  const TestFolder folder;
  write_state_model(folder, given());
  const LanguageModel model = LanguageModel::load(folder.path(), Context({.threads = 2}));
  const auto ids = ids_of(*given().find("runs")->items[1].find("ids"));
  const auto n = static_cast<std::int64_t>(ids.size());
  const auto& expected = given().find("implied")->items;
  const std::int64_t heads = model.info().heads;
  ASSERT_EQ(static_cast<std::size_t>(heads), expected.size());
  const AttentionRecord record = model.record(ids, {kLayer});
  const auto numbers = static_cast<std::size_t>(model.info().layers * heads * n);
  std::vector<float> entropy(numbers), sets(numbers);
  std::vector<double> columns(numbers);
  Observed asked;
  const Shape rows{model.info().layers, heads, n, 1};
  asked.entropy = {entropy.data(), rows};
  asked.key_sets = {.sets = {{0}}, .mass = {sets.data(), rows}};
  asked.column_mass = {columns.data(), Shape{model.info().layers, heads, 1, n}};
  EXPECT_EQ(model.observe(ids, asked), model.hidden(ids));
  for (std::int64_t h = 0; h < heads; ++h) {
    std::vector<double> column(ids.size());
    for (std::int64_t i = 0; i < n; ++i) {
      const auto& given_row =
          expected[static_cast<std::size_t>(h)].items[static_cast<std::size_t>(i)];
      const std::vector<double> row = attention_row(record, kLayer, static_cast<int>(h), i);
      double sum = 0;
      for (std::size_t j = 0; j < ids.size(); ++j) {
        const double weight = given_row.items[j].real;
        EXPECT_NEAR(row[j], weight, 2e-5) << "head " << h << ", row " << i << ", key " << j;
        if (row[j] > 0) sum -= row[j] * std::log(row[j]);
        column[j] += row[j];
      }
      const auto at = static_cast<std::size_t>((kLayer * heads + h) * n + i);
      EXPECT_NEAR(entropy[at], sum, 1e-5);
      EXPECT_NEAR(sets[at], row[0], 1e-6);
    }
    for (std::size_t j = 0; j < ids.size(); ++j) {
      EXPECT_NEAR(columns[static_cast<std::size_t>((kLayer * heads + h) * n) + j], column[j], 1e-5);
    }
  }
  EXPECT_EQ(head_statistics(record).size(), static_cast<std::size_t>(heads));
  // When a token was chosen heads looked as the row of the token before it says.
  const Generation got = model.generate(ids, {.max_tokens = 3, .top_keys = 2});
  ASSERT_EQ(got.attention.size(), 3U);
  const TokenAttention& first = got.attention[0];
  ASSERT_EQ(first.keys.size(), static_cast<std::size_t>(2 * model.info().layers * heads));
  for (std::int64_t h = 0; h < heads; ++h) {
    const std::vector<double> row = attention_row(record, kLayer, static_cast<int>(h), n - 1);
    const auto at = static_cast<std::size_t>(kLayer * heads + h);
    const auto best = std::max_element(row.begin(), row.end());
    EXPECT_EQ(first.keys[2 * at], best - row.begin());
    EXPECT_NEAR(first.weights[2 * at], *best, 1e-5);
    EXPECT_NEAR(first.sink[at], row[0], 1e-5);
    EXPECT_NEAR(first.entropy[at],
                entropy[static_cast<std::size_t>((kLayer * heads + h) * n + n - 1)], 1e-5);
  }
  EXPECT_NE(page(record).find("\"implied\":true"), std::string::npos);
  // Of all layers at once, and of a text of one token.
  EXPECT_EQ(model.record(ids).layers.size(), static_cast<std::size_t>(model.info().layers));
  const std::vector<std::int32_t> one = {3};
  EXPECT_EQ(attention_row(model.record(one), 0, 0, 0), std::vector<double>{1});
}

// Over a corpus of one text, heads have the statistics that they have on its page.
TEST_P(Recurrent, HeadsAreMeasuredOverACorpus) {
  SCOPED_TRACE(name());
  const TestFolder folder;
  write_state_model(folder, given());
  const LanguageModel model = LanguageModel::load(folder.path(), Context({.threads = 1}));
  const std::vector<std::string> texts = {"the cat sat on the mat and the dog barked"};
  const auto ids = model.encode(texts[0]);
  ASSERT_EQ(ids.size(), texts[0].size());
  const auto heads = head_statistics(model.record(ids), Context({.threads = 1}));
  const HeadTable table = measure_heads(model, texts, {});
  ASSERT_EQ(table.heads.size(), heads.size());
  for (std::size_t i = 0; i < heads.size(); ++i) {
    EXPECT_NEAR(table.heads[i].entropy, heads[i].entropy, 1e-5) << i;
    EXPECT_NEAR(table.heads[i].first, heads[i].first, 1e-5) << i;
    EXPECT_NEAR(table.heads[i].previous, heads[i].previous, 1e-5) << i;
    EXPECT_NEAR(table.heads[i].distance, heads[i].distance, 1e-4) << i;
    ASSERT_TRUE(table.heads[i].repeated);
    EXPECT_TRUE(std::isfinite(table.heads[i].repeated->induction)) << i;
  }
  double even = 0;  // causal
  for (std::size_t i = 0; i < ids.size(); ++i)
    even += std::log(static_cast<double>(i + 1)) / static_cast<double>(ids.size());
  EXPECT_NEAR(table.uniform[0].entropy, even, 1e-6);
}

// As older versions of Transformers wrote it; in a string it is a word.
TEST(RecurrentConfigs, PythonsInfinity) {
  const Json& given = *cases().find("mamba2");
  const std::string config = changed_config(given, R"({"__float__":"Infinity"})", "Infinity");
  GoldenWeights file(given);
  EXPECT_EQ(load_recurrent(config, "config.json", file.weights)->sizes().layers, 2);
  EXPECT_EQ(Json::parse(R"(["an \"Infinity", Infinity])", "x").items[0].text, "an \"Infinity");
  EXPECT_THROW(Json::parse("[Infinit]", "x"), Error);
}

TEST(RecurrentLanguageModel, SaysWhatAStateHasNot) {
  const TestFolder folder;
  write_state_model(folder, cases().items[0]);
  const LanguageModel model = LanguageModel::load(folder.path());
  const std::vector<std::int32_t> ids = {1, 2, 3};
  const auto message = [](auto&& act) { return message_of<std::invalid_argument>(act); };
  const std::string what = "a model of the family mamba has a state instead of heads that attend";
  EXPECT_EQ(message([&] { model.head_means(ids); }), "[head_means] " + what);
  EXPECT_EQ(message([&] {
              GenerationOptions options;
              options.window = 8;
              model.generate(ids, options);
            }),
            "[generate] a model with a state keeps no keys: it takes no window");
  EXPECT_EQ(message([&] {
              ScoreOptions options;
              options.sinks = 1;
              model.score(ids, options);
            }),
            "[score] a model with a state keeps no keys and has no heads: no sinks, no ablation");
  EXPECT_EQ(message([&] {
              LanguageModelOptions options;
              options.rope_scaling = RopeScaling::linear(2);
              LanguageModel::load(folder.path(), Context(), options);
            }),
            "[load] a model with a state has no rotary positions to stretch");
}

INSTANTIATE_TEST_SUITE_P(Models, Recurrent, testing::Range(std::size_t{0}, cases().names.size()));

std::string message_with(const std::string& name, const std::string& from, const std::string& to) {
  const Json& given = *cases().find(name);
  GoldenWeights file(given);
  return message_of<Error>(
      [&] { load_recurrent(changed_config(given, from, to), "config.json", file.weights); });
}

TEST(RecurrentConfigs, NothingIsGuessed) {
  EXPECT_EQ(message_with("mamba", "\"model_type\":\"mamba\"", "\"model_type\":\"mamba9\""),
            "config.json: model_type \"mamba9\" is not known (mamba, mamba2, rwkv, rwkv5)");
  EXPECT_EQ(message_with("mamba", "\"use_bias\"", "\"use_biases\""),
            "config.json: use_biases is not known");
  EXPECT_EQ(message_with("mamba", "\"hidden_act\":\"silu\"", "\"hidden_act\":\"relu\""),
            "config.json: hidden_act is not silu, the only one that we run");
  EXPECT_EQ(message_with("rwkv", "\"rescale_every\"", "\"rescale\""),
            "config.json: rescale is not known");
  EXPECT_EQ(message_with("rwkv5", "\"rescale_every\"", "\"rescale\""),
            "config.json: rescale is not known");
  EXPECT_EQ(message_with("rwkv5", "\"head_size\":20", "\"head_size\":21"),
            "config.json: head_size does not divide hidden_size");
  EXPECT_EQ(message_with("rwkv5", "\"head_size_divisor\":8", "\"head_size_divisor\":0"),
            "config.json: head_size_divisor must be above 0");
  EXPECT_EQ(message_with("rwkv5", "\"attention_hidden_size\":60", "\"attention_hidden_size\":40"),
            "config.json: attention_hidden_size is not hidden_size, the only one that we run");
  EXPECT_EQ(
      message_with("rwkv5", "\"rescale_every\"", "\"model_version\":\"5_1\",\"rescale_every\""),
      "config.json: model_version \"5_1\" is not known, \"5_2\" is");
}

// What folders on the Hub say besides.
TEST(RecurrentConfigs, SettingsOfRwkv5ThatChangeNothing) {
  EXPECT_EQ(message_with("rwkv5", "\"rescale_every\":6",
                         R"("rescale_every":0,"model_version":"5_2","num_attention_heads":64,)"
                         R"("context_length":4096,"auto_map":{"AutoConfig":"a.B"})"),
            "");
}

// A text's memory does not grow with it.
TEST_P(Recurrent, StateIsAsLargeAfterAnyText) {
  SCOPED_TRACE(name());
  const Loaded loaded(given());
  const auto sizes = [](const TextState& state) {
    std::vector<std::size_t> all;
    for (const auto& layer : state.layers) all.push_back(layer.size());
    return all;
  };
  TextState state = loaded.model->start();
  const auto fresh = sizes(state);
  for (const Json& run : given().find("runs")->items) {
    loaded.model->hidden(ids_of(*run.find("ids")), state, Context());
    EXPECT_EQ(sizes(state), fresh);
  }
}

TEST(RecurrentModels, RefuseTokensOutsideTheVocabulary) {
  const Loaded loaded(cases().items[0]);
  TextState state = loaded.model->start();
  const std::vector<std::int32_t> ids = {3, 101};
  EXPECT_THROW(loaded.model->hidden(ids, state, Context()), std::invalid_argument);
}

}  // namespace
}  // namespace attn
