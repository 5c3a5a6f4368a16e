// Translation models from folders: a real one in CTranslate2's format, and made ones.
#include "attn/translation_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "folder.h"
#include "golden_json.h"

namespace attn {
namespace {

using testing::HasSubstr;

// Arabic to English letters; OpenNMT/CTranslate2's own test says what comes out.
class Aren : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(folder() + "/model.bin")) GTEST_SKIP() << "no " << folder();
  }
  static std::string folder() { return std::string(ATTN_ASSETS) + "/aren"; }
  static constexpr const char* kSource = "آ ت ز م و ن";
};

TEST_F(Aren, TransliteratesGreedilyAndWithBeams) {
  ASSERT_TRUE(is_translation_model(folder()));
  const auto model = TranslationModel::load(folder(), Context({.threads = 1}));
  EXPECT_EQ(model.info().family, "ctranslate2");
  EXPECT_EQ(model.info().layers, 6);
  EXPECT_EQ(model.info().heads, 8);
  EXPECT_EQ(model.info().vocabulary, 43);
  double greedy = 0;
  for (const std::int64_t beams : {1, 2, 4, 5}) {
    const Translation got = model.translate(kSource, {.beams = beams});
    EXPECT_EQ(got.text, "a t z m o n") << beams;
    EXPECT_EQ(got.tokens, (std::vector<std::string>{"a", "t", "z", "m", "o", "n"}));
    EXPECT_EQ(got.ids.size(), 6);
    EXPECT_TRUE(got.ended);
    EXPECT_NEAR(got.score, got.log_probability / 7, 1e-12);
    if (beams == 1) greedy = got.log_probability;
    EXPECT_GE(got.log_probability, greedy - 1e-4);
  }
}

TEST_F(Aren, UnknownTokensAreTakenAndWrongArgumentsRefused) {
  const auto model = TranslationModel::load(folder(), Context({.threads = 1}));
  const auto ids = model.encode("  آ  Q\tن ");
  ASSERT_EQ(ids.size(), 3);
  EXPECT_EQ(model.piece(ids[1]), "<unk>");
  EXPECT_FALSE(model.translate("آ Q ن").text.empty());
  const auto refused = [&](const std::string& text, const TranslationOptions& options) {
    return message_of<std::invalid_argument>([&] { model.translate(text, options); });
  };
  EXPECT_EQ(refused("  ", {}), "[translate] the source has no tokens");
  EXPECT_THAT(refused(kSource, {.beams = 0}), HasSubstr("0 beams (1 to 1024)"));
  EXPECT_THAT(refused(kSource, {.max_tokens = 0}), HasSubstr("0 tokens (at least 1)"));
  EXPECT_THAT(refused(kSource, {.max_tokens = 1025}), HasSubstr("the model's 1024 positions"));
  std::string longer;
  for (int i = 0; i < 1025; ++i) longer += "ن ";
  EXPECT_THAT(refused(longer, {}), HasSubstr("the source has 1025 tokens, the model 1024"));
  const Translation cut = model.translate(kSource, {.beams = 1, .max_tokens = 3});
  EXPECT_EQ(cut.text, "a t z");
  EXPECT_FALSE(cut.ended);
}

TEST_F(Aren, RecordsThreeKindsOfAttention) {
  const auto model = TranslationModel::load(folder(), Context({.threads = 1}));
  const auto source = model.encode(kSource);
  const auto target = model.translate(kSource).ids;
  const TranslationRecord record = model.record(source, target);
  EXPECT_EQ(record.encoder.tokens.size(), 6);
  EXPECT_EQ(record.decoder.tokens.size(), 7);
  EXPECT_EQ(record.decoder.tokens[0].text, "<s>");
  EXPECT_TRUE(record.decoder.tokens[0].special);
  EXPECT_EQ(record.cross.tokens[3].text, "z");
  for (const AttentionRecord* part : {&record.encoder, &record.decoder, &record.cross}) {
    ASSERT_EQ(part->layers.size(), 6);
    EXPECT_EQ(part->heads, 8);
    EXPECT_EQ(part->width, 4);
  }
  EXPECT_EQ(record.encoder.layers[5].q.size(), 8 * 6 * 4);
  EXPECT_EQ(record.decoder.layers[5].k.size(), 8 * 7 * 4);
  EXPECT_EQ(record.cross.layers[5].q.size(), 8 * 7 * 4);
  EXPECT_EQ(record.cross.layers[5].k.size(), 8 * 6 * 4);
}

}  // namespace
}  // namespace attn
