// Every family of language models against Transformers (tests/data/families.json), on weights made
// by the formula of tools/golden_families.py; and configurations that are not known.
#include "model/families.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "attention/questions.h"
#include "attn/error.h"
#include "attn/inspect.h"
#include "attn/reference.h"
#include "folder.h"
#include "golden_models.h"
#include "made_transformer.h"
#include "model/layer_observed.h"
#include "model/recorder.h"

namespace attn {
namespace {

using testing::HasSubstr;

const Json& golden() {
  static const Json json = read_golden("families.json");
  return json;
}

class Family : public testing::TestWithParam<std::size_t> {
 protected:
  const std::string& name() const { return golden().find("cases")->names[GetParam()]; }
  const Json& given() const { return golden().find("cases")->items[GetParam()]; }
};

TEST_P(Family, AgreesWithTransformers) {
  SCOPED_TRACE(name());
  const GoldenTransformer made(given());
  const Transformer& model = made.model;
  const Context context({.threads = 2});
  for (const Json& run : given().find("runs")->items) {
    const auto ids = ids_of(*run.find("ids"));
    const auto hidden = hidden_of(model, ids, context);
    expect_rows(run, "hidden", hidden, ids.size());
    expect_rows(run, "logits", model.logits(hidden, context), ids.size());
  }
}

TEST_P(Family, GreedyContinuationIsTheSame) {
  SCOPED_TRACE(name());
  expect_greedy(given(), GoldenTransformer(given()).model);
}

template <class Got>
void expect_same(const std::vector<Got>& got, const std::vector<double>& expected,
                 const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], 2e-5 * (1 + std::abs(expected[i]))) << what << " " << i;
}

// Every question to every head, against the oracle on the queries, keys and values that ran.
TEST_P(Family, HeadsAnswerAsTheOracle) {
  SCOPED_TRACE(name());
  const GoldenTransformer made(given());
  const Transformer& model = made.model;
  const TransformerConfig& c = model.config();
  const Context context({.threads = 2});
  for (const Json& run : given().find("runs")->items) {
    const auto ids = ids_of(*run.find("ids"));
    const auto n = static_cast<std::int64_t>(ids.size());
    SCOPED_TRACE(std::to_string(n) + " tokens");
    // Layers stand in place of the batch.
    const AttentionShape shape =
        test::make_shape(c.layers, c.heads, c.kv_heads, n, n, c.head_width);
    test::Answers<float> got(shape);
    test::Answers<double> expected(shape);
    const auto rows = static_cast<std::size_t>(c.layers * c.heads * n);
    std::vector<float> entropy(rows), largest(rows);
    std::vector<double> true_entropy(rows), true_largest(rows);
    Observed asked = got.observed(), of_oracle = expected.observed();
    asked.entropy = got.tensor(entropy, n, 1);
    asked.max_probability = got.tensor(largest, n, 1);
    of_oracle.entropy = got.tensor(true_entropy, n, 1);
    of_oracle.max_probability = got.tensor(true_largest, n, 1);
    const auto ask = [&](std::int64_t i) { return observed_of_layer(asked, i, c.layers); };
    const auto see = [&](const SeenAttention& seen) {
      const auto doubles = [&](const float* x, std::int64_t width) {
        return std::vector<double>(x, x + n * width);
      };
      const auto q = doubles(seen.q, c.heads * c.head_width),
                 k = doubles(seen.k, c.kv_heads * c.head_width),
                 v = doubles(seen.v, c.kv_heads * c.value_width);
      std::vector<double> out(static_cast<std::size_t>(n * c.heads * c.value_width));
      reference::attention(ConstTensor::blhd(q.data(), {1, c.heads, n, c.head_width}),
                           ConstTensor::blhd(k.data(), {1, c.kv_heads, n, c.head_width}),
                           ConstTensor::blhd(v.data(), {1, c.kv_heads, n, c.value_width}),
                           Tensor::blhd(out.data(), {1, c.heads, n, c.value_width}),
                           model.attention(seen.layer),
                           observed_of_layer(of_oracle, seen.layer, c.layers));
    };
    KvCache cache(model.cache_options(n), context), plain_cache(model.cache_options(n), context);
    const auto hidden = model.hidden(ids, cache, cache.create(), context, {.ask = ask, .see = see});
    EXPECT_EQ(hidden, model.hidden(ids, plain_cache, plain_cache.create(), context));
    expect_same(entropy, true_entropy, "entropy");
    expect_same(largest, true_largest, "largest probability");
    expect_same(got.column_mass, expected.column_mass, "column mass");
    expect_same(got.distances, expected.distances, "distances");
    expect_same(got.offset_mass, expected.offset_mass, "offset mass");
    expect_same(got.offset_queries, expected.offset_queries, "offset queries");
    expect_same(got.top_weights, expected.top_weights, "top weights");
    expect_same(got.in_sets, expected.in_sets, "key sets");
    expect_same(got.largest, expected.largest, "largest of cells");
    expect_same(got.mean, expected.mean, "mean of cells");
    expect_same(got.exact, expected.exact, "exact rows");
    expect_same(got.value_weighted, expected.value_weighted, "value-weighted norms");
  }
}

// From a layer's queries, keys, mask and score, as it tells them, follow the rows that it ran.
TEST_P(Family, TellsWhatItsHeadsRead) {
  SCOPED_TRACE(name());
  const GoldenTransformer made(given());
  const Transformer& model = made.model;
  const TransformerConfig& c = model.config();
  const Context context({.threads = 2});
  const auto ids = ids_of(*given().find("runs")->items[2].find("ids"));
  const auto n = static_cast<std::int64_t>(ids.size());
  const std::vector<std::int64_t> queries = {0, 40, n - 1};
  std::vector<float> ran(static_cast<std::size_t>(c.heads * 3 * n));
  std::int64_t layers = 0;
  const auto ask = [&](std::int64_t) {
    Observed observed;
    observed.rows = {.queries = queries, .probabilities = {ran.data(), Shape{1, c.heads, 3, n}}};
    return observed;
  };
  const auto see = [&](const SeenAttention& seen) {
    EXPECT_EQ(seen.layer, layers++);
    AttentionRecord record;
    record.heads = c.heads;
    record.kv_heads = c.kv_heads;
    record.width = c.head_width;
    record.tokens.resize(ids.size());
    record.layers.push_back(record_layer(seen, n, c, context));
    record.layers[0].mask = model.attention(seen.layer).mask;
    record.layers[0].score = model.attention(seen.layer).score;
    for (int h = 0; h < c.heads; ++h) {
      for (std::size_t i = 0; i < queries.size(); ++i) {
        const std::vector<double> row = attention_row(record, 0, h, queries[i]);
        const float* const expected =
            ran.data() + (static_cast<std::size_t>(h) * 3 + i) * ids.size();
        for (std::size_t k = 0; k < ids.size(); ++k)
          ASSERT_NEAR(row[k], expected[k], 2e-6) << seen.layer << "." << h << " " << i << " " << k;
      }
    }
    // ||W_O v|| over the last head's columns, of token 5.
    const std::int64_t h = c.heads - 1, kv = h / (c.heads / c.kv_heads), width = c.value_width;
    double square = 0;
    for (std::int64_t out = 0; out < c.width; ++out) {
      double sum = 0;
      for (std::int64_t d = 0; d < width; ++d) {
        sum += double{seen.output_weight[(out * c.heads + h) * width + d]} *
               seen.v[(5 * c.kv_heads + kv) * width + d];
      }
      square += sum * sum;
    }
    const float norm = record.layers[0].value_norm[static_cast<std::size_t>(h * n + 5)];
    EXPECT_NEAR(norm, std::sqrt(square), 1e-5 * norm);
  };
  KvCache cache(model.cache_options(n), context);
  const auto hidden = model.hidden(ids, cache, cache.create(), context, {.ask = ask, .see = see});
  EXPECT_EQ(layers, c.layers);
  KvCache plain(model.cache_options(n), context);
  EXPECT_EQ(hidden, model.hidden(ids, plain, plain.create(), context));
}

INSTANTIATE_TEST_SUITE_P(Transformers, Family,
                         testing::Range(std::size_t{0}, golden().find("cases")->names.size()));

std::string message_with(const std::string& name, const std::string& from, const std::string& to) {
  const Json& given = *golden().find("cases")->find(name);
  GoldenWeights file(given);
  return message_of<Error>(
      [&] { load_described(changed_config(given, from, to), "config.json", file.weights); });
}

TEST(FamilyConfigs, NothingIsGuessed) {
  EXPECT_EQ(message_with("llama", "\"model_type\":\"llama\"", "\"model_type\":\"lama\""),
            "config.json: model_type \"lama\" is not known (bert, roberta, distilbert, longformer, "
            "big_bird, llama, mistral, qwen2, qwen3, gemma2, gpt2, gpt_neox, gptj, bloom, mpt, "
            "deepseek_v2)");
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
  GoldenWeights file(given);
  std::string config = config_of(given);
  const std::size_t at = config.find("\"rope_parameters\":"), end = config.find('}', at) + 1;
  config.replace(at, end - at,
                 "\"rope_theta\":500.0,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}");
  const DescribedModel model = load_described(config, "config.json", file.weights);
  ASSERT_TRUE(model.config.rope);
  EXPECT_EQ(model.config.rope->base, 500);
  EXPECT_EQ(model.config.rope->scaling.kind, RopeScaling::Kind::linear);
  EXPECT_EQ(model.config.rope->scaling.factor, 2);
}

}  // namespace
}  // namespace attn
