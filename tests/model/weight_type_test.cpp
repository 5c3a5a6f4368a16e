// Every element type against what gguf-py reads (tools/golden_gguf.py), bit for bit.
#include "model/weight_type.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/half.h"
#include "folder.h"
#include "golden.h"
#include "model/gguf.h"

namespace attn {
namespace {

TEST(WeightType, ReadsGgmlsBits) {
  const std::string file = slurp(std::string(ATTN_TEST_DATA) + "/golden.gguf");
  const auto bytes = std::as_bytes(std::span(file.data(), file.size()));
  const test::Golden golden("golden_gguf.txt");
  const Gguf gguf(bytes, "golden.gguf");
  for (const TensorEntry& tensor : gguf.tensors()) {
    SCOPED_TRACE(tensor.name);
    const WeightType type = weight_type(tensor.dtype).value();
    const std::vector<double>& expected = golden[tensor.name];
    const std::int64_t rows = tensor.shape[0], width = tensor.shape[1];
    EXPECT_EQ(weight_bytes(type, expected.size()), tensor.end - tensor.begin);
    // All rows at once, then each alone, from an odd address.
    std::vector<std::byte> odd(1);
    const auto matrix = bytes.subspan(tensor.begin, tensor.end - tensor.begin);
    odd.insert(odd.end(), matrix.begin(), matrix.end());
    std::vector<float> all(expected.size()), one(static_cast<std::size_t>(width));
    rows_to_floats(type, matrix, width, 0, rows, all);
    for (std::int64_t r = 0; r < rows; ++r) {
      rows_to_floats(type, std::span(odd).subspan(1), width, r, r + 1, one);
      EXPECT_EQ(std::memcmp(one.data(), all.data() + r * width, one.size() * sizeof(float)), 0);
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto value = static_cast<float>(expected[i]);
      EXPECT_EQ(std::bit_cast<std::uint32_t>(all[i]), std::bit_cast<std::uint32_t>(value)) << i;
    }
  }
}

TEST(WeightType, SixteenBitsAndBack) {
  for (std::uint32_t i = 0; i < 0x10000; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float half = float16_value(bits), brain = bfloat16_value(bits);
    if ((bits & 0x7fff) > 0x7c00) {
      EXPECT_TRUE(std::isnan(half)) << i;
    } else {
      EXPECT_EQ(float16_bits(half), bits);
    }
    if ((bits & 0x7fff) > 0x7f80) {
      EXPECT_TRUE(std::isnan(brain)) << i;
    } else {
      EXPECT_EQ(bfloat16_bits(brain), bits);
    }
  }
  EXPECT_EQ(float16_value(1), 0x1p-24F);
  EXPECT_EQ(float16_value(0x7bff), 65504);
  EXPECT_EQ(float16_value(0xfc00), -INFINITY);
}

TEST(WeightType, CountsBytes) {
  EXPECT_EQ(weight_bytes(WeightType::q4_1, 64), 40U);
  EXPECT_EQ(weight_bytes(WeightType::q6_k, 0), 0U);
  EXPECT_EQ(weight_bytes(WeightType::q4_1, 63), std::nullopt);
  EXPECT_EQ(weight_bytes(WeightType::f32, 1ULL << 62), std::nullopt);
  EXPECT_EQ(weight_bytes(WeightType::q8_0, ~0ULL - 31), std::nullopt);
  EXPECT_EQ(weight_type("Q4_K"), std::nullopt);
  EXPECT_EQ(known_weight_types(), "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q6_K");
}

TEST(WeightType, RefusesRowsThatAreNotThere) {
  const std::vector<std::byte> matrix(2 * 18);
  std::vector<float> out(32);
  const auto message = [&](std::int64_t width, std::int64_t begin, std::int64_t end) {
    return message_of<std::invalid_argument>(
        [&] { rows_to_floats(WeightType::q4_0, matrix, width, begin, end, out); });
  };
  EXPECT_EQ(message(32, 1, 2), "");
  EXPECT_THAT(message(32, 2, 3), testing::HasSubstr("rows 2 to 3 of 2"));
  EXPECT_THAT(message(32, -1, 0), testing::HasSubstr("rows -1 to 0 of 2"));
  EXPECT_THAT(message(32, 1, 0), testing::HasSubstr("rows 1 to 0 of 2"));
  EXPECT_THAT(message(32, 0, INT64_MAX), testing::HasSubstr("of 2"));
  EXPECT_THAT(message(32, 0, 2), testing::HasSubstr("64 numbers, out has room for 32"));
  for (const std::int64_t width : {INT64_MIN, std::int64_t{-32}, std::int64_t{0}, std::int64_t{31},
                                   std::int64_t{96}, INT64_MAX, std::int64_t{1} << 62}) {
    EXPECT_THAT(message(width, 0, 1), testing::HasSubstr("[rows_to_floats] Q4_0 rows of "))
        << width;
  }
}

}  // namespace
}  // namespace attn
