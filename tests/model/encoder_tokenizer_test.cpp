// Tokenizers of folders: which of their files counts, byte-level BPE from vocab.json and merges.txt
// against Transformers (tools/golden_vocab_files.py), and tokenizer.json against vocab.txt.
#include "model/encoder_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attn/error.h"
#include "folder.h"
#include "golden_models.h"
#include "model/byte_level.h"
#include "model/json.h"

namespace attn {
namespace {

using testing::HasSubstr;

const std::string kData = std::string(ATTN_TEST_DATA) + "/tokenizers/";

Json model_of(const std::string& tokenizer) {
  return *Json::parse(slurp(kData + tokenizer), tokenizer).find("model");
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

// vocab.json and merges.txt of the golden GPT-2, with special tokens behind its pieces.
void write_vocab_files(const TestFolder& folder, const std::vector<std::string>& special) {
  const Json model = model_of("gpt2.json");
  const Json& pieces = *model.find("vocab");
  std::string vocabulary = "{", merges = "#version: 0.2\n";
  for (std::size_t i = 0; i < pieces.names.size(); ++i)
    vocabulary += quoted(pieces.names[i]) + ":" + std::to_string(pieces.items[i].integer) + ",";
  std::size_t next = pieces.names.size();
  for (const std::string& token : special)
    vocabulary += quoted(token) + ":" + std::to_string(next++) + ",";
  vocabulary.back() = '}';
  for (const Json& merge : model.find("merges")->items) merges += merge.text + "\n";
  folder.write("vocab.json", vocabulary);
  folder.write("merges.txt", merges);
}

const std::vector<std::string> kRoberta = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"};

class VocabFiles : public testing::Test {
 protected:
  void expect_same(const Json& wanted, const TokenizedText& got) {
    EXPECT_EQ(got.ids, ids_of(*wanted.find("ids")));
    EXPECT_EQ(got.type_ids, ids_of(*wanted.find("types")));
    EXPECT_EQ(got.words, ids_of(*wanted.find("words")));
    std::vector<std::int32_t> offsets;
    for (const auto& offset : got.offsets) {
      offsets.push_back(static_cast<std::int32_t>(offset.first));
      offsets.push_back(static_cast<std::int32_t>(offset.second));
    }
    EXPECT_EQ(offsets, ids_of(*wanted.find("offsets")));
  }
  std::string first(const Json& wanted) const {
    const Json& text = *wanted.find("first");
    return text.is(Json::Kind::null) ? slurp(kData + "torture.txt") : text.text;
  }
  std::optional<std::string_view> second(const Json& wanted) const {
    const Json& text = *wanted.find("second");
    return text.is(Json::Kind::null) ? std::nullopt : std::optional<std::string_view>(text.text);
  }

  TestFolder folder_;
  Json golden_ = Json::parse(slurp(kData + "vocab_files.json"), "vocab_files.json");
};

TEST_F(VocabFiles, Gpt2AsTransformersHasIt) {
  write_vocab_files(folder_, {});
  const auto tokenizer = read_folder_tokenizer(folder_.path(), "gpt2");
  ASSERT_TRUE(tokenizer);
  for (const Json& wanted : golden_.find("gpt2")->items) {
    SCOPED_TRACE(first(wanted));
    expect_same(wanted, tokenizer->encode(first(wanted)));
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(first(wanted)).ids, false), first(wanted));
  }
  EXPECT_TRUE(tokenizer->is_special(0));
}

TEST_F(VocabFiles, RobertaAsTransformersHasIt) {
  write_vocab_files(folder_, kRoberta);
  const auto tokenizer = read_folder_tokenizer(folder_.path(), "roberta");
  ASSERT_TRUE(tokenizer);
  for (const Json& wanted : golden_.find("roberta")->items) {
    SCOPED_TRACE(first(wanted));
    const auto pair = second(wanted);
    expect_same(wanted, pair ? tokenizer->encode_pair(first(wanted), *pair)
                             : tokenizer->encode(first(wanted)));
  }
  for (const Json& wanted : golden_.find("roberta_within_9")->items) {
    SCOPED_TRACE(first(wanted));
    expect_same(wanted, tokenizer->encode_within(9, first(wanted), second(wanted)));
  }
  EXPECT_NO_THROW(tokenizer->encode_within(4, "a", "b"));
  EXPECT_THROW(tokenizer->encode_within(3, "a", "b"), std::invalid_argument);
}

TEST_F(VocabFiles, SayWhatIsWrongWithThem) {
  const auto message = [&](const std::string& family) {
    return message_of<Error>([&] { read_folder_tokenizer(folder_.path(), family); });
  };
  EXPECT_FALSE(read_folder_tokenizer(folder_.path(), "gpt2"));
  write_vocab_files(folder_, {});
  EXPECT_FALSE(read_folder_tokenizer(folder_.path(), "bert"));
  EXPECT_THAT(message("roberta"), HasSubstr("vocab.json: has no <s>"));
  folder_.write("tokenizer_config.json", R"({"add_prefix_space":true})");
  EXPECT_THAT(message("gpt2"), HasSubstr("add_prefix_space is true, which is not known"));
  folder_.write("tokenizer_config.json", R"({"bos_token":{"content":"<begin>"}})");
  EXPECT_THAT(message("gpt2"), HasSubstr("bos_token \"<begin>\" is not known"));
  folder_.write("tokenizer_config.json", R"({"bos_token":"<|endoftext|>"})");
  EXPECT_EQ(message("gpt2"), "");
  std::filesystem::remove(folder_.file("merges.txt"));
  EXPECT_THAT(message("gpt2"), HasSubstr("merges.txt: cannot be opened"));
}

// Files that are wrong, each in one way. Where `message` is empty they are taken.
struct HostileVocabFiles {
  const char *vocabulary, *merges, *config, *message;
};

const HostileVocabFiles kHostile[] = {
    {"", "", "{}", "/vocab.json: "},
    {"{", "", "{}", "/vocab.json: "},
    {"[]", "", "{}", "/vocab.json is an array, must be an object"},
    {"7", "", "{}", "/vocab.json is a number, must be an object"},
    {"{}", "", "{}", "/vocab.json: has no <|endoftext|>"},
    {R"({"<|endoftext|>":"0"})", "", "{}", "the id of \"<|endoftext|>\" is a string"},
    {R"({"<|endoftext|>":0.5})", "", "{}", "the id of \"<|endoftext|>\" is a number"},
    {R"({"<|endoftext|>":-1})", "", "{}", "has id -1, must be in [0, 4194304)"},
    {R"({"<|endoftext|>":4194304})", "", "{}", "has id 4194304, must be in [0, 4194304)"},
    {R"({"<|endoftext|>":18446744073709551616})", "", "{}", "is a number, must be an integer"},
    {R"({"<|endoftext|>":0,"a":0})", "", "{}", "have the same id, 0"},
    {R"({"<|endoftext|>":0,"<|endoftext|>":0})", "", "{}", "/vocab.json: "},
    {"{\"<|endoftext|>\":0,\"\xff\":1}", "", "{}", "/vocab.json: "},
    // Pieces a, b and ab from here on.
    {nullptr, "", "{}", ""},
    {nullptr, "#version: 0.2", "{}", ""},
    {nullptr, "\n\r\n\na b\r\n\na b", "{}", ""},
    {nullptr, "a b\n#version: 0.2\n", "{}",
     "a merge's part \"#version:\" is not in the vocabulary"},
    {nullptr, "ab", "{}", "/merges.txt: merge \"ab\" is not two pieces and a space"},
    {nullptr, "a b ab", "{}", "merge \"a b ab\" is not two pieces"},
    {nullptr, "a  b", "{}", "merge \"a  b\" is not two pieces"},
    {nullptr, " ", "{}", "a merge's part \"\" is not in the vocabulary"},
    {nullptr, "a c", "{}", "a merge's part \"c\" is not in the vocabulary"},
    {nullptr, "b a", "{}", "a merge's result \"ba\" is not in the vocabulary"},
    {nullptr,
     "\xef\xbb\xbf"
     "a b",
     "{}", "is not in the vocabulary"},
    {nullptr, "a \xff", "{}", "is not in the vocabulary"},
    {nullptr, "", "", "/tokenizer_config.json: "},
    {nullptr, "", R"({"unk_token":null,"pad_token":{"content":"<|endoftext|>"}})", ""},
    {nullptr, "", R"({"unk_token":5})", "unk_token \"\" is not known"},
    {nullptr, "", R"({"unk_token":{"content":["a"]}})", "unk_token \"\" is not known"},
    {nullptr, "", R"({"add_prefix_space":1})", "add_prefix_space is a number"},
};

TEST_F(VocabFiles, HostileOnesAreRefused) {
  for (const HostileVocabFiles& hostile : kHostile) {
    const std::string vocabulary = hostile.vocabulary == nullptr
                                       ? R"({"<|endoftext|>":0,"a":1,"b":2,"ab":3})"
                                       : hostile.vocabulary;
    SCOPED_TRACE(vocabulary + " " + hostile.merges + " " + hostile.config);
    folder_.write("vocab.json", vocabulary);
    folder_.write("merges.txt", hostile.merges);
    folder_.write("tokenizer_config.json", hostile.config);
    const std::string message =
        message_of<Error>([&] { read_folder_tokenizer(folder_.path(), "gpt2"); });
    if (*hostile.message == '\0') {
      EXPECT_EQ(message, "");
      EXPECT_EQ(read_folder_tokenizer(folder_.path(), "gpt2")->size(), 4);
    } else {
      EXPECT_THAT(message, HasSubstr(hostile.message));
      EXPECT_THAT(message, testing::StartsWith(folder_.path()));
    }
  }
}

// The same vocabulary in both files, and one tokenizer each.
TEST(EncoderTokenizer, TokenizerJsonIsVocabTxt) {
  const Json model = model_of("wordpiece.json");
  const Json& vocabulary = *model.find("vocab");
  std::vector<std::string> pieces(vocabulary.names.size());
  for (std::size_t i = 0; i < pieces.size(); ++i)
    pieces[static_cast<std::size_t>(vocabulary.items[i].integer)] = vocabulary.names[i];
  std::string lines;
  for (const std::string& piece : pieces) lines += piece + "\n";
  const TestFolder plain, json;
  plain.write("vocab.txt", lines);
  json.write("vocab.txt", "not read");
  json.write("tokenizer.json", slurp(kData + "wordpiece.json"));
  const EncoderTokenizer a(plain.path(), "bert", 1 << 20), b(json.path(), "bert", 1 << 20);
  const std::string texts[] = {"", "The king, unkindly crowned.", "a b c d e f g",
                               slurp(kData + "torture.txt")};
  for (const std::string& first : texts) {
    for (const std::string* second : {static_cast<const std::string*>(nullptr), &texts[1]}) {
      for (const std::int64_t most : {3, 5, 8, 13, 5000}) {
        SCOPED_TRACE(first + " / " + std::to_string(most));
        const auto pair = second != nullptr ? std::optional(*second) : std::nullopt;
        const Encoding x = a.encode(first, pair, most), y = b.encode(first, pair, most);
        EXPECT_EQ(x.ids, y.ids);
        EXPECT_EQ(x.type_ids, y.type_ids);
        EXPECT_EQ(x.offsets, y.offsets);
        EXPECT_EQ(x.truncated, y.truncated);
        ASSERT_EQ(x.tokens.size(), y.tokens.size());
        for (std::size_t i = 0; i < x.tokens.size(); ++i) {
          EXPECT_EQ(x.tokens[i].special, y.tokens[i].special) << i;
          EXPECT_EQ(x.tokens[i].segment, y.tokens[i].segment) << i;
        }
      }
      EXPECT_THROW(b.encode(first, std::string("x"), 2), std::invalid_argument);
    }
  }
  EXPECT_THAT(message_of<Error>([&] { EncoderTokenizer(json.path(), "bert", 7); }),
              HasSubstr("tokens, the model 7"));
  json.write("sentence_bert_config.json", R"({"do_lower_case":true})");
  EXPECT_THAT(message_of<Error>([&] { EncoderTokenizer(json.path(), "bert", 1 << 20); }),
              HasSubstr("do_lower_case is true"));
}

// Words of a pair are counted on, and segments tell its texts apart where type ids do not.
TEST(EncoderTokenizer, CountsWordsOfPairs) {
  const TestFolder folder;
  write_vocab_files(folder, kRoberta);
  const EncoderTokenizer tokenizer(folder.path(), "roberta", 1 << 20);
  const Encoding got = tokenizer.encode("the king", std::string(" the king"), 64);
  std::vector<std::int32_t> words, segments;
  std::string text;
  for (const RecordToken& token : got.tokens) {
    text += token.text + "|";
    words.push_back(token.word);
    segments.push_back(token.segment);
    EXPECT_EQ(token.special, token.word < 0);
  }
  EXPECT_EQ(std::count(got.type_ids.begin(), got.type_ids.end(), 0),
            static_cast<std::ptrdiff_t>(got.ids.size()));
  EXPECT_TRUE(std::is_sorted(segments.begin(), segments.end()));
  EXPECT_EQ(*std::max_element(words.begin(), words.end()), 3);
  EXPECT_THAT(text, HasSubstr("|k|ing|</s>|</s>|the|k|"));
}

}  // namespace
}  // namespace attn
