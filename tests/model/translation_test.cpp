// Encoder-decoders against Transformers (tests/data/translation.json, by
// tools/golden_translation.py): hidden states, logits, greedy texts and beam searches, on weights
// made by formula; and a real model in CTranslate2's format.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/error.h"
#include "attn/inspect.h"
#include "golden_models.h"
#include "model/translate.h"
#include "model/translation_record.h"
#include "model/translators.h"

namespace attn {
namespace {

using testing::HasSubstr;

const Json& cases() {
  static const Json json = read_golden("translation.json");
  return *json.find("cases");
}

// A case's model, from a file with its weights.
struct Made : GoldenWeights {
  explicit Made(const Json& given)
      : GoldenWeights(given),
        described(load_translator(config_of(given), "config.json", {}, weights)),
        encoder(described.encoder.config, std::move(described.encoder.weights)),
        decoder(described.decoder.config, std::move(described.decoder.weights)) {}

  DescribedTranslator described;
  Transformer encoder, decoder;
};

class Translator : public testing::TestWithParam<std::size_t> {
 protected:
  const std::string& name() const { return cases().names[GetParam()]; }
  const Json& given() const { return cases().items[GetParam()]; }
};

TEST_P(Translator, StatesAndLogitsAreThoseOfTransformers) {
  SCOPED_TRACE(name());
  const Made made(given());
  const Context context({.threads = 2});
  for (const Json& run : given().find("runs")->items) {
    const auto ids = ids_of(*run.find("ids")), target = ids_of(*run.find("target"));
    const auto encoded = encode_source(made.encoder, ids, context);
    expect_rows(run, "encoder", encoded, ids.size());
    KvCache sources(made.decoder.cache_options(static_cast<std::int64_t>(ids.size())), context);
    KvCache cache(made.decoder.cache_options(static_cast<std::int64_t>(target.size())), context);
    const SequenceId source = made.decoder.keep_source(encoded, sources, context);
    const auto hidden = made.decoder.hidden({.ids = target,
                                             .cache = cache,
                                             .sequences = {cache.create()},
                                             .counts = {static_cast<std::int64_t>(target.size())},
                                             .sources = &sources,
                                             .source_of = {source}},
                                            context);
    expect_rows(run, "logits", made.decoder.logits(hidden, context), target.size());
  }
}

TEST_P(Translator, GreedyTextIsTheSame) {
  SCOPED_TRACE(name());
  const Made made(given());
  const Context context({.threads = 1});
  for (const Json& run : given().find("runs")->items) {
    SearchSettings settings;
    const auto expected = ids_of(*run.find("greedy"));
    settings.max_tokens = static_cast<std::int64_t>(expected.size());
    const auto found = translate(made.encoder, made.decoder, ids_of(*run.find("ids")),
                                 made.described.start, settings, context);
    ASSERT_EQ(found.size(), 1);
    EXPECT_EQ(found[0].ids, expected);
    EXPECT_FALSE(found[0].ended);
  }
}

// Each search with settings as generate() had them, read as from a generation_config.json.
TEST_P(Translator, SearchesFindTheSameTexts) {
  SCOPED_TRACE(name());
  const Made made(given());
  const Context context({.threads = 1});
  for (const Json& run : given().find("runs")->items) {
    const auto ids = ids_of(*run.find("ids"));
    const auto end = static_cast<std::int32_t>(run.find("end")->integer);
    for (const Json& search : run.find("searches")->items) {
      const Json& asked = *search.find("asked");
      SCOPED_TRACE(std::to_string(ids.size()) + " tokens, " + written(asked));
      SearchSettings settings = read_search(Fields(asked, "generation_config.json"), 256,
                                            made.decoder.config().vocabulary);
      settings.ends = {end};
      settings.max_tokens = 20;
      const auto found =
          translate(made.encoder, made.decoder, ids, made.described.start, settings, context);
      const auto& expected = search.find("found")->items;
      ASSERT_EQ(found.size(), expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        auto got = found[i].ids;
        if (found[i].ended) got.push_back(end);
        EXPECT_EQ(got, ids_of(*expected[i].find("ids"))) << i;
        const Json& score = *expected[i].find("score");
        if (!score.is(Json::Kind::null)) {
          EXPECT_NEAR(found[i].score, score.real, 1e-4 * std::abs(score.real)) << i;
        }
      }
    }
  }
}

// Every weight of every head, from records, as Transformers' attentions are.
TEST_P(Translator, RecordsHoldTheWeightsOfTransformers) {
  SCOPED_TRACE(name());
  const Made made(given());
  int compared = 0;
  for (const Json& run : given().find("runs")->items) {
    const Json* const weights = run.find("attention");
    if (weights == nullptr) continue;
    const auto ids = ids_of(*run.find("ids")), target = ids_of(*run.find("target"));
    ASSERT_NE(ids.size(), target.size());
    TranslationRecord record =
        record_target(made.encoder, made.decoder, ids, target, {}, Context({.threads = 1}));
    record.encoder.tokens.resize(ids.size());
    record.decoder.tokens.resize(target.size());
    record.cross.tokens.resize(target.size());
    record.cross.keys.resize(ids.size());
    const std::pair<const char*, const AttentionRecord*> parts[] = {
        {"encoder", &record.encoder}, {"decoder", &record.decoder}, {"cross", &record.cross}};
    for (const auto& [kind, part] : parts) {
      const Json& layers = *weights->find(kind);
      ASSERT_EQ(part->layers.size(), layers.items.size());
      for (std::size_t l = 0; l < layers.items.size(); ++l) {
        std::vector<float> got;  // [heads][queries][keys]
        for (std::int64_t h = 0; h < part->heads; ++h) {
          for (std::size_t q = 0; q < part->tokens.size(); ++q) {
            const auto row = attention_row(*part, static_cast<int>(l), static_cast<int>(h),
                                           static_cast<std::int64_t>(q));
            got.insert(got.end(), row.begin(), row.end());
          }
        }
        ASSERT_EQ(got.size(), layers.items[l].items.size());
        expect_close(got.data(), layers.items[l], std::string(kind) + " " + std::to_string(l));
        ++compared;
      }
    }
  }
  EXPECT_GE(compared, 7);
}

INSTANTIATE_TEST_SUITE_P(Transformers, Translator,
                         testing::Range(std::size_t{0}, cases().names.size()));

}  // namespace
}  // namespace attn
