// Ids and offsets against Hugging Face's `tokenizers` (tools/golden_tokenizers.py), exactly.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "folder.h"
#include "model/byte_level.h"
#include "model/json.h"
#include "model/sha256.h"
#include "model/tokenizer.h"

namespace attn {
namespace {

const std::string kData = std::string(ATTN_TEST_DATA) + "/tokenizers/";

const Json& golden() {
  static const Json kGolden = Json::parse(slurp(kData + "golden.json"), "golden.json");
  return kGolden;
}

Tokenizer load(const std::string& name) {
  return Tokenizer::from_json(slurp(kData + name + ".json"), name + ".json");
}

std::vector<std::int32_t> integers(const Json& array) {
  std::vector<std::int32_t> out;
  for (const Json& item : array.items) out.push_back(static_cast<std::int32_t>(item.integer));
  return out;
}

std::vector<std::int32_t> flat(const TokenizedText& text) {
  std::vector<std::int32_t> out;
  for (const auto& [begin, end] : text.offsets) {
    out.push_back(static_cast<std::int32_t>(begin));
    out.push_back(static_cast<std::int32_t>(end));
  }
  return out;
}

std::string digest(const std::vector<std::int32_t>& numbers) {
  return sha256(std::as_bytes(std::span(numbers)));
}

class GoldenTokenizer : public testing::TestWithParam<std::string> {
 protected:
  const Json& entry() const { return *golden().find("tokenizers")->find(GetParam()); }
};

TEST_P(GoldenTokenizer, TortureText) {
  const Tokenizer tokenizer = load(GetParam());
  const std::string text = slurp(kData + "torture.txt");
  const TokenizedText encoded = tokenizer.encode(text);
  const std::vector<std::int32_t> ids = integers(*entry().find("ids"));
  const std::vector<std::int32_t> offsets = integers(*entry().find("offsets"));
  const std::vector<std::int32_t> got = flat(encoded);
  for (std::size_t i = 0; i < std::min(ids.size(), encoded.ids.size()); ++i) {
    ASSERT_EQ(encoded.ids[i], ids[i])
        << "token " << i << " \"" << tokenizer.piece(ids[i]) << "\" at byte " << offsets[2 * i];
    ASSERT_EQ(got[2 * i], offsets[2 * i]) << "token " << i << " " << tokenizer.piece(ids[i]);
    ASSERT_EQ(got[2 * i + 1], offsets[2 * i + 1])
        << "token " << i << " " << tokenizer.piece(ids[i]);
  }
  EXPECT_EQ(encoded.ids, ids);
  std::vector<std::int32_t> special;
  for (const bool s : encoded.special) special.push_back(s ? 1 : 0);
  EXPECT_EQ(special, integers(*entry().find("special")));
  EXPECT_EQ(tokenizer.decode(ids), entry().find("decoded")->text);
}

TEST_P(GoldenTokenizer, TwoTexts) {
  const TokenizedText pair = load(GetParam()).encode_pair("One two.", "Three");
  EXPECT_EQ(pair.ids, integers(*entry().find("pair")->find("ids")));
  EXPECT_EQ(pair.type_ids, integers(*entry().find("pair")->find("types")));
}

TEST_P(GoldenTokenizer, LongTexts) {
  const Tokenizer tokenizer = load(GetParam());
  const Json& texts = *entry().find("texts");
  for (std::size_t i = 0; i < texts.names.size(); ++i) {
    const std::string path = std::string(ATTN_ASSETS) + "/text/" + texts.names[i];
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path;
    const TokenizedText encoded = tokenizer.encode(slurp(path));
    EXPECT_EQ(static_cast<std::int64_t>(encoded.ids.size()), texts.items[i].find("count")->integer);
    EXPECT_EQ(digest(encoded.ids), texts.items[i].find("ids")->text) << texts.names[i];
    EXPECT_EQ(digest(flat(encoded)), texts.items[i].find("offsets")->text) << texts.names[i];
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTokenizer,
                         testing::Values("gpt2", "roberta", "llama3", "qwen2", "smollm2", "llama2",
                                         "wordpiece", "unigram", "unigram_bytes"),
                         [](const auto& test) { return test.param; });

// The same tokenizers from a GGUF file's arrays.
TEST(Golden, ByteLevelArrays) {
  const std::pair<const char*, const char*> names[] = {
      {"gpt2", "gpt-2"}, {"llama3", "llama-bpe"}, {"qwen2", "qwen2"}, {"smollm2", "smollm"}};
  for (const auto& [name, pre] : names) {
    SCOPED_TRACE(name);
    const Tokenizer published = load(name);
    const Json tree = Json::parse(slurp(kData + name + ".json"), name);
    ByteLevelArrays arrays;
    arrays.pre = pre;
    for (std::int32_t id = 0; id < published.size(); ++id) {
      arrays.tokens.push_back(published.piece(id));
      arrays.types.push_back(published.is_special(id) ? 3 : 1);
    }
    for (const Json& token : tree.find("added_tokens")->items) {
      if (!token.find("special")->boolean) {
        arrays.types[static_cast<std::size_t>(token.find("id")->integer)] = 4;
      }
    }
    for (const Json& merge : tree.find("model")->find("merges")->items) {
      arrays.merges.push_back(
          merge.items.empty() ? merge.text : merge.items[0].text + " " + merge.items[1].text);
    }
    if (std::string(name) == "llama3") arrays.begin = published.id("<|begin_of_text|>");
    const Tokenizer made = make_byte_level_tokenizer(arrays, "arrays");
    const std::string text = slurp(kData + "torture.txt");
    const TokenizedText expected = published.encode(text), encoded = made.encode(text);
    EXPECT_EQ(encoded.ids, expected.ids);
    EXPECT_EQ(encoded.special, expected.special);
    EXPECT_EQ(made.special_ids(), published.special_ids());
    EXPECT_EQ(made.decode(encoded.ids, false), published.decode(expected.ids, false));
  }
}

// Parts by themselves: each a tokenizer of its own, on short texts.
TEST(Golden, Parts) {
  for (const Json& item : golden().find("cases")->items) {
    const std::string& model = item.find("model")->text;
    const std::string& head = item.find("head")->text;
    SCOPED_TRACE(head);
    const Tokenizer tokenizer =
        Tokenizer::from_json(head + golden().find("models")->find(model)->text + "}", "part.json");
    for (const Json& result : item.find("results")->items) {
      SCOPED_TRACE("\"" + result.items[0].text + "\"");
      const TokenizedText encoded = tokenizer.encode(result.items[0].text);
      if (result.items.size() > 2) {
        EXPECT_EQ(encoded.ids, integers(result.items[2]));
      }
      EXPECT_EQ(flat(encoded), integers(result.items[1]));
    }
  }
}

}  // namespace
}  // namespace attn
