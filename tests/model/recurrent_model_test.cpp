// Models with a state against Transformers (tests/data/recurrent.json), on weights made by the
// formula of tools/golden_families.py: in one piece, in pieces, token by token.
#include "model/recurrent_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "attn/error.h"
#include "folder.h"
#include "golden_models.h"

namespace attn {
namespace {

const Json& golden() {
  static const Json json = read_golden("recurrent.json");
  return json;
}

class Recurrent : public testing::TestWithParam<std::size_t> {
 protected:
  const std::string& name() const { return golden().find("cases")->names[GetParam()]; }
  const Json& given() const { return golden().find("cases")->items[GetParam()]; }
};

// A model of a case, and the file that it points into.
struct Loaded {
  explicit Loaded(const Json& given)
      : weights(folder.write("model.safetensors", made_weights(shapes_of(*given.find("tensors"))))),
        model(load_recurrent(written(*given.find("config")), "config.json", weights)) {}
  TestFolder folder;
  Weights weights;
  std::unique_ptr<RecurrentModel> model;
};

TEST_P(Recurrent, AgreesWithTransformers) {
  SCOPED_TRACE(name());
  const Loaded loaded(given());
  const RecurrentModel& model = *loaded.model;
  const auto width = static_cast<std::size_t>(model.sizes().width),
             vocabulary = static_cast<std::size_t>(model.sizes().vocabulary);
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
      const auto logits = model.logits(hidden, context);
      ASSERT_EQ(logits.size(), ids.size() * vocabulary);
      for (std::size_t i = 0; i < run.find("rows")->items.size(); ++i) {
        const auto row = static_cast<std::size_t>(run.find("rows")->items[i].integer);
        const std::string what = std::to_string(ids.size()) + " tokens by " +
                                 std::to_string(piece) + ", row " + std::to_string(row);
        expect_close(hidden.data() + row * width, run.find("hidden")->items[i], "hidden, " + what);
        expect_close(logits.data() + row * vocabulary, run.find("logits")->items[i],
                     "logits, " + what);
      }
    }
  }
}

TEST_P(Recurrent, GreedyContinuationIsTheSame) {
  SCOPED_TRACE(name());
  const Loaded loaded(given());
  const RecurrentModel& model = *loaded.model;
  const Context context({.threads = 1});
  auto next = ids_of(*given().find("runs")->items[1].find("ids"));
  const auto expected = ids_of(*given().find("greedy"));
  TextState state = model.start();
  std::vector<std::int32_t> got;
  while (got.size() < expected.size()) {
    const auto hidden = model.hidden(next, state, context);
    const auto logits = model.logits(
        std::span(hidden).last(static_cast<std::size_t>(model.sizes().width)), context);
    got.push_back(
        static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    next = {got.back()};
  }
  EXPECT_EQ(got, expected);
}

INSTANTIATE_TEST_SUITE_P(Models, Recurrent,
                         testing::Range(std::size_t{0}, golden().find("cases")->names.size()));

std::string message_with(const std::string& name, const std::string& from, const std::string& to) {
  const Json& given = *golden().find("cases")->find(name);
  std::string config = written(*given.find("config"));
  config.replace(config.find(from), from.size(), to);
  const TestFolder folder;
  Weights weights(
      folder.write("model.safetensors", made_weights(shapes_of(*given.find("tensors")))));
  try {
    load_recurrent(config, "config.json", weights);
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(RecurrentConfigs, NothingIsGuessed) {
  EXPECT_EQ(message_with("mamba", "\"model_type\":\"mamba\"", "\"model_type\":\"mamba9\""),
            "config.json: model_type \"mamba9\" is not known (mamba, rwkv)");
  EXPECT_EQ(message_with("mamba", "\"use_bias\"", "\"use_biases\""),
            "config.json: use_biases is not known");
  EXPECT_EQ(message_with("mamba", "\"hidden_act\":\"silu\"", "\"hidden_act\":\"relu\""),
            "config.json: hidden_act is not silu, the only one that we run");
  EXPECT_EQ(message_with("rwkv", "\"rescale_every\"", "\"rescale\""),
            "config.json: rescale is not known");
}

TEST(RecurrentModels, RefuseTokensOutsideTheVocabulary) {
  const Loaded loaded(golden().find("cases")->items[0]);
  TextState state = loaded.model->start();
  const std::vector<std::int32_t> ids = {3, 101};
  EXPECT_THROW(loaded.model->hidden(ids, state, Context()), std::invalid_argument);
}

}  // namespace
}  // namespace attn
