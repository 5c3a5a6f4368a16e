// SentencePiece models against the Python module and Transformers (tests/data/sentencepiece, by
// tools/golden_sentencepiece.py); and files that lie.
#include "model/sentencepiece.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "attn/error.h"
#include "folder.h"
#include "golden_models.h"

namespace attn {
namespace {

using testing::HasSubstr;

std::string data(const std::string& name) {
  return read_file(std::string(ATTN_TEST_DATA) + "/sentencepiece/" + name);
}

const Json& expected() {
  static const Json json = read_golden("sentencepiece/golden.json");
  return json;
}

// Special tokens in a text are ours, and Transformers', to find; the library knows none.
bool has_special(const std::string& text) { return text.find("<") != std::string::npos; }

class Library : public testing::TestWithParam<const char*> {};

TEST_P(Library, IdsOffsetsAndTextsAreTheSame) {
  const std::string name = GetParam();
  const Tokenizer tokenizer = make_sentencepiece_tokenizer(data(name + ".model"), {}, name);
  const auto& texts = expected().find("texts")->items;
  const auto& all = expected().find(name)->items;
  ASSERT_EQ(texts.size(), all.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::string& text = texts[i].text;
    if (has_special(text)) continue;
    SCOPED_TRACE(text);
    const TokenizedText got = tokenizer.encode(text, false);
    EXPECT_EQ(got.ids, ids_of(*all[i].find("ids")));
    std::vector<std::pair<std::size_t, std::size_t>> offsets;
    for (const Json& pair : all[i].find("offsets")->items) {
      offsets.emplace_back(static_cast<std::size_t>(pair.items[0].integer),
                           static_cast<std::size_t>(pair.items[1].integer));
    }
    EXPECT_EQ(got.offsets, offsets);
    EXPECT_EQ(tokenizer.decode(got.ids, false), all[i].find("decoded")->text);
  }
}

INSTANTIATE_TEST_SUITE_P(SentencePiece, Library, testing::Values("t5", "bpe"));

TEST(SentencePieceTokenizer, T5IsAsTransformersConvertsIt) {
  SentencePieceOptions options;
  options.sentinels = 100;
  const Tokenizer tokenizer = make_sentencepiece_tokenizer(data("t5.model"), options, "t5.model");
  EXPECT_EQ(tokenizer.size(), 400);
  EXPECT_EQ(tokenizer.id("<extra_id_0>"), 399);
  EXPECT_EQ(tokenizer.id("<extra_id_99>"), 300);
  const auto& texts = expected().find("texts")->items;
  const auto& all = expected().find("transformers t5")->items;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::string& text = texts[i].text;
    SCOPED_TRACE(text);
    const TokenizedText got = tokenizer.encode(text);
    EXPECT_TRUE(got.special.back());
    // Where the conversion cuts at what the model itself takes for text, we do as the model.
    if (text.find('\r') != std::string::npos || text.starts_with("\u2581")) continue;
    EXPECT_EQ(got.ids, ids_of(*all[i].find("ids")));
    // It keeps the space of a first piece that it leaves out.
    std::string decoded = all[i].find("decoded")->text;
    if (decoded.starts_with(' ')) decoded.erase(0, 1);
    EXPECT_EQ(tokenizer.decode(got.ids), decoded);
  }
}

TEST(SentencePieceTokenizer, MarianIsAsInTransformers) {
  const auto tokenizer = [](const std::string& name) {
    SentencePieceOptions options;
    options.vocabulary = read_vocabulary(Json::parse(data("vocab.json"), "vocab.json"), "vocab");
    return make_sentencepiece_tokenizer(data(name), options, name);
  };
  const Tokenizer source = tokenizer("source.spm"), target = tokenizer("target.spm");
  const auto& texts = expected().find("texts")->items;
  const auto& all = expected().find("transformers marian")->items;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    SCOPED_TRACE(texts[i].text);
    EXPECT_EQ(source.encode(texts[i].text).ids, ids_of(*all[i].find("ids")));
    const auto ids = ids_of(*all[i].find("target"));
    EXPECT_EQ(target.encode(texts[i].text).ids, ids);
    EXPECT_EQ(target.decode(ids), all[i].find("decoded")->text);
  }
}

TEST(SentencePieceTokenizer, BytesThatAreNoTextAreUnknown) {
  const Tokenizer tokenizer = make_sentencepiece_tokenizer(data("t5.model"), {}, "t5.model");
  const TokenizedText got = tokenizer.encode("the \xFF king");
  EXPECT_EQ(got.ids.size(), got.offsets.size());
  for (const auto& range : got.offsets) EXPECT_LE(range.second, 10);
  EXPECT_THAT(got.ids, testing::Contains(*tokenizer.id("<unk>")));
}

// What the wire format of a message is made of.
std::string varint(std::uint64_t value) {
  std::string out;
  for (; value > 127; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}
std::string bytes_field(int number, const std::string& bytes) {
  return varint(static_cast<std::uint64_t>(number) << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string piece(const std::string& text, float score, int kind) {
  std::string out = bytes_field(1, text) + varint(2 << 3 | 5);
  out.append(reinterpret_cast<const char*>(&score), 4);
  return bytes_field(1, out + varint(3 << 3) + varint(static_cast<std::uint64_t>(kind)));
}
std::string table(std::vector<std::uint32_t> units, const std::string& texts) {
  const auto size = static_cast<std::uint32_t>(units.size() * 4);
  std::string out(reinterpret_cast<const char*>(&size), 4);
  out.append(reinterpret_cast<const char*>(units.data()), size);
  return bytes_field(3, bytes_field(2, out + texts));
}

TEST(SentencePieceFile, FilesThatLie) {
  const std::string unknown = piece("<unk>", 0, 2), good = unknown + piece("a", -1, 1);
  std::vector<std::uint32_t> units(256);
  const std::string zero(1, '\0');
  const auto with = [&](std::size_t at, std::uint32_t unit) {
    auto copy = units;
    copy[at] = unit;
    return copy;
  };
  EXPECT_EQ(parse_sentencepiece(good + table(units, zero), "m").size(), 2);
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"", "holds no pieces"},
      {"not a model at all", "m"},
      {good.substr(0, good.size() - 1), "truncated"},
      {std::string(1, '\x0A') + varint(UINT64_MAX), "truncated: 18446744073709551615 bytes"},
      {std::string(11, '\xFF'), "more than ten bytes"},
      {std::string("\x02\0", 2), "field with number 0"},
      {std::string(1, '\x0B'), "wire type 3"},
      {varint(1 << 3) + varint(5), "wrong wire type"},
      {piece("a", -1, 1), "has 0 pieces of type UNKNOWN"},
      {good + unknown, "has 2 pieces of type UNKNOWN"},
      {good + piece("a", -2, 1), "has the piece \"a\" twice"},
      {good + piece("", 0, 1), "not empty"},
      {good + piece(std::string("a\0b", 3), 0, 1), "without zero bytes"},
      {good + piece("\xFF", 0, 1), "must be UTF-8"},
      {good + piece("b", 0, 7), "type 7 is not known"},
      {good + piece("b", NAN, 1), "score is not finite"},
      {good + bytes_field(3, bytes_field(2, "abc")), "too short"},
      {good + table(std::vector<std::uint32_t>(255), zero), "wrong size"},
      {good + table(units, ""), "do not end"},
      {good + table(units, "abc"), "do not end"},
      {good + table(units, "\xFF" + zero), "not UTF-8"},
      {good + table(with(0, 256 << 10), zero), "leads out of itself"},
      {good + table(with(0, 0xFFFFFFFC), zero), "leads out of itself"},
      {good + table(with(7, 0x1FFFFF << 10 | 1 << 9), zero), "leads out of itself"},
      {good + table(with(7, 1 << 8), "ab" + zero), ""},
      {good + bytes_field(5, bytes_field(2, "abc")), "too short"},
  };
  for (const auto& entry : wrong) {
    EXPECT_THAT(message_of<Error>([&] { parse_sentencepiece(entry.first, "m"); }),
                HasSubstr(entry.second))
        << testing::PrintToString(entry.first);
  }
  auto value_outside = with(7, 1 << 8);
  value_outside[7] = 7 << 10 | 1 << 8;  // its value is unit 0
  value_outside[0] = 3;
  EXPECT_THAT(
      message_of<Error>([&] { parse_sentencepiece(good + table(value_outside, "a" + zero), "m"); }),
      HasSubstr("lead out of its texts"));
  // A real file that is cut short anywhere.
  const std::string file = data("t5.model");
  for (std::size_t n = 0; n < file.size(); n += 13) {
    try {
      make_sentencepiece_tokenizer(file.substr(0, n), {}, "m");
    } catch (const Error&) {
    }
  }
  SentencePieceOptions no_end;
  no_end.end = "</end>";
  EXPECT_THAT(message_of<Error>([&] { make_sentencepiece_tokenizer(file, no_end, "m"); }),
              HasSubstr("the vocabulary has no </end>"));
}

}  // namespace
}  // namespace attn
