// RWKV's tokenizer: the ids of the published code on a small vocabulary (tools/golden_rwkv5.py),
// and vocabularies and literals that are wrong, each in one way.
#include "model/world_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attn/error.h"
#include "attn/language_model.h"
#include "folder.h"
#include "golden_models.h"
#include "model/encoder_tokenizer.h"
#include "model/python_literal.h"

namespace attn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kData = std::string(ATTN_TEST_DATA) + "/tokenizers/";
// What no text has.
const WorldOptions kNoEnd{.end = "<|end of text|>"};

Tokenizer world(const std::string& file, const WorldOptions& options) {
  return make_world_tokenizer(parse_world_vocabulary(slurp(kData + file), file), options, file);
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

TEST(WorldTokenizer, CutsAsPublished) {
  const Json golden = Json::parse(slurp(kData + "world.json"), "world.json");
  const Tokenizer numbered = world("world.txt", kNoEnd), bare = world("world_bare.txt", kNoEnd);
  EXPECT_EQ(numbered.size(), 520);
  ASSERT_GE(golden.find("texts")->items.size(), 5U);
  for (const Json& given : golden.find("texts")->items) {
    const std::string text = from_hex(given.find("hex")->text);
    const TokenizedText got = numbered.encode(text);
    EXPECT_EQ(got.ids, ids_of(*given.find("ids"))) << text;
    EXPECT_EQ(numbered.decode(got.ids), text);
    EXPECT_EQ(bare.encode(text).ids, got.ids);
  }
}

TEST(WorldTokenizer, BytesInAreBytesOut) {
  const Tokenizer tokenizer = world("world.txt", {});
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    std::string text(random() % 64, '\0');
    for (char& c : text)
      c = static_cast<char>(round % 2 == 0 ? random() : "a b\xcc\x81\xf0\x9f\x91\n<"[random() % 9]);
    const TokenizedText got = tokenizer.encode(text);
    EXPECT_EQ(tokenizer.decode(got.ids), text);
    std::string joined;
    for (std::size_t i = 0; i < got.ids.size(); ++i) {
      joined += tokenizer.token_bytes(got.ids[i]);
      EXPECT_LE(got.offsets[i].first, got.offsets[i].second);
    }
    EXPECT_EQ(joined, text);
    EXPECT_EQ(got.offsets.empty() ? 0 : got.offsets.back().second, text.size());
  }
}

TEST(WorldTokenizer, TokenZeroEndsTexts) {
  const auto ids = [](const Tokenizer& tokenizer, const std::string& text) {
    return tokenizer.encode(text).ids;
  };
  const Tokenizer numbered = world("world.txt", {}), bare = world("world_bare.txt", {});
  EXPECT_THAT(ids(numbered, "a<|endoftext|>b"), ElementsAre(98, 0, 99));
  EXPECT_THAT(ids(bare, "a<s>b"), ElementsAre(98, 0, 99));
  EXPECT_THAT(bare.special_ids(), ElementsAre(0));
  EXPECT_EQ(bare.piece(0), "<s>");
  const std::vector<std::int32_t> some = {98, 0, 99};
  EXPECT_EQ(bare.decode(some), "ab");
  EXPECT_EQ(bare.decode(some, false), "a<s>b");
  const Tokenizer begun = world("world_bare.txt", {.end = "<end>", .begins = true});
  EXPECT_THAT(ids(begun, "a<end>"), ElementsAre(0, 98, 0));
  EXPECT_THAT(ids(begun, ""), ElementsAre(0));
  EXPECT_THAT(begun.encode("a", false).ids, ElementsAre(98));
  // Pieces in letters, as those of other byte-level vocabularies.
  EXPECT_EQ(numbered.piece(33), "\xc4\xa0");
  EXPECT_EQ(numbered.id("\xc4\xa0"), 33);
  EXPECT_THROW(numbered.piece(520), std::invalid_argument);
}

TEST(PythonLiterals, AsReprWritesThem) {
  const std::pair<std::string, std::string> good[] = {
      {"''", ""},
      {"'a b'", "a b"},
      {R"("it's")", "it's"},
      {R"('\'"')", "'\""},
      {R"("\'\"")", "'\""},
      {R"('\\\n\r\t')", "\\\n\r\t"},
      {R"('\x00\x7f')", std::string("\0\x7f", 2)},
      {R"('\xe9')", "\xc3\xa9"},
      {R"(b'\xe9')", "\xe9"},
      {R"(b"'\x00'")", std::string("'\0'", 3)},
      {R"('\u2028\u3000')", "\xe2\x80\xa8\xe3\x80\x80"},
      {R"('\U0001F600\U0010ffff')", "\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf"},
      {"'\xe6\xbc\xa2'", "\xe6\xbc\xa2"},
      {R"(b'')", ""},
  };
  for (const auto& [literal, bytes] : good) EXPECT_EQ(parse_python_literal(literal), bytes);
  const std::pair<std::string, std::string> hostile[] = {
      {"", "has no quote in front"},
      {"b", "has no quote in front"},
      {"a", "has no quote in front"},
      {"B'a'", "has no quote in front"},
      {"u'a'", "has no quote in front"},
      {"rb'a'", "has no quote in front"},
      {"'", "has no quote at its end"},
      {"b'", "has no quote at its end"},
      {"'a", "has no quote at its end"},
      {"'a\"", "has no quote at its end"},
      {"'a'b", "has no quote at its end"},
      {"'a' ", "has no quote at its end"},
      {"'a'b'", "has a quote before its end"},
      {"''''", "has a quote before its end"},
      {"'a' 'b'", "has a quote before its end"},
      {R"('\')", "ends within an escape"},
      {R"('a\\\')", "ends within an escape"},
      {R"('\a')", "has an escape that is not known"},
      {R"('\0')", "has an escape that is not known"},
      {R"('\N{DIGIT ONE}')", "has an escape that is not known"},
      {R"(b'\u0041')", "has an escape that is not known"},
      {R"(b'\U00000041')", "has an escape that is not known"},
      {R"('\x4')", "without its 2 hexadecimal digits"},
      {R"('\x4g')", "without its 2 hexadecimal digits"},
      {R"('\x')", "without its 2 hexadecimal digits"},
      {R"('\x-1')", "without its 2 hexadecimal digits"},
      {R"('\x+1')", "without its 2 hexadecimal digits"},
      {R"('\x 1')", "without its 2 hexadecimal digits"},
      {R"('\u123')", "without its 4 hexadecimal digits"},
      {R"('\u0x12')", "without its 4 hexadecimal digits"},
      {R"('\U0001F60')", "without its 8 hexadecimal digits"},
      {R"('\ud800')", "has an escape of what is no character"},
      {R"('\U00110000')", "has an escape of what is no character"},
      {R"('\Uffffffff')", "has an escape of what is no character"},
      {"'\t'", "has a control character that is not escaped"},
      {std::string("'\0'", 3), "has a control character that is not escaped"},
      {"'\x7f'", "has a control character that is not escaped"},
      {"b'\xc3\xa9'", "has a byte outside ASCII that is not escaped"},
      {"'\xc3'", "is not UTF-8"},
      {"b'\xff'", "is not UTF-8"},
      {"'\xed\xa0\x80'", "is not UTF-8"},
  };
  for (const auto& [literal, wanted] : hostile) {
    const std::string text = literal;
    EXPECT_THAT(message_of<Error>([&] { parse_python_literal(text); }), HasSubstr(wanted)) << text;
  }
}

TEST(WorldVocabulary, HostileFiles) {
  const std::string long_piece(1025, 'x');
  const std::pair<std::string, std::string> hostile[] = {
      {"1 'a' 1\n\n2 'b' 1\n", "v.txt: line 2: is no id, literal and length"},
      {"1 'a' 1\n2\n", "v.txt: line 2: is no id, literal and length"},
      {"1 'a'", "v.txt: line 1: is no id, literal and length"},
      {"1 'a' 2", "v.txt: line 1: has 1 bytes, not 2"},
      {"1 '\\xe9' 1", "v.txt: line 1: has 2 bytes, not 1"},
      {"1 b'\\xe9' 2", "v.txt: line 1: has 1 bytes, not 2"},
      {"1 'a' 18446744073709551615", "v.txt: line 1: has no length at its end"},
      {"1 'a' -1", "v.txt: line 1: has no length at its end"},
      {"1 'a' 1 ", "v.txt: line 1: has no length at its end"},
      {"1 'a' 1x", "v.txt: line 1: has no length at its end"},
      {"1 '' 0", "v.txt: line 1: has an empty piece"},
      {"1  'a' 1", "v.txt: line 1: has no quote in front"},
      {"1 'a'  1", "v.txt: line 1: has no quote at its end"},
      {"1 a 1", "v.txt: line 1: has no quote in front"},
      {"1 'a' 1\n 2 'b' 1", "v.txt: line 2: has no id in front"},
      {"1 'a' 1\nb'b'", "v.txt: line 2: is no id, literal and length"},
      {"1 'a' 1\n-2 'b' 1", "v.txt: line 2: has no id in front"},
      {"1 'a' 1\n0x2 'b' 1", "v.txt: line 2: has no id in front"},
      {"1048576 'a' 1", "v.txt: line 1: has id 1048576, must be below 1048576"},
      {"18446744073709551616 'a' 1", "v.txt: line 1: has no id in front"},
      {"1 '" + long_piece + "' 1025", "v.txt: line 1: has a piece of more than 1024 bytes"},
      {"b'<s>'\nb''\n", "v.txt: line 2: has an empty piece"},
      {"b'<s>'\n\nb'a'", "v.txt: line 2: has no quote in front"},
      {"b'<s>'\n1 'a' 1", "v.txt: line 2: has no quote in front"},
      {"\xef\xbb\xbf'a'", "v.txt: line 1: has no quote in front"},
      {"[PAD]\n[UNK]\n", "v.txt: line 1: has no quote in front"},
  };
  for (const auto& [text, wanted] : hostile) {
    const std::string file = text;
    EXPECT_EQ(message_of<Error>([&] { parse_world_vocabulary(file, "v.txt"); }), wanted);
  }
  EXPECT_TRUE(parse_world_vocabulary("", "v.txt").empty());
  // Lines of Windows, and none behind the last.
  EXPECT_EQ(parse_world_vocabulary("7 'a' 1\r\n8 'b' 1\r\n", "v.txt").at(1).id, 8);
  EXPECT_EQ(parse_world_vocabulary("b'<s>'\nb'\\n'", "v.txt").at(1).bytes, "\n");
}

TEST(WorldVocabulary, PiecesThatDoNotFitTogether) {
  const std::vector<WorldPiece> bytes =
      parse_world_vocabulary(slurp(kData + "world.txt"), "world.txt");
  const auto message = [&](const WorldPiece& more, const WorldOptions& options = {}) {
    std::vector<WorldPiece> pieces = bytes;
    pieces.push_back(more);
    return message_of<Error>([&] { make_world_tokenizer(pieces, options, "v.txt"); });
  };
  EXPECT_EQ(message({600, "\xff\xff"}), "");
  EXPECT_THAT(message({600, "a"}), HasSubstr("v.txt: \"a\" has two ids, 98 and 600"));
  EXPECT_THAT(message({98, "zz"}), HasSubstr("have the same id, 98"));
  EXPECT_THAT(message({600, "<end>"}, {.end = "<end>"}), HasSubstr("two ids, 600 and 0"));
  EXPECT_EQ(message({0, "<end>"}), "");
  EXPECT_EQ(message({0, "<\xc4\x93>"}), "v.txt: token 0, the end of a text, is not ASCII");
  EXPECT_EQ(message({600, "zz"}, {.end = "\xe2\x9c\xbf"}),
            "v.txt: token 0, the end of a text, is not ASCII");
  EXPECT_THAT(message_of<Error>([&] {
                make_world_tokenizer({bytes.begin() + 1, bytes.end()}, {}, "v.txt");
              }),
              HasSubstr("v.txt: has no piece for byte 0"));
  EXPECT_THAT(message_of<Error>([] { make_world_tokenizer({}, {}, "v.txt"); }),
              HasSubstr("v.txt: has no piece for byte 0"));
}

TEST(WorldOptions, OfATokenizerConfig) {
  const auto read = [](const char* json) { return parse_world_options(json, "t.json"); };
  EXPECT_FALSE(read("{}").begins);
  EXPECT_FALSE(read("{}").end);
  const WorldOptions early =
      read(R"({"tokenizer_class":"Rwkv5Tokenizer","bos_token":"<s>","model_max_length":1e30,)"
           R"("added_tokens_decoder":{"0":{"content":"<s>","special":true}}})");
  EXPECT_TRUE(early.begins);
  EXPECT_EQ(early.end, "<s>");
  EXPECT_FALSE(read(R"({"tokenizer_class":"Rwkv6Tokenizer"})").begins);
  EXPECT_TRUE(read(R"({"tokenizer_class":"RwkvTokenizer","add_bos_token":true})").begins);
  EXPECT_EQ(read(R"({"bos_token":{"content":"<e>"}})").end, "<e>");
  const std::pair<const char*, const char*> hostile[] = {
      {R"({"tokenizer_class":"GPT2Tokenizer"})", "\"GPT2Tokenizer\" is not known"},
      {R"({"add_prefix_space":true})", "add_prefix_space is true, which is not known"},
      {R"({"add_eos_token":true})", "add_eos_token is true, which is not known"},
      {R"({"added_tokens_decoder":{"0":{"content":"<s>"},"65530":{"content":"\n\n"}}})",
       "added_tokens_decoder has token 65530, only 0 is known"},
      {R"({"bos_token":""})", "bos_token is no text"},
      {R"({"bos_token":7})", "bos_token is no text"},
      {"[]", "t.json"},
      {"{", "t.json"},
  };
  for (const auto& [json, wanted] : hostile) {
    const char* const text = json;
    EXPECT_THAT(message_of<Error>([&] { read(text); }), HasSubstr(wanted)) << json;
  }
}

// A folder as the Hub has them: the model's vocabulary is larger than the tokenizer's.
class WorldFolder : public testing::Test {
 protected:
  WorldFolder() {
    const Json given = *read_golden("rwkv5.json").find("cases")->find("rwkv5");
    TensorShapes shapes = shapes_of(*given.find("tensors"));
    for (const char* const name : {"rwkv.embeddings.weight", "head.weight"}) shapes[name][0] = 600;
    std::string config = config_of(given);
    config.replace(config.find("\"vocab_size\":101"), 16, "\"vocab_size\":600");
    folder_.write("config.json", config);
    folder_.write("model.safetensors", made_weights(shapes));
  }
  TestFolder folder_;
};

TEST_F(WorldFolder, IsALanguageModel) {
  folder_.write("rwkv_vocab_v20230424.txt", slurp(kData + "world.txt"));
  folder_.write("vocab.txt", "not read");
  const LanguageModel model = LanguageModel::load(folder_.path());
  const std::string text = "the of \xf0\x9f\x91";
  const auto ids = model.encode(text);
  EXPECT_EQ(ids, world("world.txt", {}).encode(text).ids);
  EXPECT_EQ(model.decode(ids), text);
  GenerationOptions options;
  options.max_tokens = 8;
  EXPECT_EQ(model.generate(ids, options).ids.size(), 8U);
  // Ids that the tokenizer does not have stand for nothing.
  options.max_tokens = 64;
  options.sampler.temperature = 1;
  const Generation drawn = model.generate(ids, options);
  EXPECT_GE(*std::max_element(drawn.ids.begin(), drawn.ids.end()), 520);
  EXPECT_EQ(model.score(ids, {}).losses.size(), ids.size() - 1);
  const std::string texts[] = {"the", "of"};
  EXPECT_EQ(model.embed(texts).at(1).size(), 60U);
}

TEST_F(WorldFolder, WhichOfItsFilesCounts) {
  const auto ids = [&] { return read_folder_tokenizer(folder_.path(), "rwkv5")->encode("a").ids; };
  EXPECT_FALSE(read_folder_tokenizer(folder_.path(), "rwkv5"));
  EXPECT_THAT(message_of<Error>([&] { LanguageModel::load(folder_.path()); }),
              HasSubstr("tokenizer.json: is missing"));
  folder_.write("vocab.txt", slurp(kData + "world_bare.txt"));
  EXPECT_THAT(ids(), ElementsAre(98));
  folder_.write("tokenizer_config.json", R"({"tokenizer_class":"Rwkv5Tokenizer"})");
  EXPECT_THAT(ids(), ElementsAre(0, 98));
  EXPECT_TRUE(read_folder_tokenizer(folder_.path(), "rwkv"));
  EXPECT_FALSE(read_folder_tokenizer(folder_.path(), "gpt2"));
  folder_.write("tokenizer.json", slurp(kData + "gpt2.json"));
  EXPECT_EQ(ids(), Tokenizer::from_json(slurp(kData + "gpt2.json"), "x").encode("a").ids);
}

}  // namespace
}  // namespace attn
