// The tokenizer on a small vocabulary; minilm_test.cpp compares it with the published one.
#include "model/wordpiece.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/error.h"
#include "folder.h"
#include "model/unicode.h"

namespace attn {
namespace {

using testing::ElementsAre;

// Ids are line numbers.
const std::string kVocabulary =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nplay\n##ing\n##ed\nun\n##play\ncafe\n,\n.\n!\na\n##a\n"
    "\xe6\xbc\xa2\n\xe5\xad\x97\n\n[\n]\nmask\ncaf\n##\xc3\xa9\n";

WordPiece tokenizer(const TokenizerConfig& config = {}) {
  return WordPiece(kVocabulary, config, 1000, "vocab.txt");
}

std::vector<std::string> texts(const Encoding& encoding) {
  std::vector<std::string> out;
  for (const RecordToken& token : encoding.tokens) out.push_back(token.text);
  return out;
}

std::vector<std::string> texts(const std::string& text, const TokenizerConfig& config = {}) {
  return texts(tokenizer(config).encode(text, {}, 512));
}

TEST(WordPiece, MatchesTheLongestPieceFromTheLeft) {
  EXPECT_THAT(texts("unplayed playing"),
              ElementsAre("[CLS]", "un", "##play", "##ed", "play", "##ing", "[SEP]"));
  // A word with a rest that matches nothing is unknown as a whole.
  EXPECT_THAT(texts("playx play"), ElementsAre("[CLS]", "[UNK]", "play", "[SEP]"));
  EXPECT_THAT(texts(""), ElementsAre("[CLS]", "[SEP]"));
}

TEST(WordPiece, NormalisesAsBertDoes) {
  EXPECT_THAT(texts("PLAY,Play.\tplay\n"),
              ElementsAre("[CLS]", "play", ",", "play", ".", "play", "[SEP]"));
  EXPECT_THAT(texts("Caf\xc3\xa9 cafe\xcc\x81"), ElementsAre("[CLS]", "cafe", "cafe", "[SEP]"));
  EXPECT_THAT(texts("\xe6\xbc\xa2\xe5\xad\x97"),
              ElementsAre("[CLS]", "\xe6\xbc\xa2", "\xe5\xad\x97", "[SEP]"));
  // Control characters, NUL, zero-width spaces and bytes that are no UTF-8 vanish inside a word.
  EXPECT_THAT(texts(std::string("pl\0a\x07y\xe2\x80\x8b\xff\xc3", 11)),
              ElementsAre("[CLS]", "play", "[SEP]"));
}

TEST(WordPiece, CasedAndAccentedByOption) {
  TokenizerConfig config;
  config.lower_case = false;
  EXPECT_THAT(texts("Play caf\xc3\xa9", config),
              ElementsAre("[CLS]", "[UNK]", "caf", "##\xc3\xa9", "[SEP]"));
  config.lower_case = true;
  config.strip_accents = false;
  EXPECT_THAT(texts("CAF\xc3\x89", config), ElementsAre("[CLS]", "caf", "##\xc3\xa9", "[SEP]"));
  config.split_cjk = false;
  EXPECT_THAT(texts("\xe6\xbc\xa2\xe5\xad\x97", config), ElementsAre("[CLS]", "[UNK]", "[SEP]"));
  // Without the option the vocabulary decides.
  EXPECT_TRUE(tokenizer().lower_case());
  EXPECT_FALSE(WordPiece(kVocabulary + "Play\n", {}, 1000, "v").lower_case());
}

TEST(WordPiece, LongWordsAreUnknown) {
  EXPECT_EQ(texts(std::string(100, 'a')).size(), 102U);
  EXPECT_THAT(texts(std::string(101, 'a')), ElementsAre("[CLS]", "[UNK]", "[SEP]"));
}

TEST(WordPiece, RecognisesSpecialTokensInTheText) {
  const Encoding encoding = tokenizer().encode("play[MASK]play [SEP] [mask]", {}, 512);
  EXPECT_THAT(texts(encoding),
              ElementsAre("[CLS]", "play", "[MASK]", "play", "[SEP]", "[", "mask", "]", "[SEP]"));
  EXPECT_FALSE(encoding.tokens[2].special);
  EXPECT_TRUE(encoding.tokens[4].special);
}

TEST(WordPiece, KnowsWordsOffsetsAndSegments) {
  const Encoding e = tokenizer().encode("  Caf\xc3\xa9 playing!", "un,a", 512);
  EXPECT_THAT(texts(e),
              ElementsAre("[CLS]", "cafe", "play", "##ing", "!", "[SEP]", "un", ",", "a", "[SEP]"));
  using Range = std::pair<std::size_t, std::size_t>;
  EXPECT_THAT(e.offsets,
              ElementsAre(Range(0, 0), Range(2, 7), Range(8, 12), Range(12, 15), Range(15, 16),
                          Range(0, 0), Range(0, 2), Range(2, 3), Range(3, 4), Range(0, 0)));
  std::vector<int> words, segments;
  for (const RecordToken& token : e.tokens) {
    words.push_back(token.word);
    segments.push_back(token.segment);
  }
  EXPECT_THAT(words, ElementsAre(-1, 0, 1, 1, 2, -1, 3, 4, 5, -1));
  EXPECT_THAT(segments, ElementsAre(0, 0, 0, 0, 0, 0, 1, 1, 1, 1));
  EXPECT_THAT(e.type_ids, ElementsAre(0, 0, 0, 0, 0, 0, 1, 1, 1, 1));
}

TEST(WordPiece, TruncatesTheLongerAndKeepsTheFrame) {
  const WordPiece t = tokenizer();
  const Encoding one = t.encode("a a a a a", {}, 4);
  EXPECT_TRUE(one.truncated);
  EXPECT_THAT(texts(one), ElementsAre("[CLS]", "a", "a", "[SEP]"));
  EXPECT_FALSE(t.encode("a a", {}, 4).truncated);
  const Encoding two = t.encode("a a a a a", "un un", 8);
  EXPECT_THAT(texts(two), ElementsAre("[CLS]", "a", "a", "a", "[SEP]", "un", "un", "[SEP]"));
  EXPECT_THAT(texts(t.encode("a", {}, 2)), ElementsAre("[CLS]", "[SEP]"));
  EXPECT_THROW(t.encode("a", {}, 1), std::invalid_argument);
  EXPECT_THROW(t.encode("a", "a", 2), std::invalid_argument);
}

TEST(WordPiece, RefusesBrokenVocabularies) {
  EXPECT_THAT(message_of<Error>([] { WordPiece("[PAD]\n[UNK]\n[CLS]\n", {}, 10, "v.txt"); }),
              testing::HasSubstr("v.txt: has no [SEP]"));
  EXPECT_THAT(message_of<Error>([] { WordPiece("", {}, 10, "v.txt"); }),
              testing::HasSubstr("v.txt: has no [UNK]"));
  EXPECT_THAT(message_of<Error>([] { WordPiece(kVocabulary, {}, 10, "v.txt"); }),
              testing::HasSubstr("has id 10, the model has 10 embeddings"));
  EXPECT_NO_THROW(WordPiece("[UNK]\r\n[CLS]\r\n[SEP]", {}, 3, "v.txt"));
}

TEST(WordPiece, TakesAnyBytes) {
  const WordPiece t = tokenizer();
  std::mt19937 generator(1);
  for (int round = 0; round < 2000; ++round) {
    std::string text(generator() % 64, '\0');
    for (char& c : text) {
      c = static_cast<char>(round % 2 == 0 ? generator()
                                           : "a\xcc\x81[MASK] \xe6\xbc"[generator() % 12]);
    }
    const Encoding e = t.encode(text, text, 40);
    ASSERT_LE(e.ids.size(), 40U);
    ASSERT_EQ(e.ids.size(), e.offsets.size());
    for (const auto& [begin, end] : e.offsets) {
      ASSERT_LE(begin, end);
      ASSERT_LE(end, text.size());
    }
  }
}

TEST(Unicode, DecomposesInCanonicalOrder) {
  // U+1ED9 is o with circumflex and dot below, whose classes are 230 and 220.
  std::vector<char32_t> values;
  for (const auto& c : unicode::decompose(unicode::decode("\xe1\xbb\x99")))
    values.push_back(c.value);
  EXPECT_THAT(values, ElementsAre(U'o', 0x323, 0x302));
  values.clear();
  for (const auto& c : unicode::lower(unicode::decode("\xc4\xb0\xce\xa3")))
    values.push_back(c.value);
  EXPECT_THAT(values, ElementsAre(U'i', 0x307, 0x3c3));
}

}  // namespace
}  // namespace attn
