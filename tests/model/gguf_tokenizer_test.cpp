// Tokenizers of GGUF files: the ids of Hugging Face's on the same vocabulary, and files that are
// wrong, each in one way.
#include "model/gguf_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "attn/error.h"
#include "folder.h"
#include "gguf_file.h"
#include "model/byte_level.h"
#include "model/json.h"
#include "model/sha256.h"

namespace attn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kData = std::string(ATTN_TEST_DATA) + "/tokenizers/";

// tokenizer.ggml.*
std::string key(const std::string& name) { return "tokenizer.ggml." + name; }

// Arrays of a vocabulary, and other pairs as the file has them.
struct TokenizerFile {
  std::string model = "llama";
  std::vector<std::string> tokens = {};
  std::vector<float> scores = {};
  std::vector<std::int32_t> types = {};
  std::vector<std::string> merges = {};
  std::map<std::string, std::string> others = {};  // by name: type and value

  std::string bytes() const {
    const auto texts = [](const std::vector<std::string>& list) {
      std::string all;
      for (const std::string& text : list) all += gguf_text(text);
      return gguf_array(8, list.size(), all);
    };
    std::string numbers, kinds;
    for (const float score : scores) numbers += raw(score);
    for (const std::int32_t type : types) kinds += raw(type);
    GgufFile file;
    file.pairs = {gguf_pair(key("model"), 8, gguf_text(model)),
                  gguf_pair(key("tokens"), 9, texts(tokens)),
                  gguf_pair(key("token_type"), 9, gguf_array(5, types.size(), kinds))};
    if (!scores.empty())
      file.pairs.push_back(gguf_pair(key("scores"), 9, gguf_array(6, scores.size(), numbers)));
    if (!merges.empty()) file.pairs.push_back(gguf_pair(key("merges"), 9, texts(merges)));
    for (const auto& [name, value] : others) file.pairs.push_back(gguf_text(key(name)) + value);
    return file.bytes();
  }
};

std::string number(std::uint32_t value) { return u32(4) + u32(value); }
std::string boolean(bool value) { return u32(7) + std::string(1, value ? '\1' : '\0'); }
std::string text(const std::string& value) { return u32(8) + gguf_text(value); }

// A file's tokenizer; the file lives as long.
struct Read {
  explicit Read(const TokenizerFile& from)
      : file(from.bytes()),
        gguf(std::as_bytes(std::span(file.data(), file.size())), "x.gguf"),
        tokenizer(read_gguf_tokenizer(gguf)) {}

  std::string file;
  Gguf gguf;
  Tokenizer tokenizer;
};

// LLaMA 2's small test tokenizer as a converter writes it: a piece's score falls with its id, which
// is the order in which pieces were learnt.
TokenizerFile llama2() {
  const Json tree = Json::parse(slurp(kData + "llama2.json"), "llama2.json");
  const Json& vocabulary = *tree.find("model")->find("vocab");
  TokenizerFile file;
  file.tokens.resize(vocabulary.names.size());
  for (std::size_t i = 0; i < vocabulary.names.size(); ++i)
    file.tokens[static_cast<std::size_t>(vocabulary.items[i].integer)] = vocabulary.names[i];
  for (std::size_t id = 0; id < file.tokens.size(); ++id) {
    file.scores.push_back(-static_cast<float>(id));
    file.types.push_back(id == 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1);
  }
  file.others = {{"bos_token_id", number(1)}, {"eos_token_id", number(2)}};
  return file;
}

TEST(GgufTokenizer, SentencePieceCutsAsHuggingFace) {
  const Tokenizer published = Tokenizer::from_json(slurp(kData + "llama2.json"), "llama2.json");
  const Read read(llama2());
  for (const std::string& text :
       {slurp(kData + "torture.txt"), std::string(), std::string(" "), std::string("  two  "),
        std::string("</s>x <s> y"), std::string("\xff\xfe caf\xc3 \xe2\x96\x81 a"),
        std::string("a\0b", 3)}) {
    const TokenizedText expected = published.encode(text), got = read.tokenizer.encode(text);
    EXPECT_EQ(got.ids, expected.ids);
    EXPECT_EQ(got.offsets, expected.offsets);
    EXPECT_EQ(got.special, expected.special);
    EXPECT_EQ(read.tokenizer.decode(got.ids), published.decode(expected.ids));
  }
  EXPECT_EQ(read.tokenizer.special_ids(), published.special_ids());
  EXPECT_THAT(gguf_end_tokens(read.gguf), ElementsAre(2));
}

TEST(GgufTokenizer, BytesInAreBytesOut) {
  const Read read(llama2());
  for (const std::string& bytes :
       {std::string("\xf0\x9f\x98"), std::string("\x80x\xff"), std::string(" \xe6\xbc\xa2\n\0", 6),
        slurp(kData + "torture.txt").substr(0, 1150)}) {
    EXPECT_EQ(read.tokenizer.decode(read.tokenizer.encode(bytes).ids), bytes);
  }
  // Within a text the space in front stays, and a byte is a byte.
  EXPECT_EQ(read.tokenizer.token_bytes(3 + 0xE6), "\xE6");
}

TEST(GgufTokenizer, SaysWhatStandsAroundTexts) {
  TokenizerFile file = llama2();
  const auto ids = [&] { return Read(file).tokenizer.encode("a").ids; };
  const std::vector<std::int32_t> usual = ids();
  ASSERT_EQ(usual.size(), 2U);
  EXPECT_EQ(usual[0], 1);
  file.others["add_eos_token"] = boolean(true);
  EXPECT_THAT(ids(), ElementsAre(1, usual[1], 2));
  file.others["add_bos_token"] = boolean(false);
  EXPECT_THAT(ids(), ElementsAre(usual[1], 2));
  file.others["add_space_prefix"] = boolean(false);
  const Read bare(file);
  EXPECT_EQ(bare.tokenizer.piece(bare.tokenizer.encode("a", false).ids.at(0)), "a");
  EXPECT_EQ(bare.tokenizer.decode(bare.tokenizer.encode(" a").ids), " a");
  file.others["eot_token_id"] = number(5);
  EXPECT_THAT(gguf_end_tokens(Read(file).gguf), ElementsAre(2, 5));
}

// Pieces of a user are found before the text is cut; they are no special tokens.
TEST(GgufTokenizer, FindsPiecesOfAUser) {
  TokenizerFile file = llama2();
  file.tokens.push_back("<tag>");
  file.scores.push_back(0);
  file.types.push_back(4);
  const Read read(file);
  const auto id = static_cast<std::int32_t>(file.tokens.size() - 1);
  const std::vector<std::int32_t> ids = read.tokenizer.encode("a<tag>", false).ids;
  EXPECT_EQ(ids.back(), id);
  EXPECT_FALSE(read.tokenizer.is_special(id));
  EXPECT_EQ(read.tokenizer.decode(ids), "a<tag>");
}

// Equal scores: the leftmost pair first, as the library has it.
TEST(GgufTokenizer, BreaksTiesFromTheLeft) {
  TokenizerFile file;
  file.tokens = {"<unk>", "a", "b", "ab", "ba", "aba"};
  file.scores = {0, 0, 0, -1, -1, -2};
  file.types = {3, 1, 1, 1, 1, 1};
  file.others = {{"unknown_token_id", number(0)},
                 {"add_space_prefix", boolean(false)},
                 {"add_bos_token", boolean(false)}};
  EXPECT_THAT(Read(file).tokenizer.encode("abab").ids, ElementsAre(3, 3));
  EXPECT_THAT(Read(file).tokenizer.encode("bab").ids, ElementsAre(4, 2));
  EXPECT_THAT(Read(file).tokenizer.encode("abc").ids, ElementsAre(3, 0));
}

// Every pattern against Hugging Face's tokenizers, on one vocabulary.
TEST(GgufTokenizer, PatternsCutAsHuggingFace) {
  const std::string path = kData + "pre_patterns.json";
  const Json golden = Json::parse(slurp(path), path);
  const Json tree = Json::parse(slurp(kData + "gpt2.json"), "gpt2.json");
  const Json& vocabulary = *tree.find("model")->find("vocab");
  TokenizerFile file;
  file.model = "gpt2";
  file.tokens.resize(vocabulary.names.size());
  for (std::size_t i = 0; i < vocabulary.names.size(); ++i)
    file.tokens[static_cast<std::size_t>(vocabulary.items[i].integer)] = vocabulary.names[i];
  file.types.assign(file.tokens.size(), 1);
  file.types[0] = 3;
  for (const Json& merge : tree.find("model")->find("merges")->items)
    file.merges.push_back(merge.text);
  file.others["add_bos_token"] = boolean(false);
  for (std::size_t i = 0; i < golden.names.size(); ++i) {
    file.others["pre"] = text(golden.names[i]);
    const TokenizedText got = Read(file).tokenizer.encode(slurp(kData + "torture.txt"));
    const Json& expected = golden.items[i];
    const auto digest = [](const auto& list) { return sha256(std::as_bytes(std::span(list))); };
    EXPECT_EQ(static_cast<std::int64_t>(got.ids.size()), expected.find("count")->integer)
        << golden.names[i];
    EXPECT_EQ(digest(got.ids), expected.find("ids")->text) << golden.names[i];
    EXPECT_EQ(digest(got.words), expected.find("words")->text) << golden.names[i];
  }
}

TEST(GgufTokenizer, RefusesWrongFilesAndSaysWhy) {
  const auto message = [](const TokenizerFile& file) {
    return message_of<Error>([&] { Read read(file); });
  };
  const auto changed = [&](const auto& change) {
    TokenizerFile file = llama2();
    change(file);
    return message(file);
  };
  using File = TokenizerFile;
  const std::vector<std::pair<std::string, std::string>> table = {
      {changed([](File& f) { f.model = "rwkv"; }),
       "x.gguf: key tokenizer.ggml.model: \"rwkv\" is not known (gpt2"},
      {changed([](File& f) { f.scores.clear(); }), "key tokenizer.ggml.scores: is missing"},
      {changed([](File& f) { f.scores.pop_back(); }), "scores: has 899 scores for 900 tokens"},
      {changed([](File& f) { f.types.pop_back(); }), "token_type: has 899 types for 900 tokens"},
      {changed([](File& f) { f.types[7] = 0; }), "token_type: holds 0"},
      {changed([](File& f) { f.types[7] = 7; }), "token_type: holds 7"},
      {changed([](File& f) { f.scores[9] = NAN; }), "x.gguf: piece 9: the score is not finite"},
      {changed([](File& f) { f.tokens[9].clear(); }),
       "piece 9: the piece must be UTF-8, not empty"},
      {changed([](File& f) { f.tokens[9] = "\xff"; }), "piece 9: the piece must be UTF-8"},
      {changed([](File& f) { f.tokens[9] = f.tokens[8]; }), "has the piece \"<0x05>\" twice"},
      {changed([](File& f) { f.types[9] = 1; }), "SentencePiece refuses it"},
      {changed([](File& f) { f.types[5] = 2; }), "has 2 pieces of type UNKNOWN"},
      {changed([](File& f) { f.types[0] = 3; }), "key tokenizer.ggml.unknown_token_id: is missing"},
      {changed([](File& f) { f.others.erase("bos_token_id"); }), "bos_token_id: is missing"},
      {changed([](File& f) { f.others["bos_token_id"] = number(900); }),
       "bos_token_id: is 900, the tokens are [0, 900)"},
      {changed([](File& f) { f.others["bos_token_id"] = text("<s>"); }), "must be a whole number"},
      {changed([](File& f) { f.others["add_bos_token"] = number(1); }), "must be a boolean"},
      {changed([](File& f) { f.model = "gpt2"; }), "key tokenizer.ggml.merges: is missing"},
  };
  for (const auto& [got, expected] : table) EXPECT_THAT(got, HasSubstr(expected));
  TokenizerFile bytes;
  bytes.model = "gpt2";
  bytes.tokens = {"a", "b", "ab"};
  bytes.types = {1, 1, 1};
  bytes.merges = {"a b"};
  EXPECT_THAT(message(bytes), HasSubstr("key tokenizer.ggml.pre: is missing"));
  bytes.others["pre"] = text("default");
  EXPECT_THAT(message(bytes), HasSubstr("x.gguf: pre-tokenizer \"default\" is not known (gpt-2, "));
  bytes.others["pre"] = text("llama-bpe");
  EXPECT_THAT(message(bytes), HasSubstr("bos_token_id: is missing"));
  bytes.others["pre"] = text("gpt-2");
  EXPECT_EQ(message(bytes), "");
  bytes.types[1] = 6;
  EXPECT_THAT(message(bytes), HasSubstr("token 1 has type 6, which a byte-level tokenizer"));
}

}  // namespace
}  // namespace attn
