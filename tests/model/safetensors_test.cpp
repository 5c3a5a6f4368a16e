// Files that are wrong, each in one way, and the message that says which.
#include "model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "attn/error.h"
#include "folder.h"

namespace attn {
namespace {

std::string file_of(const std::string& header, std::size_t data, std::uint64_t claimed) {
  std::string file(8, '\0');
  std::memcpy(file.data(), &claimed, 8);
  return file + header + std::string(data, '\0');
}
std::string file_of(const std::string& header, std::size_t data) {
  return file_of(header, data, header.size());
}

std::vector<TensorEntry> parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file.data(), file.size())), "x.safetensors");
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":[)" + shape +
         R"(],"data_offsets":[)" + offsets + "]}";
}

struct Hostile {
  const char* name;
  std::string file;
  std::string message;
};

std::vector<Hostile> hostile() {
  const auto one = [](const std::string& t, std::size_t data) {
    return file_of("{" + t + "}", data);
  };
  return {
      {"empty", "", "truncated: 0 bytes"},
      {"short", "1234567", "truncated: 7 bytes"},
      {"oversized", file_of("{}", 0, 100'000'001), "100000001 bytes, at most 100000000"},
      {"huge", file_of("{}", 0, ~0ULL), "18446744073709551615 bytes, at most"},
      {"header_past_end", file_of("{}", 0, 3), "truncated: the header says 3 bytes"},
      {"no_header", file_of("", 0), "does not start with '{'"},
      {"space_first", file_of(" {}", 0), "does not start with '{'"},
      {"not_json", file_of("{,}", 0), "invalid JSON at byte 2"},
      {"cut_json", file_of("{\"a\":", 0), "invalid JSON at byte"},
      {"two_values", file_of("{}{}", 0), "invalid JSON at byte"},
      {"not_utf8", file_of("{\"\xff\":{}}", 0), "invalid JSON at byte 3"},
      {"nan", file_of("{\"a\":NaN}", 0), "invalid JSON"},
      {"deep", file_of("{\"a\":" + std::string(5000, '['), 0), "more than 64 levels"},
      {"twice",
       file_of("{" + tensor("a", "F32", "1", "0,4") + "," + tensor("a", "F32", "1", "4,8") + "}",
               8),
       "the name \"a\" appears twice"},
      {"number", one("\"a\":3", 0), "tensor a: is a number, must be an object"},
      {"no_dtype", one(R"("a":{"shape":[1],"data_offsets":[0,4]})", 4),
       "tensor a: has no \"dtype\""},
      {"dtype_number", one(R"("a":{"dtype":1,"shape":[1],"data_offsets":[0,4]})", 4),
       "tensor a: \"dtype\" is a number, must be a string"},
      {"no_shape", one(R"("a":{"dtype":"F32","data_offsets":[0,4]})", 4),
       "tensor a: has no \"shape\""},
      {"no_offsets", one(R"("a":{"dtype":"F32","shape":[1]})", 4),
       "tensor a: has no \"data_offsets\""},
      {"unknown_field", one(R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1})", 4),
       "tensor a: has an unknown field \"x\""},
      {"unknown_dtype", one(tensor("a", "F33", "1", "0,4"), 4), "unknown type \"F33\""},
      {"three_offsets", one(tensor("a", "F32", "1", "0,4,4"), 4), "has 3 numbers, must be 2"},
      {"negative_shape", one(tensor("a", "F32", "-1", "0,4"), 4), "must be integers in [0, 2^63)"},
      {"real_shape", one(tensor("a", "F32", "1.0", "0,4"), 4), "must be integers"},
      {"text_shape", one(tensor("a", "F32", "\"1\"", "0,4"), 4), "holds a string"},
      {"shape_past_64_bits", one(tensor("a", "F32", "18446744073709551616", "0,4"), 4),
       "must be integers"},
      {"shape_overflows", one(tensor("a", "F32", "4294967296,4294967296,4294967296", "0,0"), 0),
       "tensor a: the product of its shape overflows"},
      {"bytes_overflow", one(tensor("a", "F32", "4611686018427387904", "0,0"), 0),
       "tensor a: the size of its shape [4611686018427387904] overflows"},
      {"backwards", one(tensor("a", "F32", "1", "4,0"), 4), "bytes 4 to 0 run backwards"},
      {"negative_offset", one(tensor("a", "F32", "1", "-4,0"), 4), "must be integers"},
      {"out_of_range", one(tensor("a", "F32", "2", "0,8"), 4),
       "tensor a: bytes 0 to 8 are out of range, the file has 4"},
      {"far_out_of_range",
       one(tensor("a", "F32", "1", "9223372036854775803,9223372036854775807"), 4),
       "are out of range"},
      {"wrong_size", one(tensor("a", "F32", "3", "0,8"), 8),
       "tensor a: bytes 0 to 8 are 8, but F32 [3] takes 12"},
      {"overlapping",
       file_of("{" + tensor("a", "F32", "2", "0,8") + "," + tensor("b", "F32", "2", "4,12") + "}",
               12),
       "tensor b: overlaps tensor a"},
      {"same_place",
       file_of("{" + tensor("a", "F32", "2", "0,8") + "," + tensor("b", "F32", "2", "0,8") + "}",
               8),
       "tensor b: overlaps tensor a"},
      {"gap",
       file_of("{" + tensor("a", "F32", "1", "0,4") + "," + tensor("b", "F32", "1", "8,12") + "}",
               12),
       "tensor b: 4 bytes before it belong to no tensor"},
      {"rest", one(tensor("a", "F32", "1", "0,4"), 9), "5 bytes at the end belong to no tensor"},
  };
}

TEST(Safetensors, RefusesHostileFilesAndSaysWhy) {
  for (const Hostile& h : hostile()) {
    const std::string message = message_of<Error>([&] { parse(h.file); });
    EXPECT_THAT(message, testing::HasSubstr(h.message)) << h.name;
    EXPECT_THAT(message, testing::StartsWith("x.safetensors: ")) << h.name;
  }
}

// No prefix of a good file is good, and no prefix reads past its end.
TEST(Safetensors, RefusesEveryTruncation) {
  const std::string good = file_of(
      "{" + tensor("a", "F32", "2,1", "0,8") + "," + tensor("b", "I64", "", "8,16") + "}", 16);
  EXPECT_EQ(parse(good).size(), 2U);
  for (std::size_t n = 0; n < good.size(); ++n) {
    EXPECT_THROW(parse(good.substr(0, n)), Error) << n;
  }
}

TEST(Safetensors, ReadsWhatTheFormatAllows) {
  const auto entries = parse(file_of(
      R"({"__metadata__":{"format":"pt"},)" + tensor("b", "F32", "2,3", "0,24") + "," +
          tensor("a", "BF16", "0,7", "24,24") + "," + tensor("c", "U8", "", "24,25") + "}   ",
      25));
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[0].name, "a");
  EXPECT_EQ(entries[1].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(entries[1].end - entries[1].begin, 24U);
  EXPECT_TRUE(entries[2].shape.empty());
  EXPECT_TRUE(parse(file_of("{}", 0)).empty());
}

}  // namespace
}  // namespace attn
