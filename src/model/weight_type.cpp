#include "model/weight_type.h"

#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>

#include "base/half.h"

namespace attn {
namespace {

static_assert(std::endian::native == std::endian::little, "weights are read where they lie");

struct Type {
  WeightType type;
  const char* name;
  std::uint64_t elements, bytes;  // of a block
};

// In the order of the enumeration.
constexpr std::array<Type, 9> kTypes = {{{WeightType::f32, "F32", 1, 4},
                                         {WeightType::f16, "F16", 1, 2},
                                         {WeightType::bf16, "BF16", 1, 2},
                                         {WeightType::q8_0, "Q8_0", 32, 34},
                                         {WeightType::q4_0, "Q4_0", 32, 18},
                                         {WeightType::q4_1, "Q4_1", 32, 20},
                                         {WeightType::q5_0, "Q5_0", 32, 22},
                                         {WeightType::q5_1, "Q5_1", 32, 24},
                                         {WeightType::q6_k, "Q6_K", 256, 210}}};

const Type& of(WeightType type) { return kTypes[static_cast<std::size_t>(type)]; }

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
float half_at(const std::byte* p) { return float16_value(load<std::uint16_t>(p)); }
int low(std::byte b) { return std::to_integer<int>(b) & 15; }
int high(std::byte b) { return std::to_integer<int>(b) >> 4; }

// Each reads one block. Products of a scale and a number are exact but for Q6_K's, so that a fused
// multiply-add changes nothing.

// scale, 32 signed bytes
void read_q8_0(const std::byte* in, float* out) {
  const float scale = half_at(in);
  for (int i = 0; i < 32; ++i) {
    out[i] = static_cast<float>(load<std::int8_t>(in + 2 + i)) * scale;
  }
}

// scale, 16 bytes: low halves are elements 0 to 15, high halves 16 to 31
void read_q4_0(const std::byte* in, float* out) {
  const float scale = half_at(in);
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<float>(low(in[2 + i]) - 8) * scale;
    out[i + 16] = static_cast<float>(high(in[2 + i]) - 8) * scale;
  }
}

// scale, minimum, 16 bytes as above
void read_q4_1(const std::byte* in, float* out) {
  const float scale = half_at(in), minimum = half_at(in + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<float>(low(in[4 + i])) * scale + minimum;
    out[i + 16] = static_cast<float>(high(in[4 + i])) * scale + minimum;
  }
}

// The fifth bits of elements i and i + 16, as 0 or 16.
int fifth(std::uint32_t bits, int element) { return static_cast<int>(bits >> element & 1) << 4; }

// scale, 32 fifth bits, 16 bytes as above
void read_q5_0(const std::byte* in, float* out) {
  const float scale = half_at(in);
  const auto bits = load<std::uint32_t>(in + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<float>((low(in[6 + i]) | fifth(bits, i)) - 16) * scale;
    out[i + 16] = static_cast<float>((high(in[6 + i]) | fifth(bits, i + 16)) - 16) * scale;
  }
}

// scale, minimum, 32 fifth bits, 16 bytes as above
void read_q5_1(const std::byte* in, float* out) {
  const float scale = half_at(in), minimum = half_at(in + 2);
  const auto bits = load<std::uint32_t>(in + 4);
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<float>(low(in[8 + i]) | fifth(bits, i)) * scale + minimum;
    out[i + 16] = static_cast<float>(high(in[8 + i]) | fifth(bits, i + 16)) * scale + minimum;
  }
}

// 128 bytes of low halves, 64 bytes of upper two bits, 16 signed scales, the scale of scales. Each
// half of the block keeps four runs of 32 elements: two in the low, two in the high halves.
void read_q6_k(const std::byte* in, float* out) {
  const std::byte* const scales = in + 192;
  const float scale = half_at(in + 208);
  for (int run = 0; run < 8; ++run) {
    const int half = run / 4, part = run % 4;
    const std::byte* const lows = in + 64 * half + 32 * (part % 2);
    const std::byte* const uppers = in + 128 + 32 * half;
    for (int i = 0; i < 32; ++i) {
      const int bits = part < 2 ? low(lows[i]) : high(lows[i]);
      const int upper = std::to_integer<int>(uppers[i]) >> (2 * part) & 3;
      // ggml's order: the product with the number is the one that rounds.
      const float group = scale * static_cast<float>(load<std::int8_t>(scales + 2 * run + i / 16));
      out[32 * run + i] = group * static_cast<float>((bits | upper << 4) - 32);
    }
  }
}

template <WeightType type, class Read>
void convert(const std::byte* in, std::span<float> out, Read read) {
  constexpr Type kType = kTypes[static_cast<std::size_t>(type)];
  for (std::size_t i = 0; i < out.size(); i += kType.elements, in += kType.bytes) {
    read(in, out.data() + i);
  }
}

void to_floats(WeightType type, const std::byte* in, std::span<float> out) {
  switch (type) {
    case WeightType::f32: std::memcpy(out.data(), in, out.size_bytes()); return;
    case WeightType::f16:
      return convert<WeightType::f16>(in, out, [](auto* p, float* x) { *x = half_at(p); });
    case WeightType::bf16:
      return convert<WeightType::bf16>(
          in, out, [](auto* p, float* x) { *x = bfloat16_value(load<std::uint16_t>(p)); });
    case WeightType::q8_0: return convert<WeightType::q8_0>(in, out, read_q8_0);
    case WeightType::q4_0: return convert<WeightType::q4_0>(in, out, read_q4_0);
    case WeightType::q4_1: return convert<WeightType::q4_1>(in, out, read_q4_1);
    case WeightType::q5_0: return convert<WeightType::q5_0>(in, out, read_q5_0);
    case WeightType::q5_1: return convert<WeightType::q5_1>(in, out, read_q5_1);
    case WeightType::q6_k: return convert<WeightType::q6_k>(in, out, read_q6_k);
  }
}

}  // namespace

const char* to_string(WeightType type) { return of(type).name; }

std::optional<WeightType> weight_type(std::string_view name) {
  for (const Type& type : kTypes) {
    if (type.name == name) return type.type;
  }
  return std::nullopt;
}

std::string known_weight_types() {
  std::string names;
  for (const Type& type : kTypes) names += (names.empty() ? "" : ", ") + std::string(type.name);
  return names;
}

std::uint64_t block_elements(WeightType type) { return of(type).elements; }

std::optional<std::uint64_t> weight_bytes(WeightType type, std::uint64_t elements) {
  std::uint64_t bytes = 0;
  if (elements % of(type).elements != 0 ||
      __builtin_mul_overflow(elements / of(type).elements, of(type).bytes, &bytes)) {
    return std::nullopt;
  }
  return bytes;
}

void rows_to_floats(WeightType type, std::span<const std::byte> matrix, std::int64_t width,
                    std::int64_t begin, std::int64_t end, std::span<float> out) {
  const std::string where = "[rows_to_floats] " + std::string(to_string(type)) + " rows of " +
                            std::to_string(width) + ": ";
  const auto elements = static_cast<std::uint64_t>(width);
  if (width < 1 || elements % block_elements(type) != 0 || elements > matrix.size() * 2) {
    throw std::invalid_argument(where + "not whole blocks of a matrix of " +
                                std::to_string(matrix.size()) + " bytes");
  }
  const std::uint64_t row_bytes = elements / of(type).elements * of(type).bytes;
  const std::uint64_t rows = matrix.size() / row_bytes;
  if (begin < 0 || begin > end || static_cast<std::uint64_t>(end) > rows) {
    throw std::invalid_argument(where + "rows " + std::to_string(begin) + " to " +
                                std::to_string(end) + " of " + std::to_string(rows));
  }
  const auto count = static_cast<std::uint64_t>(end - begin) * elements;
  if (out.size() != count) {
    throw std::invalid_argument(where + std::to_string(count) + " numbers, out has room for " +
                                std::to_string(out.size()));
  }
  if (out.empty()) return;
  to_floats(type, matrix.data() + static_cast<std::uint64_t>(begin) * row_bytes, out);
}

}  // namespace attn
