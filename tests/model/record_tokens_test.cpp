// Tokens as a page shows them: whole characters, words, special names.
#include "model/record_tokens.h"

#include <gtest/gtest.h>

namespace attn {
namespace {

std::vector<std::string> texts(const std::vector<RecordToken>& tokens) {
  std::vector<std::string> out;
  for (const RecordToken& token : tokens) out.push_back(token.text);
  return out;
}
std::vector<std::int32_t> words(const std::vector<RecordToken>& tokens) {
  std::vector<std::int32_t> out;
  for (const RecordToken& token : tokens) out.push_back(token.word);
  return out;
}

using Strings = std::vector<std::string>;
using Words = std::vector<std::int32_t>;

TEST(RecordTokens, KeepSpacesAndJoinWords) {
  const auto tokens = record_tokens(std::vector<TokenPiece>{
      {"The"}, {" light"}, {"house"}, {","}, {" 19"}, {"84"}, {"th"}, {"\n"}, {"\n x"}});
  EXPECT_EQ(texts(tokens),
            (Strings{"The", " light", "house", ",", " 19", "84", "th", "\n", "\n x"}));
  EXPECT_EQ(words(tokens), (Words{0, 1, 1, 3, 4, 4, 6, 7, 8}));
}

TEST(RecordTokens, ACharacterBelongsToTheTokenThatBeginsIt) {
  const auto tokens = record_tokens(std::vector<TokenPiece>{
      {"a\xf0\x9f"}, {"\x98"}, {"\x80"}, {"b"}, {"\xc3"}, {"\xa9t\xc3"}, {"\xa9"}});
  EXPECT_EQ(texts(tokens),
            (Strings{"a\xf0\x9f\x98\x80", "", "", "b", "\xc3\xa9", "t\xc3\xa9", ""}));
  EXPECT_EQ(words(tokens), (Words{0, 0, 0, 0, 0, 0, 0}));
}

TEST(RecordTokens, WhatIsNoTextIsSeenAsSuch) {
  const auto tokens = record_tokens(std::vector<TokenPiece>{
      {"<|im_start|>", true}, {"\xf0\x9f"}, {"<|im_end|>", true}, {"\xff"}, {"\x98"}, {""}});
  EXPECT_EQ(texts(tokens),
            (Strings{"<|im_start|>", "\ufffd\ufffd", "<|im_end|>", "\ufffd", "\ufffd", ""}));
  EXPECT_TRUE(tokens[0].special && tokens[2].special && !tokens[1].special);
  EXPECT_EQ(words(tokens), (Words{-1, 1, -1, 3, 4, 4}));
  EXPECT_TRUE(record_tokens({}).empty());
}

TEST(RecordTokens, IdeographsStandAlone) {
  const auto tokens = record_tokens(std::vector<TokenPiece>{
      {"\xe6\xbc\xa2"}, {"\xe5\xad\x97"}, {"\xd0\xb6"}, {"\xd0\xb6"}, {"."}, {"."}});
  EXPECT_EQ(words(tokens), (Words{0, 1, 2, 2, 4, 5}));
}

}  // namespace
}  // namespace attn
