// CTranslate2's files: what is in them, and files that lie.
#include "model/ctranslate2.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "attn/error.h"
#include "folder.h"
#include "model/translators.h"

namespace attn {
namespace {

using testing::HasSubstr;

template <class T>
std::string number(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string name(const std::string& text) {
  return number(static_cast<std::uint16_t>(text.size() + 1)) + text + '\0';
}
// Sizes that are told apart from those that are.
std::string variable(const std::string& called, const std::vector<std::uint32_t>& shape,
                     std::uint8_t type, std::uint32_t size, const std::string& bytes) {
  std::string out = name(called) + number(static_cast<std::uint8_t>(shape.size()));
  for (const std::uint32_t n : shape) out += number(n);
  return out + number(type) + number(size) + bytes;
}
std::string head(std::uint32_t version, std::uint32_t variables) {
  return number(version) + name("TransformerSpec") + number(std::uint32_t{3}) + number(variables);
}
std::string floats(std::size_t count) { return std::string(count * 4, '\0'); }

CTranslate2 parse(const std::string& file) {
  return CTranslate2(std::as_bytes(std::span(file)), "model.bin");
}

TEST(CTranslate2File, VersionsSayTheSame) {
  const std::string bytes = floats(6);
  for (std::uint32_t version = 2; version <= 6; ++version) {
    const bool typed = version >= 4, aliased = version >= 3;
    std::string file = head(version, 3);
    file += variable("weight", {2, 3}, typed ? 0 : 4, typed ? 24 : 6, bytes);
    file += variable("heads", {}, typed ? 2 : 2, typed ? 2 : 1, number(std::int16_t{-7}));
    file += variable("unk_token", {5}, 1, 5, "<unk>");
    if (aliased) file += number(std::uint32_t{1}) + name("again") + name("weight");
    const CTranslate2 got = parse(file);
    EXPECT_EQ(got.version(), version);
    EXPECT_EQ(got.specification(), "TransformerSpec");
    EXPECT_EQ(got.revision(), 3);
    ASSERT_EQ(got.tensors().size(), aliased ? 4 : 3);
    EXPECT_EQ(got.tensors().back().name, "weight");
    EXPECT_EQ(got.tensors().back().dtype, "F32");
    EXPECT_EQ(got.tensors().back().shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(got.number("heads"), -7);
    EXPECT_EQ(got.text("unk_token"), "<unk>");
    EXPECT_EQ(got.number("none"), std::nullopt);
    EXPECT_EQ(got.text("none"), std::nullopt);
    if (aliased) {
      EXPECT_EQ(got.tensors().front().name, "again");
      EXPECT_EQ(got.tensors().front().begin, got.tensors().back().begin);
    }
    EXPECT_THROW(got.number("weight"), Error);
    EXPECT_THROW(got.text("weight"), Error);
    // Cut short anywhere.
    for (std::size_t n = 0; n < file.size(); ++n) EXPECT_THROW(parse(file.substr(0, n)), Error);
  }
}

TEST(CTranslate2File, FilesThatLie) {
  const std::string none = number(std::uint32_t{0});  // aliases
  const std::string good = variable("w", {2}, 0, 8, floats(2));
  EXPECT_EQ(parse(head(6, 1) + good + none).tensors().size(), 1);
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"", "binary version: truncated"},
      {head(1, 0), "has binary version 1, must be 2 to 6"},
      {head(7, 0), "has binary version 7"},
      {number(std::uint32_t{6}) + number(std::uint16_t{0}), "specification: a name does not end"},
      {number(std::uint32_t{6}) + number(std::uint16_t{3}) + "abc", "only zero byte"},
      {number(std::uint32_t{6}) + name(std::string("a\0b", 3)), "only zero byte"},
      {number(std::uint32_t{6}) + name("\xFF"), "not UTF-8"},
      {head(6, 0xFFFFFFFF) + good, "variables: truncated: 4294967295 of them"},
      {head(6, 2) + good + none, "variable 1: a name does not end"},
      {head(6, 1) + good + none + "x", "1 bytes follow the last entry"},
      {head(6, 1) + good + number(std::uint32_t{0xFFFFFFFF}), "aliases: truncated: 4294967295"},
      {head(6, 1) + good + number(std::uint32_t{1}) + name("v") + name("x"),
       "v stands for x, which is missing"},
      {head(6, 1) + good + number(std::uint32_t{1}) + name("w") + name("w"),
       "tensor w: is there twice"},
      {head(6, 2) + good + good + none, "tensor w: is there twice"},
      {head(6, 1) + variable("w", {2}, 6, 8, floats(2)), "tensor w: has the unknown type 6"},
      {head(3, 1) + variable("w", {2}, 8, 2, floats(4)), "has elements of 8 bytes"},
      {head(6, 1) + variable("w", {3}, 0, 8, floats(2)), "has 8 bytes, its shape [3] of F32 takes"},
      {head(6, 1) + variable("w", {0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, 0, 8, floats(2)),
       "more elements than a file can hold"},
      {head(6, 1) + variable("w", {0x40000000}, 0, 0, ""), "takes 4294967296"},
      {head(6, 1) + variable("w", {1, 1, 1, 1, 1, 1, 1, 1, 2}, 0, 8, floats(2)),
       "has 9 dimensions"},
  };
  for (const auto& entry : wrong) {
    EXPECT_THAT(message_of<Error>([&] { parse(entry.first); }), HasSubstr(entry.second))
        << testing::PrintToString(entry.first);
  }
  EXPECT_EQ(parse(head(6, 1) + variable("w", {0, 0xFFFFFFFF}, 0, 0, "") + none).tensors().size(),
            1);
}

// A file with these variables, as a model.
std::string refused(const std::string& specification, std::uint32_t revision,
                    const std::vector<std::string>& variables) {
  std::string file = number(std::uint32_t{6}) + name(specification) + number(revision) +
                     number(static_cast<std::uint32_t>(variables.size()));
  for (const std::string& one : variables) file += one;
  file += number(std::uint32_t{0});
  const TestFolder folder;
  folder.write("model.bin", file);
  Weights weights(folder.path());
  return message_of<Error>([&] { load_ctranslate2(weights, "", "model.bin"); });
}

TEST(CTranslate2Models, NothingIsGuessed) {
  EXPECT_THAT(refused("WhisperSpec", 3, {}), HasSubstr("specification \"WhisperSpec\""));
  EXPECT_THAT(refused("TransformerSpec", 1, {}), HasSubstr("revision 1"));
  EXPECT_THAT(refused("TransformerSpec", 8, {}), HasSubstr("revision 8"));
  EXPECT_THAT(refused("TransformerSpec", 7, {}),
              HasSubstr("tensor encoder/embeddings/weight: is missing"));
  const auto embedding = [](std::uint32_t rows, std::uint32_t width) {
    return variable("encoder/embeddings/weight", {rows, width}, 0, rows * width * 4,
                    floats(rows * width));
  };
  EXPECT_THAT(refused("TransformerSpec", 7, {embedding(3, 12)}), HasSubstr("whole heads"));
  EXPECT_THAT(refused("TransformerSpec", 7, {embedding(0, 8)}), HasSubstr("has shape [0, 8]"));
  EXPECT_THAT(refused("TransformerSpec", 7, {embedding(3, 8)}), HasSubstr("has no layers"));
  EXPECT_THAT(refused("TransformerSpec", 7,
                      {embedding(3, 8), variable("encoder/activation", {}, 1, 1, "\x06")}),
              HasSubstr("activation 6.000000 is not known (0 to 3)"));
  const auto eight = [](const std::string& tensor) {
    return variable(tensor, {8}, 0, 32, floats(8));
  };
  EXPECT_THAT(refused("TransformerSpec", 7,
                      {embedding(3, 8), eight("encoder/layernorm_embedding/gamma"),
                       eight("encoder/layernorm_embedding/beta"),
                       variable("encoder/layer_0/ffn/linear_0/weight", {8, 8}, 0, 256, floats(64)),
                       eight("encoder/layer_0/self_attention/layer_norm/gamma")}),
              HasSubstr("self_attention/layer_norm/beta: is missing, unlike that of other norms"));
}

TEST(CTranslate2Models, OtherBinariesAreNotTaken) {
  const TestFolder folder;
  folder.write("model.bin", "PK\x03\x04");
  EXPECT_THAT(message_of<Error>([&] { Weights weights(folder.path()); }), HasSubstr("pickle"));
  folder.write("model.bin", number(std::uint32_t{9}));
  EXPECT_THAT(message_of<Error>([&] { Weights weights(folder.path()); }),
              HasSubstr("has binary version 9, must be 2 to 6"));
}

}  // namespace
}  // namespace attn
