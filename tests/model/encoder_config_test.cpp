// What an encoder's folder says: config.json, modules.json with the pooling that it names,
// sentence_bert_config.json, tokenizer_config.json.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "attn/error.h"
#include "attn/model.h"
#include "folder.h"
#include "model/demo.h"
#include "model/families.h"
#include "model/json.h"
#include "model/pooling.h"
#include "model/tokenizer_config.h"
#include "weights_file.h"

namespace attn {
namespace {

const std::string kGood =
    R"({"architectures":["BertModel"],"hidden_act":"gelu","hidden_size":384,)"
    R"("intermediate_size":1536,"layer_norm_eps":1e-12,"max_position_embeddings":512,)"
    R"("model_type":"bert","num_attention_heads":12,"num_hidden_layers":6,)"
    R"("position_embedding_type":"absolute","type_vocab_size":2,"vocab_size":30522})";

// kGood with one piece of text replaced.
std::string changed(const std::string& from, const std::string& to) {
  std::string text = kGood;
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

// What load_described says of a configuration whose weights are absent.
std::string message(const std::string& config) {
  const TestFolder folder;
  Weights weights(folder.write("model.safetensors", safetensors_of({})));
  return message_of<Error>([&] { load_described(config, "config.json", weights); });
}

TEST(BertConfig, KnowsWhatItReads) {
  // Then the first weight is missing.
  for (const std::string& good :
       {kGood, changed("\"gelu\"", "\"gelu_new\""), changed("\"gelu\"", "\"silu\""),
        changed("\"bert\"", "\"bert\",\"is_decoder\":false"),
        changed("BertModel", "BertForMaskedLM")}) {
    EXPECT_THAT(message(good), testing::HasSubstr("embeddings.word_embeddings.weight")) << good;
  }
}

TEST(BertConfig, NamesWhatItDoesNotKnow) {
  const std::pair<std::string, std::string> cases[] = {
      {changed("\"bert\"", "\"albert\""), "model_type \"albert\" is not known"},
      {changed("\"bert\"", "\"roberta\""), "architectures names \"BertModel\""},
      {changed("384,", "384,\"rotary\":true,"), "rotary is not known"},
      {changed("\"model_type\":\"bert\",", ""), "model_type is missing"},
      {changed("BertModel", "NewBertModel"), "architectures names \"NewBertModel\""},
      {changed("\"gelu\"", "\"mish\""), "hidden_act \"mish\" is not known"},
      {changed("\"hidden_act\":\"gelu\",", ""), "hidden_act is missing"},
      {changed("\"absolute\"", "\"relative_key\""),
       "position_embedding_type \"relative_key\" is not known"},
      {changed("\"vocab_size\"", "\"is_decoder\":true,\"vocab_size\""), "is_decoder is true"},
      {changed("\"hidden_size\":384,", ""), "hidden_size is missing"},
      {changed("384", "0"), "hidden_size is 0, must be an integer in [1, "},
      {changed("384", "-384"), "hidden_size is -384"},
      {changed("384", "384.5"), "hidden_size is 384.5"},
      {changed("384", "\"384\""), "hidden_size is a string"},
      {changed("384", "99999999999999999999"), "hidden_size is 1000000"},
      {changed("384", "385"), "num_attention_heads does not divide hidden_size"},
      {changed("384", "12300"), "hidden_size gives heads of width 1025, at most 1024"},
      {changed("1e-12", "-1"), "layer_norm_eps is -1"},
      {changed("1e-12", "\"small\""), "layer_norm_eps is a string"},
      {"[]", "holds an array, must be an object"},
      {"", "invalid JSON"},
      {kGood + "x", "invalid JSON"},
  };
  for (const auto& [text, wanted] : cases) {
    EXPECT_THAT(message(text),
                testing::AllOf(testing::StartsWith("config.json: "), testing::HasSubstr(wanted)));
  }
}

TEST(TokenizerConfig, ReadsOptionsAndSpecialTokens) {
  const TokenizerConfig config = parse_tokenizer_config(
      R"({"do_lower_case":false,"strip_accents":null,"tokenize_chinese_chars":false,)"
      R"("unk_token":{"content":"<unk>"},"mask_token":"<mask>",)"
      R"("added_tokens_decoder":{"7":{"content":"<new>","special":true,"lstrip":false}}})",
      "t.json");
  EXPECT_EQ(config.lower_case, false);
  EXPECT_FALSE(config.strip_accents.has_value());
  EXPECT_FALSE(config.split_cjk);
  EXPECT_EQ(config.unknown, "<unk>");
  EXPECT_EQ(config.mask, "<mask>");
  EXPECT_EQ(config.classifier, "[CLS]");
  ASSERT_EQ(config.added.size(), 1U);
  EXPECT_EQ(config.added[0], (std::pair<std::string, std::int64_t>("<new>", 7)));
  for (const char* const wrong :
       {R"({"tokenizer_class":"GPT2Tokenizer"})", R"({"do_lower_case":1})", R"({"unk_token":3})",
        R"({"unk_token":{}})", R"({"do_basic_tokenize":false})",
        R"({"added_tokens_decoder":{"x":{"content":"a"}}})", R"({"added_tokens_decoder":{"1":2}})",
        R"({"added_tokens_decoder":{"1":{"content":"a","lstrip":true}}})", "3"}) {
    EXPECT_THROW(parse_tokenizer_config(wrong, "t.json"), Error) << wrong;
  }
}

TEST(Pooling, FollowsModules) {
  const TestFolder folder;
  // Bare: the plain mean.
  EXPECT_EQ(read_pooling(folder.path()).pooling, Pooling::mean);
  EXPECT_FALSE(read_pooling(folder.path()).normalize);

  folder.write("modules.json",
               R"([{"type":"sentence_transformers.models.Transformer","path":""},)"
               R"({"type":"sentence_transformers.models.Pooling","path":"1_Pooling"},)"
               R"({"type":"sentence_transformers.models.Normalize","path":"2_Normalize"}])");
  EXPECT_THAT(message_of<Error>([&] { read_pooling(folder.path()); }),
              testing::HasSubstr("1_Pooling/config.json: cannot be opened"));
  const std::pair<const char*, Pooling> modes[] = {
      {R"({"pooling_mode_mean_tokens":true,"pooling_mode_cls_token":false})", Pooling::mean},
      {R"({"pooling_mode_cls_token":true})", Pooling::cls},
      {R"({"pooling_mode_max_tokens":true})", Pooling::max},
      {R"({"pooling_mode":"cls"})", Pooling::cls}};
  for (const auto& [json, pooling] : modes) {
    folder.write("1_Pooling/config.json", json);
    const PoolingConfig config = read_pooling(folder.path());
    EXPECT_EQ(config.pooling, pooling) << json;
    EXPECT_TRUE(config.normalize);
  }
  for (const char* const wrong :
       {R"({"pooling_mode_mean_sqrt_len_tokens":true})", R"({"pooling_mode":"weighted"})", "{}",
        R"({"pooling_mode_mean_tokens":true,"pooling_mode_cls_token":true})"}) {
    folder.write("1_Pooling/config.json", wrong);
    EXPECT_THROW(read_pooling(folder.path()), Error) << wrong;
  }
  folder.write("modules.json", R"([{"type":"sentence_transformers.models.Dense","path":"3"}])");
  EXPECT_THAT(message_of<Error>([&] { read_pooling(folder.path()); }),
              testing::HasSubstr("models.Dense\" is not known"));
  folder.write("modules.json", R"([{"type":"x.Pooling","path":"../elsewhere"}])");
  EXPECT_THAT(message_of<Error>([&] { read_pooling(folder.path()); }),
              testing::HasSubstr("leaves the folder"));
}

TEST(EncoderFolder, TakesTheLengthOfTheSentenceModel) {
  const TestFolder folder;
  write_demo_model(folder.path());
  const auto load = [&] { return Model::load(folder.path()); };
  folder.write("sentence_bert_config.json", R"({"max_seq_length":64,"do_lower_case":false})");
  EXPECT_EQ(load().info().max_length, 64);
  folder.write("sentence_bert_config.json", R"({"max_seq_length":9999})");
  EXPECT_EQ(load().info().max_length, 128);
  folder.write("sentence_bert_config.json", R"({"max_seq_length":0})");
  EXPECT_THROW(load(), Error);
}

// sentence-transformers lower-cases a text before the tokenizer, which leaves accents to a cased
// one.
TEST(EncoderFolder, LowerCasesForTheSentenceModel) {
  const TestFolder folder;
  write_demo_model(folder.path());
  folder.write("tokenizer_config.json", R"({"do_lower_case":false})");
  EXPECT_EQ(Model::load(folder.path()).encode("Water").tokens[1].text, "[UNK]");
  folder.write("sentence_bert_config.json", R"({"do_lower_case":true})");
  EXPECT_EQ(Model::load(folder.path()).encode("Water").tokens[1].text, "water");
  EXPECT_EQ(Model::load(folder.path()).encode("w\u00e4ter").tokens[1].text, "[UNK]");
}

TEST(Json, KeepsValuesAndBounds) {
  const Json json =
      Json::parse(R"({"b":[1,-2.5,true,null,"\u00e9"],"a":9223372036854775808})", "j");
  ASSERT_NE(json.find("b"), nullptr);
  const auto& items = json.find("b")->items;
  ASSERT_EQ(items.size(), 5U);
  EXPECT_EQ(items[0].integer, 1);
  EXPECT_EQ(items[1].real, -2.5);
  EXPECT_TRUE(items[2].boolean);
  EXPECT_TRUE(items[3].is(Json::Kind::null));
  EXPECT_EQ(items[4].text, "é");
  EXPECT_TRUE(json.find("a")->is(Json::Kind::real));
  EXPECT_EQ(json.find("c"), nullptr);
  EXPECT_EQ(Json::parse("3", "j").integer, 3);
  const std::string deep(64, '[');
  EXPECT_NO_THROW(Json::parse(deep + std::string(64, ']'), "j"));
  EXPECT_THROW(Json::parse("[" + deep + std::string(65, ']'), "j"), Error);
}

}  // namespace
}  // namespace attn
