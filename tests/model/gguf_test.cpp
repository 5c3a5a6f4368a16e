// Files that are wrong, each in one way, and the message that says which; and a file of gguf-py's.
#include "model/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "attn/error.h"
#include "folder.h"
#include "gguf_file.h"

namespace attn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::uint64_t kHuge = ~0ULL;

Gguf parse(const std::string& file) {
  return Gguf(std::as_bytes(std::span(file.data(), file.size())), "x.gguf");
}

struct Hostile {
  const char* name;
  std::string file;
  std::string message;
};

std::string header(std::uint64_t tensors, std::uint64_t pairs) {
  return "GGUF" + u32(3) + u64(tensors) + u64(pairs);
}
std::string with_pair(const std::string& pair) { return GgufFile{.pairs = {pair}}.bytes(); }
// Two float32 tensors of eight numbers, one byte range each.
std::string with_two(std::uint64_t first, std::uint64_t second, std::size_t data) {
  return GgufFile{.tensors = {gguf_tensor("a", {8}, 0, first), gguf_tensor("b", {8}, 0, second)},
                  .data = data}
      .bytes();
}
std::string with_tensor(const std::vector<std::uint64_t>& sizes, std::uint32_t type,
                        std::uint64_t offset = 0, std::size_t data = 32) {
  return GgufFile{.tensors = {gguf_tensor("a", sizes, type, offset)}, .data = data}.bytes();
}

std::vector<Hostile> hostile_headers() {
  std::string many = header(0, 65537);
  many.resize(many.size() + 65537 * 13);
  return {
      {"empty", "", "truncated: 4 bytes wanted at byte 0, 0 are left"},
      {"magic", GgufFile{.magic = "GGML"}.bytes(), "does not begin with \"GGUF\""},
      {"version_0", GgufFile{.version = 0}.bytes(), "has version 0, 2 and 3 are read"},
      {"version_1", GgufFile{.version = 1}.bytes(), "has version 1, 2 and 3 are read"},
      {"version_4", GgufFile{.version = 4}.bytes(), "has version 4, 2 and 3 are read"},
      {"big_endian", GgufFile{.version = 0x03000000}.bytes(), "is big-endian"},
      {"most_keys", header(0, kHuge), "says 18446744073709551615 keys, 0 bytes are left"},
      {"most_tensors", header(kHuge, 0), "says 18446744073709551615 tensors, 0 bytes are left"},
      {"wrapping_keys", header(0, kHuge / 13 + 1), "keys, 0 bytes are left"},
      {"one_key_too_many", header(0, 1) + std::string(12, '\0'), "1 keys, 12 bytes are left"},
      {"too_many_keys", many, "has 65537 keys, at most 65536 are allowed"},
  };
}

std::vector<Hostile> hostile_metadata() {
  std::string nested = u32(4) + u64(0);
  for (int i = 0; i < 100; ++i) nested = gguf_array(9, 1, nested);
  const std::string padding(16, '\0');
  return {
      {"key_past_end", header(0, 1) + u64(100) + padding, "key 0: truncated: 100 bytes wanted"},
      {"key_of_most", header(0, 1) + u64(kHuge) + padding,
       "key 0: truncated: 18446744073709551615 bytes wanted"},
      {"key_empty", with_pair(gguf_pair("", 4, u32(1))), "the name has 0 bytes, must have 1 to"},
      {"key_long", with_pair(gguf_pair(std::string(65536, 'k'), 4, u32(1))),
       "the name has 65536 bytes"},
      {"key_not_utf8", with_pair(gguf_pair("a\xff", 4, u32(1))), "key 0: the name is not UTF-8"},
      {"key_surrogate", with_pair(gguf_pair("\xed\xa0\x80", 4, u32(1))), "is not UTF-8"},
      {"key_overlong", with_pair(gguf_pair("\xc0\xaf", 4, u32(1))), "is not UTF-8"},
      {"key_cut", with_pair(gguf_pair("\xe2\x82", 4, u32(1))), "is not UTF-8"},
      {"key_twice",
       GgufFile{.pairs = {gguf_pair("k", 4, u32(1)), gguf_pair("k", 5, u32(1))}}.bytes(),
       "key k: appears twice"},
      {"type_13", with_pair(gguf_pair("k", 13, u64(1))), "key k: has the unknown type 13"},
      {"type_of_most", with_pair(gguf_pair("k", 0xffffffff, u64(1))), "unknown type 4294967295"},
      {"value_cut", with_pair(gguf_pair("k", 10, u32(1))), "key k: truncated: 8 bytes wanted"},
      {"boolean", with_pair(gguf_pair("k", 7, "\x02")), "holds the boolean 2, must be 0 or 1"},
      {"boolean_in_array", with_pair(gguf_pair("k", 9, gguf_array(7, 2, "\x01\xff"))),
       "holds the boolean 255"},
      {"text_past_end", with_pair(gguf_pair("k", 8, u64(5) + "four")),
       "key k: truncated: 5 bytes wanted"},
      {"text_of_most", with_pair(gguf_pair("k", 8, u64(kHuge) + "four")), "key k: truncated"},
      {"array_type", with_pair(gguf_pair("k", 9, gguf_array(13, 0, ""))), "unknown type 13"},
      {"array_of_most", with_pair(gguf_pair("k", 9, gguf_array(0, kHuge, "1234"))),
       "18446744073709551615 elements of uint8, 4 bytes are left"},
      // 2^61 + 1 elements of eight bytes are eight bytes, when the product wraps.
      {"array_wraps", with_pair(gguf_pair("k", 9, gguf_array(10, (1ULL << 61) + 1, u64(0)))),
       "2305843009213693953 elements of uint64, 8 bytes are left"},
      {"array_cut", with_pair(gguf_pair("k", 9, gguf_array(4, 2, u32(1)))),
       "2 elements of uint32, 4 bytes are left"},
      {"texts_of_most", with_pair(gguf_pair("k", 9, gguf_array(8, kHuge, u64(0)))),
       "elements of string, 8 bytes are left"},
      {"texts_cut", with_pair(gguf_pair("k", 9, gguf_array(8, 1, u64(1)))),
       "key k: truncated: 1 bytes wanted"},
      {"arrays_of_most", with_pair(gguf_pair("k", 9, gguf_array(9, kHuge, padding))),
       "elements of array, 16 bytes are left"},
      {"nested", with_pair(gguf_pair("k", 9, nested)), "more than 8 arrays inside each other"},
      {"alignment_type", with_pair(gguf_pair("general.alignment", 10, u64(32))),
       "key general.alignment: is uint64, must be uint32"},
      {"alignment_0", with_pair(gguf_pair("general.alignment", 4, u32(0))),
       "is 0, must be a power of two"},
      {"alignment_24", with_pair(gguf_pair("general.alignment", 4, u32(24))),
       "is 24, must be a power of two"},
  };
}

std::vector<Hostile> hostile_tensors() {
  const std::uint64_t half = 1ULL << 32;
  const std::string filler(64, '\0');
  return {
      {"name_past_end", header(1, 0) + u64(100) + filler, "tensor 0: truncated: 100 bytes wanted"},
      {"name_empty", GgufFile{.tensors = {gguf_tensor("", {8}, 0, 0)}}.bytes(),
       "tensor 0: the name has 0 bytes"},
      {"name_not_utf8", GgufFile{.tensors = {gguf_tensor("\x80", {8}, 0, 0)}}.bytes(),
       "tensor 0: the name is not UTF-8"},
      {"name_twice",
       GgufFile{.tensors = {gguf_tensor("a", {8}, 0, 0), gguf_tensor("a", {8}, 0, 32)}, .data = 64}
           .bytes(),
       "tensor a: appears twice"},
      {"dimensions_5", with_tensor({1, 1, 1, 1, 1}, 0), "has 5 dimensions, at most 4"},
      {"dimensions_of_most", header(1, 0) + gguf_text("a") + u32(0xffffffff) + filler,
       "has 4294967295 dimensions"},
      {"size_of_most", with_tensor({kHuge}, 0),
       "a dimension of 18446744073709551615, must be less than 2^63"},
      {"shape_wraps", with_tensor({half, half}, 0), "the product of its shape overflows"},
      {"shape_wraps_to_one_row", with_tensor({32, half, half / 16}, 0), "its shape overflows"},
      {"bytes_wrap", with_tensor({1ULL << 62}, 0),
       "the size of its shape [4611686018427387904] overflows"},
      {"offset_wraps", with_tensor({8}, 0, kHuge - 31), "the size of its shape [8] overflows"},
      {"type_4", with_tensor({8}, 4), "tensor a: has the type number 4, which is not known (F32, "},
      {"type_q4_k", with_tensor({256}, 12), "tensor a: has the type Q4_K, which is not known"},
      {"type_of_most", with_tensor({8}, 0xffffffff), "has the type number 4294967295"},
      {"part_of_a_block", with_tensor({33}, 8), "rows of 33, not whole blocks of 32 that Q8_0"},
      {"rows_of_half_blocks", with_tensor({16, 2}, 2), "rows of 16, not whole blocks of 32"},
      {"q6_k_of_32", with_tensor({32}, 14), "rows of 32, not whole blocks of 256 that Q6_K needs"},
      {"scalar_in_blocks", with_tensor({}, 2), "rows of 1, not whole blocks"},
      {"unaligned", with_tensor({8}, 0, 4, 64), "begins at byte 4 of the data, not a multiple of"},
      {"out_of_file", with_tensor({9}, 0), "bytes 0 to 36 are out of range, the file has 32"},
      {"starts_out_of_file", with_tensor({8}, 0, 1ULL << 62), "are out of range, the file has 32"},
      {"no_data", with_tensor({8}, 0, 0, 0), "are out of range, the file has 0"},
      {"overlapping", with_two(0, 0, 32), "tensor b: overlaps tensor a"},
      {"overlapping_in_part",
       GgufFile{.tensors = {gguf_tensor("a", {9}, 0, 0), gguf_tensor("b", {8}, 0, 32)}, .data = 64}
           .bytes(),
       "tensor b: overlaps tensor a"},
      {"inside_another",
       GgufFile{.tensors = {gguf_tensor("a", {24}, 0, 0), gguf_tensor("b", {8}, 0, 32)}, .data = 96}
           .bytes(),
       "tensor b: overlaps tensor a"},
  };
}

TEST(Gguf, RefusesHostileFilesAndSaysWhy) {
  for (const auto& table : {hostile_headers(), hostile_metadata(), hostile_tensors()}) {
    for (const Hostile& h : table) {
      const std::string message = message_of<Error>([&] { parse(h.file); });
      EXPECT_THAT(message, HasSubstr(h.message)) << h.name;
      EXPECT_THAT(message, testing::StartsWith("x.gguf: ")) << h.name;
    }
  }
}

// No prefix of a good file is good, whatever section it ends in.
TEST(Gguf, RefusesEveryTruncation) {
  const std::string good =
      GgufFile{.pairs = {gguf_pair("general.name", 8, gguf_text("name")),
                         gguf_pair("numbers", 9, gguf_array(5, 3, std::string(12, '\1'))),
                         gguf_pair("texts", 9, gguf_array(8, 2, gguf_text("a") + gguf_text("")))},
               .tensors = {gguf_tensor("a", {8, 2}, 0, 0), gguf_tensor("b", {32}, 2, 64)},
               .data = 82}
          .bytes();
  EXPECT_EQ(parse(good).tensors().size(), 2U);
  for (std::size_t n = 0; n < good.size(); ++n) EXPECT_THROW(parse(good.substr(0, n)), Error) << n;
}

TEST(Gguf, ReadsWhatTheFormatAllows) {
  const std::string empty = GgufFile{.version = 2}.bytes();
  EXPECT_EQ(parse(empty).version(), 2U);
  EXPECT_TRUE(parse(empty).tensors().empty());
  // Gaps, any order, scalars, empty tensors, another alignment, bytes behind the last tensor.
  const std::string file =
      GgufFile{.pairs = {gguf_pair("general.alignment", 4, u32(8))},
               .tensors = {gguf_tensor("c", {3, 2}, 1, 24), gguf_tensor("b", {}, 0, 0),
                           gguf_tensor("a", {32, 0}, 8, 40)},
               .data = 50,
               .alignment = 8}
          .bytes();
  const std::vector<TensorEntry> tensors = parse(file).tensors();
  ASSERT_EQ(tensors.size(), 3U);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_THAT(tensors[0].shape, ElementsAre(0, 32));
  EXPECT_EQ(tensors[0].begin, tensors[0].end);
  EXPECT_TRUE(tensors[1].shape.empty());
  EXPECT_EQ(tensors[1].begin, file.size() - 50);
  EXPECT_EQ(tensors[1].end - tensors[1].begin, 4U);
  EXPECT_EQ(tensors[2].dtype, "F16");
  EXPECT_THAT(tensors[2].shape, ElementsAre(2, 3));
  EXPECT_EQ(tensors[2].begin, file.size() - 50 + 24);
  // Arrays in arrays are passed over.
  const std::string nested = with_pair(
      gguf_pair("k", 9, gguf_array(9, 2, gguf_array(8, 1, gguf_text("a")) + gguf_array(0, 0, ""))));
  EXPECT_TRUE(parse(nested).has("k"));
}

TEST(Gguf, ReadsAFileOfGgufPy) {
  const std::string file = slurp(std::string(ATTN_TEST_DATA) + "/golden.gguf");
  const Gguf gguf = parse(file);
  EXPECT_EQ(gguf.version(), 3U);
  EXPECT_EQ(gguf.text("general.architecture"), "golden");
  EXPECT_EQ(gguf.integer("golden.uint8"), 200);
  EXPECT_EQ(gguf.integer("golden.int8"), -100);
  EXPECT_EQ(gguf.integer("golden.uint16"), 60000);
  EXPECT_EQ(gguf.integer("golden.int16"), -30000);
  EXPECT_EQ(gguf.integer("golden.uint32"), 4000000000);
  EXPECT_EQ(gguf.integer("golden.int32"), -2000000000);
  EXPECT_EQ(gguf.integer("golden.uint64"), INT64_MAX);
  EXPECT_EQ(gguf.integer("golden.int64"), INT64_MIN);
  EXPECT_EQ(gguf.real("golden.float32"), static_cast<double>(0.1F));
  EXPECT_EQ(gguf.real("golden.float64"), 0.1);
  EXPECT_EQ(gguf.real("golden.int8"), -100);
  EXPECT_TRUE(gguf.boolean("golden.bool"));
  EXPECT_EQ(gguf.text("golden.string"), "na\xc3\xafve");
  EXPECT_THAT(gguf.texts("tokenizer.ggml.tokens"),
              ElementsAre("<s>", "\xe2\x96\x81the", "\xff", ""));
  EXPECT_THAT(gguf.reals("tokenizer.ggml.scores"),
              ElementsAre(-1.5, 0, 2, static_cast<double>(1e30F)));
  EXPECT_THAT(gguf.integers("tokenizer.ggml.token_type"), ElementsAre(3, 1, 6, 1));
  EXPECT_THAT(gguf.texts("tokenizer.ggml.merges"), ElementsAre("t h", "th e"));
  EXPECT_THAT(gguf.booleans("golden.booleans"), ElementsAre(true, false, true));
  EXPECT_FALSE(gguf.has("golden.none"));
  ASSERT_EQ(gguf.tensors().size(), 9U);
  EXPECT_EQ(gguf.tensors()[8].name, "Q8_0");
  EXPECT_EQ(gguf.tensors()[8].dtype, "Q8_0");
  EXPECT_THAT(gguf.tensors()[8].shape, ElementsAre(3, 64));
}

TEST(Gguf, LookupsNameTheKey) {
  const std::string file =
      GgufFile{.pairs = {gguf_pair("number", 4, u32(7)), gguf_pair("large", 10, u64(1ULL << 63)),
                         gguf_pair("bytes", 8, gguf_text("\xff")),
                         gguf_pair("many", 9, gguf_array(10, 2, u64(1) + u64(kHuge))),
                         gguf_pair("half", 6, raw(0.5F))}}
          .bytes();
  const Gguf gguf = parse(file);
  const auto expect = [](const std::string& message, const char* part) {
    EXPECT_THAT(message, HasSubstr(part));
  };
  expect(message_of<Error>([&] { (void)gguf.integer("none"); }), "x.gguf: key none: is missing");
  expect(message_of<Error>([&] { (void)gguf.text("number"); }),
         "key number: is uint32, must be a string");
  expect(message_of<Error>([&] { (void)gguf.texts("many"); }),
         "key many: is array of uint64, must be an array of strings");
  expect(message_of<Error>([&] { (void)gguf.integers("number"); }), "must be an array of whole");
  expect(message_of<Error>([&] { (void)gguf.integer("many"); }), "must be a whole number");
  expect(message_of<Error>([&] { (void)gguf.integer("half"); }), "is float32, must be a whole");
  expect(message_of<Error>([&] { (void)gguf.boolean("number"); }), "must be a boolean");
  expect(message_of<Error>([&] { (void)gguf.integer("large"); }),
         "key large: holds 9223372036854775808, must be less than 2^63");
  expect(message_of<Error>([&] { (void)gguf.integers("many"); }), "holds 18446744073709551615");
  expect(message_of<Error>([&] { (void)gguf.text("bytes"); }), "key bytes: is not UTF-8");
  EXPECT_EQ(gguf.real("large"), 0x1p63);
}

}  // namespace
}  // namespace attn
