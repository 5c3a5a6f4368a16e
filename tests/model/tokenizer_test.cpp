// The tokenizer: bytes that are no UTF-8, special tokens, hostile files. Agreement with Hugging
// Face is tokenizer_golden_test.cpp's.
#include "model/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attn/error.h"
#include "folder.h"
#include "model/byte_level.h"
#include "model/pattern.h"

namespace attn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

const std::string kData = std::string(ATTN_TEST_DATA) + "/tokenizers/";

Tokenizer load(const std::string& name) {
  return Tokenizer::from_json(slurp(kData + name + ".json"), name + ".json");
}

// A tokenizer.json with these members and, unless they hold one, a model of three pieces.
std::string file(std::string members) {
  if (members.find("\"model\":") == std::string::npos) {
    members += std::string(members.empty() ? "" : ",") +
               R"("model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]})";
  }
  return R"({"version":"1.0",)" + members + "}";
}

Tokenizer make(const std::string& members) { return Tokenizer::from_json(file(members), "t.json"); }

std::string refused(const std::string& members) {
  return message_of<Error>([&] { make(members); });
}

std::string joined(const Tokenizer& tokenizer, const Ids& ids) {
  std::string bytes;
  for (const std::int32_t id : ids) bytes += tokenizer.token_bytes(id);
  return bytes;
}

std::vector<std::string> hostile_texts() {
  std::vector<std::string> texts = {"",
                                    "\xff",
                                    "\xc3",
                                    "a\xe2\x82 b\xf0\x9f\x98",
                                    "\xed\xb2\x80",
                                    "\xc0\x80",
                                    "\xf5\x80\x80\x80",
                                    std::string(3, '\0'),
                                    "\xef\xbf\xbd"};
  std::string all;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  texts.push_back(all + all);
  std::mt19937 generator(7);
  for (int round = 0; round < 300; ++round) {
    std::string text(generator() % 64, '\0');
    for (char& c : text) {
      c = static_cast<char>(round % 2 == 0 ? generator()
                                           : "a \xcc\x81\n'\xe6\xbc\xff<1"[generator() % 11]);
    }
    texts.push_back(text);
  }
  return texts;
}

TEST(Tokenizer, BytesComeBackThroughTheAlphabet) {
  for (const char* const name : {"gpt2", "llama3", "smollm2"}) {
    SCOPED_TRACE(name);
    const Tokenizer tokenizer = load(name);
    for (const std::string& text : hostile_texts()) {
      const TokenizedText encoded = tokenizer.encode(text, false);
      ASSERT_EQ(tokenizer.decode(encoded.ids), text);
      ASSERT_EQ(joined(tokenizer, encoded.ids), text);
      // Offsets cover the text in order.
      std::size_t covered = 0;
      for (const auto& [begin, end] : encoded.offsets) {
        ASSERT_LE(begin, end);
        ASSERT_LE(begin, covered + (begin == end ? text.size() : 1));
        ASSERT_LE(end, text.size());
        covered = end;
      }
    }
  }
}

TEST(Tokenizer, BytesComeBackThroughBytePieces) {
  const Tokenizer tokenizer = load("llama2");
  for (const std::string& text : hostile_texts()) {
    const TokenizedText encoded = tokenizer.encode(text);
    ASSERT_EQ(tokenizer.decode(encoded.ids), text);
    // Within a text the space that was put in front is one.
    if (!text.empty()) {
      ASSERT_EQ(joined(tokenizer, Ids(encoded.ids.begin() + 1, encoded.ids.end())), " " + text);
    }
  }
  // Each byte by itself, with its own place.
  const TokenizedText encoded = tokenizer.encode("\xff\xfe", false);
  EXPECT_THAT(encoded.ids, ElementsAre(testing::_, tokenizer.id("<0xFF>"), tokenizer.id("<0xFE>")));
  EXPECT_EQ(encoded.offsets[1], std::pair(std::size_t{0}, std::size_t{1}));
  EXPECT_EQ(encoded.offsets[2], std::pair(std::size_t{1}, std::size_t{2}));
}

TEST(Tokenizer, TakesAnyBytes) {
  for (const char* const name : {"roberta", "qwen2", "wordpiece", "unigram", "unigram_bytes"}) {
    SCOPED_TRACE(name);
    const Tokenizer tokenizer = load(name);
    for (const std::string& text : hostile_texts()) {
      const TokenizedText encoded = tokenizer.encode(text);
      ASSERT_EQ(encoded.ids.size(), encoded.offsets.size());
      for (const auto& [begin, end] : encoded.offsets) {
        ASSERT_LE(begin, end);
        ASSERT_LE(end, text.size());
      }
      tokenizer.decode(encoded.ids);
    }
  }
}

TEST(Tokenizer, KnowsItsSpecialTokens) {
  const Tokenizer tokenizer = load("llama3");
  const std::int32_t begin = *tokenizer.id("<|begin_of_text|>");
  EXPECT_THAT(tokenizer.special_ids(), ElementsAre(begin, *tokenizer.id("<|endoftext|>")));
  EXPECT_TRUE(tokenizer.is_special(begin));
  EXPECT_FALSE(tokenizer.is_special(*tokenizer.id("<|x|>")));
  EXPECT_EQ(tokenizer.piece(begin), "<|begin_of_text|>");
  EXPECT_EQ(tokenizer.size(), 703);
  const TokenizedText encoded = tokenizer.encode("<|endoftext|>");
  EXPECT_THAT(encoded.ids, ElementsAre(begin, *tokenizer.id("<|endoftext|>")));
  EXPECT_THAT(encoded.special, ElementsAre(true, false));
  EXPECT_EQ(tokenizer.decode(encoded.ids), "");
  EXPECT_EQ(tokenizer.decode(encoded.ids, false), "<|begin_of_text|><|endoftext|>");
  EXPECT_EQ(tokenizer.encode("", false).ids, Ids());
}

TEST(Tokenizer, RefusesIdsWithoutAPiece) {
  const Tokenizer tokenizer = load("gpt2");
  for (const std::int32_t id : {-1, 1000, INT32_MAX, INT32_MIN}) {
    const Ids ids = {0, id};
    EXPECT_THROW(tokenizer.decode(ids), std::invalid_argument);
    EXPECT_THROW(tokenizer.token_bytes(id), std::invalid_argument);
    EXPECT_THROW(tokenizer.piece(id), std::invalid_argument);
  }
  // Ids may have gaps.
  const Tokenizer gap = make(R"("model":{"type":"BPE","vocab":{"a":0,"b":9},"merges":[]})");
  EXPECT_EQ(gap.size(), 10);
  EXPECT_THROW(gap.piece(5), std::invalid_argument);
}

TEST(Tokenizer, MergesTheEarliestLearntFirst) {
  const Tokenizer tokenizer =
      make(R"("model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"aa":3,"aab":4},)"
           R"("merges":[["a","a"],["a","b"],["aa","b"]]})");
  EXPECT_THAT(tokenizer.encode("aab").ids, ElementsAre(4));
  EXPECT_THAT(tokenizer.encode("aaab").ids, ElementsAre(3, 2));
  // Without an unknown token a character without a piece is left out, as published.
  EXPECT_THAT(tokenizer.encode("axb").ids, ElementsAre(2));
}

TEST(Tokenizer, KnowsModelsThatDoNotSayWhatTheyAre) {
  EXPECT_THAT(make(R"("model":{"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]})").encode("ab").ids,
              ElementsAre(2));
  EXPECT_THAT(make(R"("model":{"vocab":{"?":0,"a":1,"##b":2},"unk_token":"?",)"
                   R"("continuing_subword_prefix":"##","max_input_chars_per_word":9})")
                  .encode("ab")
                  .ids,
              ElementsAre(1, 2));
  EXPECT_THAT(make(R"("model":{"unk_id":0,"vocab":[["?",0],["ab",-1]]})").encode("ab").ids,
              ElementsAre(1));
}

TEST(ByteLevel, RefusesArraysThatDoNotFitTogether) {
  const ByteLevelArrays good{{"a", "b", "ab", "<s>"}, {"a b"}, {1, 1, 1, 3}, "gpt-2", 3};
  EXPECT_THAT(make_byte_level_tokenizer(good, "x.gguf").encode("ab<s>").ids, ElementsAre(3, 2, 3));
  const auto message = [&](auto change) {
    ByteLevelArrays arrays = good;
    change(arrays);
    return message_of<Error>([&] { make_byte_level_tokenizer(arrays, "x.gguf"); });
  };
  EXPECT_THAT(message([](ByteLevelArrays& a) { a.pre = "viking"; }),
              HasSubstr("x.gguf: pre-tokenizer \"viking\" is not known (gpt-2, "));
  EXPECT_THAT(message([](ByteLevelArrays& a) { a.types.pop_back(); }),
              HasSubstr("has 3 token types for 4 tokens"));
  EXPECT_THAT(message([](ByteLevelArrays& a) { a.types[0] = 6; }), HasSubstr("token 0 has type 6"));
  EXPECT_THAT(message([](ByteLevelArrays& a) { a.merges[0] = "ab"; }),
              HasSubstr("merge \"ab\" is not two pieces and a space"));
  EXPECT_THAT(message([](ByteLevelArrays& a) { a.merges.push_back("b a"); }),
              HasSubstr("a merge's result \"ba\" is not in the vocabulary"));
  EXPECT_THAT(message([](ByteLevelArrays& a) { a.tokens[1] = "a"; }),
              HasSubstr("\"a\" has two ids, 0 and 1"));
  EXPECT_THAT(message([](ByteLevelArrays& a) { a.begin = 4; }),
              HasSubstr("the token that begins or ends a text, 4, is not in the vocabulary"));
  EXPECT_THAT(message([](ByteLevelArrays& a) { a.tokens[3] = ""; }), HasSubstr("x.gguf: "));
}

TEST(Tokenizer, NamesWhatItDoesNotKnow) {
  EXPECT_THAT(message_of<Error>([] { Tokenizer::from_json("[]", "t.json"); }),
              HasSubstr("t.json: holds an array, must be an object"));
  EXPECT_THAT(message_of<Error>([] { Tokenizer::from_json("{\"version\":\"2.0\"}", "t.json"); }),
              HasSubstr("t.json: version \"2.0\" is not known"));
  EXPECT_THAT(refused(R"("flavour":1)"), HasSubstr("t.json: flavour is not known"));
  EXPECT_THAT(refused(R"("normalizer":{"type":"Nmt"})"),
              HasSubstr("t.json: normalizer: Nmt: is not a known normalizer"));
  EXPECT_THAT(refused(R"("normalizer":{"type":"Sequence","normalizers":[{"type":"ByteLevel"}]})"),
              HasSubstr("Sequence: ByteLevel: is not a known normalizer"));
  EXPECT_THAT(refused(R"("normalizer":{"type":"Strip","strip_left":1,"strip_right":true})"),
              HasSubstr("Strip: strip_left is a number, must be true or false"));
  EXPECT_THAT(refused(R"("normalizer":{"type":"NFC","form":"x"})"),
              HasSubstr("NFC: form is not known"));
  EXPECT_THAT(refused(R"("pre_tokenizer":{"type":"UnicodeScripts"})"),
              HasSubstr("UnicodeScripts: is not a known pre-tokenizer"));
  EXPECT_THAT(refused(R"("pre_tokenizer":{"type":"Punctuation","behavior":"Gone"})"),
              HasSubstr("behavior \"Gone\" is not known"));
  EXPECT_THAT(refused(R"("pre_tokenizer":{"type":"Metaspace","replacement":"ab"})"),
              HasSubstr("replacement must be one character"));
  EXPECT_THAT(refused(R"("decoder":{"type":"CTC"})"), HasSubstr("CTC: is not a known decoder"));
  EXPECT_THAT(refused(R"("post_processor":{"type":"Other"})"),
              HasSubstr("Other: is not a known post-processor"));
  EXPECT_THAT(refused(R"("post_processor":{"type":"BertProcessing","sep":["a",0],"cls":["b",7]})"),
              HasSubstr("cls has id 7, which is not in the vocabulary"));
  EXPECT_THAT(refused(R"("model":{"type":"WordLevel","vocab":{}})"),
              HasSubstr("WordLevel: is not a known model"));
  EXPECT_THAT(refused(R"("model":{"vocab":{}})"), HasSubstr("t.json: model: type is missing"));
  EXPECT_THAT(refused(R"("model":{"type":"BPE","dropout":0.1,"vocab":{},"merges":[]})"),
              HasSubstr("dropout is set"));
}

TEST(Tokenizer, RefusesWhatDoesNotFitTogether) {
  const auto bpe = [](const std::string& vocab, const std::string& more) {
    return refused(R"("model":{"type":"BPE","vocab":{)" + vocab + "}," + more + "}");
  };
  EXPECT_THAT(bpe(R"("a":0,"b":1)", R"("merges":["a b"])"),
              HasSubstr("a merge's result \"ab\" is not in the vocabulary"));
  EXPECT_THAT(bpe(R"("a":0)", R"("merges":[["a","z"]])"),
              HasSubstr("a merge's part \"z\" is not in the vocabulary"));
  EXPECT_THAT(bpe(R"("a":0)", R"("merges":["a"])"), HasSubstr("must be two pieces and a space"));
  EXPECT_THAT(bpe(R"("a":0)", R"("merges":[7])"), HasSubstr("has a number, must be pairs"));
  EXPECT_THAT(bpe(R"("a":0,"b":0)", R"("merges":[])"), HasSubstr("have the same id, 0"));
  EXPECT_THAT(bpe(R"("a":-1)", R"("merges":[])"), HasSubstr("\"a\" has id -1, must be in [0, "));
  EXPECT_THAT(bpe(R"("a":9000000000)", R"("merges":[])"), HasSubstr("has id 9000000000"));
  EXPECT_THAT(bpe(R"("a":1.5)", R"("merges":[])"), HasSubstr("the id of \"a\" is a number"));
  EXPECT_THAT(bpe(R"("a":0)", R"("merges":[],"unk_token":"?")"),
              HasSubstr("unk_token \"?\" is not in the vocabulary"));
  const auto added = [](const std::string& id, const std::string& content) {
    return refused(R"("added_tokens":[{"id":)" + id + R"(,"content":")" + content +
                   R"(","special":true,"single_word":false,"lstrip":false,"rstrip":false,)"
                   R"("normalized":false}])");
  };
  EXPECT_THAT(added("0", "x"), HasSubstr("\"a\" and \"x\" have the same id, 0"));
  EXPECT_THAT(added("5", "a"), HasSubstr("\"a\" has two ids, 0 and 5"));
  EXPECT_THAT(added("99999999", "x"), HasSubstr("id is 99999999, must be an integer in"));
  EXPECT_THAT(added("5", ""), HasSubstr("content is empty"));
  EXPECT_THAT(refused(R"("model":{"type":"Unigram","unk_id":1,"vocab":[["a",-1]]})"),
              HasSubstr("unk_id is 1, must be an integer in [0, 0]"));
  EXPECT_THAT(refused(R"("model":{"type":"Unigram","vocab":[["a",1e999]]})"), HasSubstr("t.json"));
  const Tokenizer strict = make(R"("model":{"type":"Unigram","unk_id":null,"vocab":[["a",-1]]})");
  EXPECT_THAT(message_of<Error>([&] { strict.encode("b"); }), HasSubstr("there is no unk_id"));
  EXPECT_THAT(refused(R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":)"
                      R"({"id":"[X]","type_id":0}}],"pair":[],"special_tokens":{}})"),
              HasSubstr("\"[X]\" is not one of special_tokens"));
}

TEST(Tokenizer, StopsStepsThatMakeTooMuchOfAText) {
  const std::string step =
      R"({"type":"Replace","pattern":{"String":"a"},"content":")" + std::string(400, 'a') + "\"}";
  const std::string steps = step + "," + step + "," + step + "," + step;
  const Tokenizer growing = make(R"("normalizer":{"type":"Sequence","normalizers":[)" + steps +
                                 R"(]},"decoder":{"type":"Sequence","decoders":[)" + steps + "]}");
  EXPECT_THAT(message_of<Error>([&] { growing.encode("a"); }),
              HasSubstr("normalizer: Sequence: Replace: makes more than 16777216 characters"));
  EXPECT_THAT(message_of<Error>([&] { growing.decode(Ids{0}); }),
              HasSubstr("decoder: Sequence: Replace: makes more than 16777216 characters"));
}

std::string precompiled(const std::string& table) {
  return R"("normalizer":{"type":"Precompiled","precompiled_charsmap":)" + table + "}";
}

TEST(Tokenizer, TakesTablesOfRulesOnlyWhole) {
  EXPECT_THAT(make(precompiled("null")).encode("ab").ids, ElementsAre(2));
  EXPECT_THAT(refused(precompiled(R"("?")")), HasSubstr("precompiled_charsmap is not base64"));
  EXPECT_THAT(refused(precompiled(R"("AAAA")")), HasSubstr("has 3 bytes, its trie should have 0"));
  EXPECT_THAT(refused(precompiled(R"("BAEAAAAAAAA=")")), HasSubstr("should have 260"));
  EXPECT_THAT(refused(precompiled(R"("BAAAAAAAAAD/")")), HasSubstr("texts that are not UTF-8"));
  // Units that point past the end match nothing.
  EXPECT_THAT(make(precompiled(R"("BAAAAP////9h")")).encode("ab").ids, ElementsAre(2));
}

std::string split_by(const std::string& pattern) {
  return R"("pre_tokenizer":{"type":"Split","pattern":{"Regex":")" + pattern +
         R"("},"behavior":"Isolated","invert":false})";
}

TEST(Tokenizer, RefusesPatternsThatItCannotKeepTo) {
  EXPECT_THAT(refused(split_by("(a")), HasSubstr("is refused: missing closing parenthesis"));
  EXPECT_THAT(refused(split_by("[a")), HasSubstr("has a class without its end"));
  for (const char* const pattern :
       {"\\\\bword", "\\\\h+", "\\\\X", "(?x)a", "a(?i)b|c", "(?<n>a)", "(a)\\\\1", "[a[bc]]",
        "[a-z&&b]", "[\\\\W]", "a{,3}", "a{2}+", "\\\\p{InBasicLatin_}", "\\\\", "[]", "(*ACCEPT)",
        "\\\\x{}", "[\\\\w-z]"}) {
    EXPECT_THAT(refused(split_by(pattern)), HasSubstr("which is not known")) << pattern;
  }
  EXPECT_THAT(refused(split_by(std::string(20'000, 'a'))), HasSubstr("at most 16384"));
}

TEST(Tokenizer, StopsAPatternThatBacktracksWithoutEnd) {
  const Tokenizer tokenizer = make(split_by("(?:a+)+$|(?:a|aa)+b"));
  EXPECT_THAT(message_of<Error>([&] { tokenizer.encode(std::string(200, 'a') + "c"); }),
              HasSubstr("fails on this text: match limit exceeded"));
}

TEST(Tokenizer, LongRunsTakeTimeInProportion) {
  const Tokenizer tokenizer = load("llama3");
  for (const char* const unit : {" ", "a", "\n ", "\xcc\x81", "1", "!"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    text += "x";
    const auto start = std::chrono::steady_clock::now();
    const TokenizedText encoded = tokenizer.encode(text, false);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20)) << unit;
    EXPECT_EQ(tokenizer.decode(encoded.ids), text);
  }
}

TEST(Pattern, SpellsOutWhatTheTwoEnginesReadDifferently) {
  EXPECT_EQ(translate_pattern("a\\u00e9\\x41[\\d]", "p"), "a\\x{00e9}\\x{41}[\\p{Nd}]");
  EXPECT_EQ(translate_pattern("\\p{Han}\\p{^Lu}", "p"), "\\p{sc:Han}\\p{^Lu}");
  EXPECT_EQ(translate_pattern("(?i:'s)|x{1,3}", "p"), "(?i:'s)|x{1,3}");
  // U+180E is a space to PCRE2 alone.
  const Pattern space("\\s", "p");
  EXPECT_FALSE(space.parts("\xe1\xa0\x8e").front().match);
  EXPECT_TRUE(space.parts("\xe3\x80\x80").front().match);
}

}  // namespace
}  // namespace attn
