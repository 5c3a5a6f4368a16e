// Measures of heads over a corpus, against rows of probabilities.
#include "attn/heads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "inspect/documents.h"
#include "inspect/head_sums.h"
#include "model/demo.h"
#include "model/folder.h"
#include "model/small_model.h"

namespace attn {
namespace {

using inspect::Ids;
using testing::HasSubstr;

constexpr std::int64_t kLayers = 2, kHeads = 3;

// LLaMA-like, or with a window that alternates (Gemma 2 names it so; Mistral has one for all).
LanguageModel made_model(const TestFolder& folder, std::int64_t window = 0) {
  std::string config =
      R"({"model_type":"llama","hidden_size":48,"intermediate_size":64,"num_hidden_layers":2,)"
      R"("num_attention_heads":3,"num_key_value_heads":1,"vocab_size":1000,"hidden_act":"silu",)"
      R"("max_position_embeddings":256,"rms_norm_eps":1e-6,"rope_theta":10000.0,)"
      R"("tie_word_embeddings":true,"eos_token_id":0})";
  if (window > 0) {
    config.replace(config.find("llama"), 5, "mistral");
    config.insert(1, "\"sliding_window\":" + std::to_string(window) + ",");
  }
  folder.write("config.json", config);
  folder.write("model.safetensors", small_weights());
  folder.write("tokenizer.json", slurp(std::string(ATTN_TEST_DATA) + "/tokenizers/gpt2.json"));
  return LanguageModel::load(folder.path(), Context({.threads = 1}));
}

std::string text_of(int sentences) {
  std::string text;
  for (int i = 0; i < sentences; ++i) {
    text += "The night is dark, and the king number " + std::to_string(i * i) +
            " is not here: he sleeps. ";
  }
  return text;
}

void expect_same(const HeadStatistics& got, const HeadStatistics& expected) {
  EXPECT_EQ(got.layer, expected.layer);
  const auto near = [&](double HeadStatistics::*place, const char* what) {
    if (std::isnan(expected.*place)) {
      EXPECT_TRUE(std::isnan(got.*place)) << what;
      return;
    }
    EXPECT_NEAR(got.*place, expected.*place, 1e-5 * (1 + std::abs(expected.*place)))
        << what << " of head " << got.layer << "." << got.head;
  };
  near(&HeadStatistics::entropy, "entropy");
  near(&HeadStatistics::relative_entropy, "relative entropy");
  near(&HeadStatistics::previous, "previous");
  near(&HeadStatistics::next, "next");
  near(&HeadStatistics::self, "self");
  near(&HeadStatistics::first, "first");
  near(&HeadStatistics::special, "special");
  near(&HeadStatistics::distance, "distance");
  near(&HeadStatistics::max_probability, "largest probability");
}

// Mean of A[q][q - distance] over the queries that have such a key.
double diagonal(const AttentionRecord& record, const HeadMeasures& head, std::int64_t distance) {
  const auto n = static_cast<std::int64_t>(record.tokens.size());
  double sum = 0;
  for (std::int64_t q = distance; q < n; ++q) {
    sum += attention_row(record, head.layer, head.head, q)[static_cast<std::size_t>(q - distance)];
  }
  return sum / static_cast<double>(n - distance);
}

TEST(Heads, OneDocumentIsTheStatisticsOfItsRecord) {
  for (const std::int64_t window : {0, 5}) {
    const TestFolder folder;
    const LanguageModel model = made_model(folder, window);
    const std::string text = text_of(1);
    const HeadTable table = measure_heads(model, std::vector{text});
    const AttentionRecord record = model.record(model.encode(text));
    const auto n = static_cast<std::int64_t>(record.tokens.size());
    EXPECT_EQ(table.documents, 1);
    EXPECT_EQ(table.tokens, n);
    EXPECT_EQ(table.length, n);
    const auto expected = head_statistics(record), even = uniform_statistics(record);
    ASSERT_EQ(table.heads.size(), expected.size());
    ASSERT_EQ(table.uniform.size(), static_cast<std::size_t>(kLayers));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const HeadMeasures& head = table.heads[i];
      EXPECT_EQ(head.head, expected[i].head);
      expect_same(head, expected[i]);
      EXPECT_EQ(head.sink, expected[i].first > 0.3 ? 1 : 0);
      double punctuation = 0;
      for (std::int64_t q = 0; q < n; ++q) {
        const auto row = attention_row(record, head.layer, head.head, q);
        for (std::size_t k = 0; k < row.size(); ++k) {
          const std::string& token = record.tokens[k].text;
          if (token == "," || token == ":" || token == ".") punctuation += row[k];
        }
      }
      EXPECT_NEAR(head.punctuation, punctuation / static_cast<double>(n), 1e-5);
      EXPECT_GT(head.punctuation, 0);
    }
    for (std::size_t i = 0; i < table.uniform.size(); ++i)
      expect_same(table.uniform[i], even[i * kHeads]);
  }
}

TEST(Heads, DocumentsAreWeighedByTheirQueries) {
  const TestFolder folder;
  const LanguageModel model = made_model(folder);
  const std::vector<std::string> texts = {text_of(1), "The king is here."};
  const HeadTable both = measure_heads(model, texts);
  const HeadTable one = measure_heads(model, std::span(texts).first(1)),
                  other = measure_heads(model, std::span(texts).last(1));
  EXPECT_EQ(both.tokens, one.tokens + other.tokens);
  const auto a = static_cast<double>(one.tokens), b = static_cast<double>(other.tokens);
  for (std::size_t i = 0; i < both.heads.size(); ++i) {
    EXPECT_NEAR(both.heads[i].entropy,
                (a * one.heads[i].entropy + b * other.heads[i].entropy) / (a + b), 1e-9);
    EXPECT_NEAR(both.heads[i].previous,
                ((a - 1) * one.heads[i].previous + (b - 1) * other.heads[i].previous) / (a + b - 2),
                1e-9);
  }
}

TEST(Heads, RepeatsAreDiagonals) {
  for (const std::int64_t window : {0, 30}) {
    const TestFolder folder;
    const LanguageModel model = made_model(folder, window);
    const HeadTable table = measure_heads(model, std::vector{text_of(1)});
    std::vector<AttentionRecord> records;
    for (std::uint32_t i = 0; i < 4; ++i) {
      Ids ids = inspect::random_ids(model, 100, i);
      const Ids drawn = ids;
      ids.insert(ids.end(), drawn.begin(), drawn.end());
      records.push_back(model.record(ids));
    }
    const auto mean = [&](const HeadMeasures& head, std::int64_t distance) {
      double sum = 0;
      for (const AttentionRecord& record : records) sum += diagonal(record, head, distance);
      return sum / static_cast<double>(records.size());
    };
    for (const HeadMeasures& head : table.heads) {
      ASSERT_TRUE(head.repeated);
      EXPECT_NEAR(head.repeated->previous, mean(head, 1), 1e-5);
      EXPECT_NEAR(head.repeated->duplicate, mean(head, 100), 1e-5);
      EXPECT_NEAR(head.repeated->induction, mean(head, 99), 1e-5);
    }
    // An even head: 1 / (q + 1) for q = 99 ... 199; nothing that a window hides.
    double even = 0;
    for (int q = 99; q < 200 && window == 0; ++q) even += 1.0 / (q + 1) / 101;
    ASSERT_TRUE(table.uniform[0].repeated);
    EXPECT_NEAR(table.uniform[0].repeated->induction, even, 1e-12);
  }
}

TEST(Heads, AblationIsTheLossThatSilenceCosts) {
  const TestFolder folder;
  const LanguageModel model = made_model(folder);
  const std::vector<std::string> texts = {text_of(2)};
  std::int64_t last = 0, all = 0;
  const HeadTable table = measure_heads(model, texts,
                                        {.length = 16,
                                         .documents = 2,
                                         .ablation = true,
                                         .progress = [&](std::int64_t done, std::int64_t of) {
                                           EXPECT_EQ(done, last + 1);
                                           last = done;
                                           all = of;
                                         }});
  EXPECT_EQ(last, all);
  EXPECT_EQ(all, 2 + 4 + 2 * (1 + kLayers * kHeads));
  const auto documents = inspect::split(model, texts, 16, 2);
  ASSERT_EQ(documents.size(), 2U);
  for (const HeadMeasures& head : table.heads) {
    double change = 0;
    for (const Ids& ids : documents) {
      const HeadAblation silent{.heads = {{head.layer, head.head}}};
      change += model.score(ids, {.ablation = silent}).mean_loss - model.score(ids).mean_loss;
    }
    ASSERT_TRUE(head.ablation);
    EXPECT_NEAR(*head.ablation, change / 2, 1e-5);
    EXPECT_NE(*head.ablation, 0);
  }
}

TEST(Heads, EncodersHaveMeasuresToo) {
  const TestFolder folder;
  write_demo_model(folder.path());
  const Model model = Model::load(folder.path(), Context({.threads = 1}));
  const std::string text = "The cat sat on the mat, and the dog barked.";
  const HeadTable table = measure_heads(model, std::vector{text});
  const AttentionRecord record = model.record(model.encode(text));
  const auto expected = head_statistics(record), even = uniform_statistics(record);
  ASSERT_EQ(table.heads.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    expect_same(table.heads[i], expected[i]);
    EXPECT_GT(table.heads[i].punctuation, 0);
    EXPECT_FALSE(table.heads[i].repeated);
    EXPECT_FALSE(table.heads[i].ablation);
  }
  const auto heads = static_cast<std::size_t>(model.info().heads);
  for (std::size_t i = 0; i < table.uniform.size(); ++i)
    expect_same(table.uniform[i], even[i * heads]);
  EXPECT_THROW(measure_heads(model, std::vector{text}, {.ablation = true}), std::invalid_argument);
}

// One pair of texts is the statistics of its record; several are weighed by their queries.
TEST(Heads, EncoderDecodersHaveThreeTables) {
  const std::string folder = std::string(ATTN_ASSETS) + "/aren";
  if (!std::filesystem::exists(folder + "/model.bin")) GTEST_SKIP() << "no " << folder;
  const auto model = TranslationModel::load(folder, Context({.threads = 1}));
  const std::vector<std::string> sources = {"آ ت ز م و ن", "ن"}, targets = {"a t z", "n"};
  const auto all = [](const TranslationHeadTable& t) {
    return std::vector{&t.encoder, &t.decoder, &t.cross};
  };
  for (const bool given : {true, false}) {
    std::vector<TranslationHeadTable> alone;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const auto one = std::span(sources).subspan(i, 1);
      alone.push_back(measure_heads(
          model, one, given ? std::span(targets).subspan(i, 1) : std::span<const std::string>()));
      const auto source = model.encode(sources[i]),
                 target = given ? model.encode_target(targets[i]) : model.translate(source).ids;
      const TranslationRecord record = model.record(source, target);
      const AttentionRecord* const records[] = {&record.encoder, &record.decoder, &record.cross};
      for (std::size_t part = 0; part < 3; ++part) {
        SCOPED_TRACE(part);
        const HeadTable& table = *all(alone.back())[part];
        const auto expected = head_statistics(*records[part]),
                   even = uniform_statistics(*records[part]);
        EXPECT_EQ(table.tokens, static_cast<std::int64_t>(records[part]->tokens.size()));
        ASSERT_EQ(table.heads.size(), expected.size());
        for (std::size_t h = 0; h < expected.size(); ++h) expect_same(table.heads[h], expected[h]);
        for (std::size_t l = 0; l < table.uniform.size(); ++l)
          expect_same(table.uniform[l], even[l * expected.size() / table.uniform.size()]);
      }
    }
    const auto both =
        measure_heads(model, sources, given ? std::span(targets) : std::span<const std::string>());
    EXPECT_EQ(both.cross.documents, 2);
    for (std::size_t part = 0; part < 3; ++part) {
      const HeadTable &a = *all(alone[0])[part], &b = *all(alone[1])[part];
      EXPECT_EQ(all(both)[part]->tokens, a.tokens + b.tokens);
      EXPECT_NEAR(all(both)[part]->heads[7].entropy,
                  (a.heads[7].entropy * static_cast<double>(a.tokens) +
                   b.heads[7].entropy * static_cast<double>(b.tokens)) /
                      static_cast<double>(a.tokens + b.tokens),
                  1e-9);
    }
  }
  const auto refused = [&](std::size_t count, const HeadOptions& options) {
    return message_of<std::invalid_argument>(
        [&] { measure_heads(model, std::span(sources).first(count), targets, options); });
  };
  EXPECT_THAT(refused(1, {}), HasSubstr("1 sources and 2 targets"));
  EXPECT_THAT(refused(2, {.length = 3}), HasSubstr("not for encoder-decoders"));
  EXPECT_THAT(refused(2, {.ablation = true}), HasSubstr("not for encoder-decoders"));
  EXPECT_THAT(message_of<std::invalid_argument>(
                  [&] { measure_heads(model, std::span<const std::string>()); }),
              HasSubstr("no texts"));
}

TEST(Heads, WrongQuestionsAreSaid) {
  const TestFolder folder;
  const LanguageModel model = made_model(folder);
  const auto refused = [&](const std::string& text, const HeadOptions& options) {
    return message_of<std::invalid_argument>(
        [&] { measure_heads(model, std::vector{text}, options); });
  };
  EXPECT_THAT(refused("", {}), HasSubstr("no document of two tokens"));
  EXPECT_THAT(refused("The", {}), HasSubstr("no document of two tokens"));
  EXPECT_THAT(refused("The king", {.length = 1}), HasSubstr("length is 1, must be 2 to 256"));
  EXPECT_THAT(refused("The king", {.length = 257}), HasSubstr("length is 257"));
  EXPECT_THAT(message_of<std::invalid_argument>([&] {
                measure_sinks(model, std::vector<std::string>{"The king"}, {.length = 64});
              }),
              HasSubstr("no sequence of 64 tokens"));
}

TEST(Sinks, AreMeansOverSequences) {
  const TestFolder folder;
  const LanguageModel model = made_model(folder);
  const std::vector<std::string> texts = {text_of(10)};
  const SinkTable table = measure_sinks(model, texts, {.length = 9, .sequences = 3});
  ASSERT_EQ(table.inputs.size(), 3U);
  EXPECT_NEAR(table.uniform,
              (1 + 1 / 2. + 1 / 3. + 1 / 4. + 1 / 5. + 1 / 6. + 1 / 7. + 1 / 8. + 1 / 9.) / 9,
              1e-12);
  const auto natural = inspect::split(model, texts, 9, 3);
  for (const SinkTable::Input& input : table.inputs) {
    EXPECT_EQ(input.sequences, 3);
    std::vector<double> first(static_cast<std::size_t>(kLayers * kHeads));
    double above = 0;
    for (std::uint32_t i = 0; i < 3; ++i) {
      Ids ids = inspect::random_ids(model, 9, i);
      if (input.name == "repeated") ids.assign(9, ids[0]);
      if (input.name == "natural") ids = natural[i];
      const auto heads = head_statistics(model.record(ids));
      for (std::size_t h = 0; h < heads.size(); ++h) {
        first[h] += heads[h].first / 3;
        if (heads[h].first > 0.3) above += 1.0 / 18;
      }
    }
    EXPECT_NEAR(input.share, above, 1e-12) << input.name;
    for (std::size_t h = 0; h < first.size(); ++h) EXPECT_NEAR(input.first[h], first[h], 1e-5);
  }
}

TEST(Documents, AreCutAlongTokens) {
  const TestFolder folder;
  const LanguageModel model = made_model(folder);
  const std::vector<std::string> texts = {text_of(3), "The", "The king"};
  const Ids ids = model.encode(texts[0]);
  const auto n = ids.size();
  const auto documents = inspect::split(model, texts, 10, 1000);
  // All whole tens of the first text, nothing of one token, and the last.
  ASSERT_EQ(documents.size(), n / 10 + 1);
  for (std::size_t i = 0; i < n / 10; ++i) {
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(10 * i);
    EXPECT_EQ(documents[i], Ids(begin, begin + 10));
  }
  EXPECT_EQ(documents.back(), model.encode("The king"));
  EXPECT_EQ(inspect::split(model, texts, 10, 2).size(), 2U);
}

// A word that is cut in two begins anew, so it is the pieces' text that is the same.
TEST(Documents, OfEncodersCoverTheText) {
  const TestFolder folder;
  write_demo_model(folder.path());
  const Model model = Model::load(folder.path(), Context({.threads = 1}));
  const std::string text = text_of(4);
  const auto letters = [](const Encoding& encoding) {
    std::string out;
    for (const RecordToken& token : encoding.tokens) {
      if (!token.special) out += token.text.substr(token.text.starts_with("##") ? 2 : 0);
    }
    return out;
  };
  const auto documents = inspect::split(model, std::vector{text}, 12, 1000);
  ASSERT_GT(documents.size(), 3U);
  std::string together;
  for (const Encoding& document : documents) {
    EXPECT_EQ(document.ids.size(), 12U);
    together += letters(document);
  }
  const std::string whole = letters(model.encode(text, {}, model.info().max_positions));
  EXPECT_EQ(together, whole.substr(0, together.size()));
  EXPECT_EQ(inspect::split(model, std::vector{text}, 12, 2).size(), 2U);
}

TEST(RandomIds, AreTextAndTheSameEveryTime) {
  const TestFolder folder;
  const LanguageModel model = made_model(folder);
  const Ids ids = inspect::random_ids(model, 500, 3);
  ASSERT_EQ(ids.size(), 500U);
  for (const std::int32_t id : ids) EXPECT_TRUE(model.is_text(id)) << id;
  EXPECT_EQ(ids, inspect::random_ids(model, 500, 3));
  EXPECT_NE(ids, inspect::random_ids(model, 500, 4));
}

TEST(Punctuation, IsATextOfNothingElse) {
  for (const char* text : {".", ",", " .", "...", "\xe2\x80\x94", "!?"})
    EXPECT_TRUE(inspect::is_punctuation_text(text)) << text;
  for (const char* text : {"", " ", "a", "a.", "\n", "1", "\xff"})
    EXPECT_FALSE(inspect::is_punctuation_text(text)) << text;
}

}  // namespace
}  // namespace attn
