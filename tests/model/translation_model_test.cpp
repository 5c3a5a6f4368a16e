// Translation models from folders: a real one in CTranslate2's format, and made ones.
#include "attn/translation_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/inspect.h"
#include "folder.h"
#include "golden_models.h"
#include "model/ctranslate2.h"

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

// The same model as converters of today write it: version 6, settings of each side, types, an
// alias, tokens in config.json, vocabularies as JSON.
TEST_F(Aren, TransliteratesAsVersion6Too) {
  const MappedFile old(folder() + "/model.bin");
  const CTranslate2 parsed(old.bytes(), old.path());
  const auto number = [](auto value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  };
  const auto name = [&](const std::string& text) {
    return number(static_cast<std::uint16_t>(text.size() + 1)) + text + '\0';
  };
  std::string variables;
  std::uint32_t count = 0;
  const auto add = [&](const std::string& called, const std::vector<std::int64_t>& shape,
                       std::uint8_t type, const std::string& bytes) {
    variables += name(called) + number(static_cast<std::uint8_t>(shape.size()));
    for (const std::int64_t n : shape) variables += number(static_cast<std::uint32_t>(n));
    variables += number(type) + number(static_cast<std::uint32_t>(bytes.size())) + bytes;
    ++count;
  };
  for (const TensorEntry& entry : parsed.tensors()) {
    std::string called = entry.name;
    if (called == "encoder/embeddings/weight") called = "encoder/embeddings_0/weight";
    const auto bytes = old.bytes().subspan(entry.begin, entry.end - entry.begin);
    add(called, entry.shape, 0, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  for (const std::string side : {"encoder/", "decoder/"}) {
    add(side + "num_heads", {}, 2, number(std::int16_t{8}));
    add(side + "pre_norm", {}, 1, number(std::int8_t{1}));
    add(side + "activation", {}, 1, number(std::int8_t{0}));
    add(side + "scale_embeddings", {}, 1, number(std::int8_t{1}));
  }
  add("encoder/embeddings_merge", {}, 1, number(std::int8_t{0}));
  add("encoder/multi_query_attention", {}, 1, number(std::int8_t{0}));
  add("decoder/alignment_layer", {}, 2, number(std::int16_t{-1}));
  add("decoder/alibi", {}, 1, number(std::int8_t{0}));
  const TestFolder made;
  made.write("model.bin", number(std::uint32_t{6}) + name("TransformerSpec") +
                              number(std::uint32_t{7}) + number(count) + variables +
                              number(std::uint32_t{1}) + name("decoder/alignment_heads") +
                              name("decoder/alignment_layer"));
  const auto list = [&](const std::string& side) {
    std::string json = "[", text = read_file(folder() + "/" + side + ".txt");
    for (std::size_t at = 0, end = 0; at < text.size(); at = end + 1) {
      end = text.find('\n', at);
      json += (at == 0 ? "\"" : ",\"") + text.substr(at, end - at) + "\"";
    }
    made.write(side + ".json", json + "]");
  };
  list("source_vocabulary");
  list("target_vocabulary");
  const auto config = [&](const std::string& start) {
    made.write("config.json",
               R"({"add_source_bos":false,"add_source_eos":false,"bos_token":"<s>",)"
               R"("decoder_start_token":)" +
                   start + R"(,"eos_token":"</s>","layer_norm_epsilon":null,"unk_token":"<unk>"})");
    return message_of<Error>([&] { TranslationModel::load(made.path()); });
  };
  EXPECT_THAT(config("null"), HasSubstr("a token that the user chooses"));
  EXPECT_THAT(config("\"<start>\""), HasSubstr("target_vocabulary: has no <start>"));
  ASSERT_EQ(config("\"<s>\""), "");
  const auto model = TranslationModel::load(made.path(), Context({.threads = 1}));
  const auto before = TranslationModel::load(folder(), Context({.threads = 1}));
  const Translation got = model.translate(kSource, {.beams = 4});
  EXPECT_EQ(got.text, "a t z m o n");
  EXPECT_EQ(got.log_probability, before.translate(kSource, {.beams = 4}).log_probability);
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
  EXPECT_EQ(record.cross.tokens[3].text, " z");
  EXPECT_EQ(record.cross.tokens.size(), 7);
  ASSERT_EQ(record.cross.keys.size(), 6);
  EXPECT_EQ(record.cross.keys[0].text, " آ");
  EXPECT_FALSE(record.cross.keys[5].special);
  for (const AttentionRecord* part : {&record.encoder, &record.decoder, &record.cross}) {
    ASSERT_EQ(part->layers.size(), 6);
    EXPECT_EQ(part->heads, 8);
    EXPECT_EQ(part->width, 4);
  }
  EXPECT_EQ(record.encoder.layers[5].q.size(), 8 * 6 * 4);
  EXPECT_EQ(record.decoder.layers[5].k.size(), 8 * 7 * 4);
  EXPECT_EQ(record.cross.layers[5].q.size(), 8 * 7 * 4);
  EXPECT_EQ(record.cross.layers[5].k.size(), 8 * 6 * 4);
  EXPECT_EQ(record.cross.layers[5].value_norm.size(), 8 * 6);
  EXPECT_FALSE(record.decoder.tokens[1].generated);

  // A few layers; a target that the model made.
  const TranslationRecord some = model.record(source, target, {5, 2, 5}, true);
  EXPECT_EQ(some.cross.layer_numbers, (std::vector<std::int64_t>{2, 5}));
  EXPECT_EQ(some.cross.layers[1].q, record.cross.layers[5].q);
  EXPECT_EQ(some.cross.layers[0].k, record.cross.layers[2].k);
  EXPECT_EQ(some.encoder.layers[1].k, record.encoder.layers[5].k);
  EXPECT_FALSE(some.cross.tokens[0].generated);
  EXPECT_TRUE(some.cross.tokens[1].generated && some.decoder.tokens[6].generated);
  EXPECT_THAT(message_of<std::invalid_argument>([&] { model.record(source, target, {6}); }),
              HasSubstr("layer 6 is not in 0 ... 5"));
  const std::vector<std::int32_t> longest(1024, target[0]);
  EXPECT_THAT(message_of<std::invalid_argument>([&] { model.record(source, longest); }),
              HasSubstr("the target has 1025 tokens, the model 1024 positions"));
}

TEST_F(Aren, TargetsAreReadAsTheyAreWritten) {
  const auto model = TranslationModel::load(folder(), Context({.threads = 1}));
  EXPECT_EQ(model.encode_target("a t z m o n"), model.translate(kSource).ids);
  EXPECT_TRUE(model.encode_target("").empty());
}

// What heads answer while the target is scored is what the record says.
TEST_F(Aren, ObserversSeeWhatIsRecorded) {
  const auto model = TranslationModel::load(folder(), Context({.threads = 1}));
  const auto source = model.encode(kSource), target = model.encode_target("a t z m");
  const TranslationRecord record = model.record(source, target);
  struct Side {
    const AttentionRecord* record;
    std::vector<float> entropy, weights;
    std::vector<double> columns;
  };
  Side sides[] = {
      {&record.encoder, {}, {}, {}}, {&record.decoder, {}, {}, {}}, {&record.cross, {}, {}, {}}};
  const auto questions = [](Side& side) {
    const std::int64_t layers = 6, heads = 8,
                       queries = static_cast<std::int64_t>(side.record->tokens.size()),
                       keys = static_cast<std::int64_t>(side.record->key_tokens().size());
    side.entropy.resize(static_cast<std::size_t>(layers * heads * queries));
    side.columns.resize(static_cast<std::size_t>(layers * heads * keys));
    side.weights.resize(static_cast<std::size_t>(layers * heads * keys));
    Observed o;
    o.entropy = {side.entropy.data(), Shape{layers, heads, queries, 1}};
    o.column_mass = {side.columns.data(), Shape{layers, heads, 1, keys}};
    o.rows = {.queries = {queries - 1},
              .probabilities = {side.weights.data(), Shape{layers, heads, 1, keys}}};
    return o;
  };
  model.observe(source, target, {questions(sides[0]), questions(sides[1]), questions(sides[2])});
  for (const Side& side : sides) {
    const auto queries = side.record->tokens.size(), keys = side.record->key_tokens().size();
    const auto expected = head_statistics(*side.record);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      double entropy = 0;
      for (std::size_t q = 0; q < queries; ++q) entropy += side.entropy[i * queries + q];
      EXPECT_NEAR(entropy / static_cast<double>(queries), expected[i].entropy, 1e-5);
      EXPECT_NEAR(side.columns[i * keys] / static_cast<double>(queries), expected[i].first, 1e-5);
      const auto row = attention_row(*side.record, expected[i].layer, expected[i].head,
                                     static_cast<std::int64_t>(queries) - 1);
      for (std::size_t k = 0; k < keys; ++k) EXPECT_NEAR(side.weights[i * keys + k], row[k], 1e-6);
    }
  }
  std::vector<float> wrong(5);
  TranslationObserved asked;
  asked.cross.entropy = {wrong.data(), Shape{5, 1, 1, 1}};
  EXPECT_THAT(message_of<std::invalid_argument>([&] { model.observe(source, target, asked); }),
              HasSubstr("entropy has 5 entries for 6 layers"));
}

// A folder as Hugging Face's: a golden case's settings and weights by formula, with tokenizer files
// of tests/data/sentencepiece.
class MadeFolder {
 public:
  MadeFolder(const std::string& name, std::int64_t vocabulary) {
    const Json cases = read_golden("translation.json");
    const Json& given = *cases.find("cases")->find(name);
    TensorShapes shapes = shapes_of(*given.find("tensors"));
    for (auto& entry : shapes) {
      for (std::int64_t& size : entry.second) size = size == 101 ? vocabulary : size;
    }
    config_ = config_of(given);
    replace("\"vocab_size\":101", "\"vocab_size\":" + std::to_string(vocabulary));
    replace("\"decoder_vocab_size\":101", "\"decoder_vocab_size\":" + std::to_string(vocabulary));
    folder_.write("model.safetensors", made_weights(shapes));
  }

  void replace(const std::string& from, const std::string& to) {
    if (const std::size_t at = config_.find(from); at != std::string::npos)
      config_.replace(at, from.size(), to);
    folder_.write("config.json", config_);
  }
  void copy(const std::string& from, const std::string& to) const {
    folder_.write(to, read_file(std::string(ATTN_TEST_DATA) + "/" + from));
  }
  void write(const std::string& name, const std::string& contents) const {
    folder_.write(name, contents);
  }
  const std::string& path() const { return folder_.path(); }
  std::string error() const {
    return message_of<Error>([&] { TranslationModel::load(path()); });
  }

 private:
  TestFolder folder_;
  std::string config_;
};

TEST(TranslationFolders, T5WithItsSentencePieces) {
  MadeFolder folder("t5", 405);
  EXPECT_TRUE(is_translation_model(folder.path()));
  EXPECT_THAT(folder.error(), HasSubstr("has no tokenizer.json, spiece.model, or source.spm"));
  folder.copy("sentencepiece/t5.model", "spiece.model");
  folder.write("generation_config.json",
               R"({"decoder_start_token_id":0,"eos_token_id":1,"max_new_tokens":9,"num_beams":3})");
  const auto model = TranslationModel::load(folder.path(), Context({.threads = 1}));
  EXPECT_EQ(model.info().family, "t5");
  EXPECT_EQ(model.info().layers, 3);
  const auto ids = model.encode("The king.");
  EXPECT_EQ(ids.back(), 1);
  EXPECT_EQ(model.piece(ids.back()), "</s>");
  const Translation got = model.translate("The king.");
  EXPECT_LE(got.ids.size(), 9);
  EXPECT_EQ(got.ids, model.translate(ids, {.beams = 3, .max_tokens = 9}).ids);
  EXPECT_EQ(got.text, model.decode(got.ids));
  const auto target = model.encode_target("The king.");
  EXPECT_EQ(target, std::vector<std::int32_t>(ids.begin(), ids.end() - 1));
  // T5 has no positions, and so no bias, between two texts.
  const TranslationRecord record = model.record(ids, target);
  EXPECT_TRUE(record.decoder.layers[0].score.t5);
  EXPECT_FALSE(record.cross.layers[0].score.t5);
  EXPECT_EQ(record.cross.keys.back().text, "</s>");
  EXPECT_EQ(record.cross.keys[0].text, record.encoder.tokens[0].text);
  EXPECT_GE(got.log_probability + 1e-4, model.translate("The king.", {.beams = 1}).log_probability);
}

TEST(TranslationFolders, MarianWithTwoSentencePieceModels) {
  MadeFolder folder("marian", 600);
  for (const char* const name : {"source.spm", "target.spm", "vocab.json"})
    folder.copy(std::string("sentencepiece/") + name, name);
  folder.write(
      "generation_config.json",
      R"({"decoder_start_token_id":100,"eos_token_id":0,"forced_eos_token_id":0,)"
      R"("bad_words_ids":[[100]],"max_length":12,"num_beams":4,"renormalize_logits":true})");
  const auto model = TranslationModel::load(folder.path(), Context({.threads = 1}));
  EXPECT_EQ(model.encode(">>fr<< the king").front(), 2);
  const Translation got = model.translate("the king");
  EXPECT_TRUE(got.ended);  // forced, if by nothing else
  EXPECT_LE(got.ids.size(), 10);
  const TranslationRecord record = model.record(model.encode("the king"), got.ids);
  EXPECT_EQ(record.encoder.layers.size(), 2);
  EXPECT_EQ(record.cross.layers.size(), 3);
  EXPECT_EQ(record.cross.tokens.size(), got.ids.size() + 1);
  EXPECT_TRUE(record.cross.keys.back().special);  // </s>
  EXPECT_FALSE(page(record).empty());
  // The target's own pieces, without the end that its tokenizer puts behind.
  const auto target = model.encode_target("le roi");
  ASSERT_FALSE(target.empty());
  EXPECT_NE(target.back(), 0);
  EXPECT_EQ(model.decode(target), "le roi");
}

TEST(TranslationFolders, NothingIsGuessed) {
  MadeFolder folder("bart", 300);
  folder.copy("sentencepiece/t5.model", "spiece.model");
  EXPECT_EQ(folder.error(), "");
  const auto error = [&](const std::string& from, const std::string& to) {
    folder.replace(from, to);
    const std::string message = folder.error();
    folder.replace(to, from);
    return message.substr(message.find_last_of('/') + 1);
  };
  EXPECT_EQ(error("\"model_type\":\"bart\"", "\"model_type\":\"bard\""),
            "config.json: model_type \"bard\" is not a known encoder-decoder (t5, bart, marian)");
  EXPECT_EQ(error("\"activation_function\":\"gelu\"", "\"activation_function\":\"mish\""),
            "config.json: activation_function \"mish\" is not known (gelu, gelu_new, "
            "gelu_pytorch_tanh, silu, relu)");
  EXPECT_EQ(error("\"d_model\":60", "\"d_model\":61"),
            "config.json: encoder_attention_heads does not divide d_model");
  EXPECT_EQ(error("\"decoder_start_token_id\":2", "\"decoder_start_token_id\":300"),
            "config.json: decoder_start_token_id is no token: must be an integer in [0, 300)");
  EXPECT_EQ(error("\"dropout\":", "\"drop_out\":"), "config.json: drop_out is not known");
  EXPECT_EQ(error("\"is_encoder_decoder\":true", "\"is_encoder_decoder\":false"),
            "config.json: is_encoder_decoder is false, which we do not run");
  const auto generation = [&](const std::string& settings) {
    folder.write("generation_config.json", settings);
    const std::string message = folder.error();
    return message.substr(message.find_last_of('/') + 1);
  };
  const std::string file = "generation_config.json: ";
  EXPECT_EQ(generation(R"({"num_beams":4,"early_stopping":"never","length_penalty":2.0})"), "");
  EXPECT_EQ(generation(R"({"num_beamz":4})"), file + "num_beamz is not known");
  EXPECT_EQ(generation(R"({"early_stopping":"soon"})"),
            file + "early_stopping must be true, false or \"never\"");
  EXPECT_EQ(generation(R"({"repetition_penalty":1.2})"),
            file + "repetition_penalty is not 1, which we do not run");
  EXPECT_EQ(generation(R"({"bad_words_ids":[[1,2]]})"),
            file + "bad_words_ids has a list of several tokens, which we do not run");
  EXPECT_EQ(generation(R"({"eos_token_id":300})"),
            file + "eos_token_id is no token: must be an integer in [0, 300)");
  EXPECT_EQ(generation(R"({"max_length":-1})"),
            file + "max_length must be an integer in [0, 16777216]");
}

TEST(TranslationFolders, TokenizersHaveToFit) {
  MadeFolder folder("t5", 299);
  folder.copy("sentencepiece/t5.model", "spiece.model");
  EXPECT_THAT(folder.error(), HasSubstr("the source's tokenizer has 300 tokens, the model 299"));
}

}  // namespace
}  // namespace attn
