// 16-bit floating point without branches, so that loops over rows vectorise.
#pragma once

#include <bit>
#include <cstdint>

namespace attn {

// Round to nearest, ties to even; NaN stays NaN.
inline std::uint16_t bfloat16_bits(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<std::uint16_t>(x != x ? (bits >> 16) | 0x40 : rounded);
}

inline std::uint16_t float16_bits(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), size = bits & 0x7fffffff;
  const std::uint32_t normal = (size - (112u << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
  // Adding 0.5 leaves the multiple of 2^-24, rounded, in the low bits.
  const std::uint32_t small =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5f) - (126u << 23);
  std::uint32_t result = size < (113u << 23) ? small : normal;
  result = size >= 0x477ff000 ? 0x7c00 : result;  // 65520 and above round to infinity
  result = size > 0x7f800000 ? 0x7e00 : result;
  return static_cast<std::uint16_t>((bits >> 16 & 0x8000) | result);
}

inline float bfloat16_value(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

inline float float16_value(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16, size = bits & 0x7fff;
  // Infinity and NaN keep their meaning in the widest exponent.
  const std::uint32_t normal = (size << 13) + ((size >= 0x7c00 ? 224u : 112u) << 23);
  const std::uint32_t small = std::bit_cast<std::uint32_t>(static_cast<float>(size) * 0x1p-24f);
  return std::bit_cast<float>(sign | (size < 0x400 ? small : normal));
}

}  // namespace attn
