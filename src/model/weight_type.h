// Element types of weights, and their numbers as float32.
//
// The quantised ones are ggml's (ggml-common.h, ggml-quants.c): a row is whole blocks of 32 or 256
// elements, each block with its own scale, and what comes out are ggml's bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace attn {

enum class WeightType : std::uint8_t { f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q6_k };

// "F32", as safetensors and GGUF call it.
const char* to_string(WeightType type);
// Nothing for a name that is none of the above.
std::optional<WeightType> weight_type(std::string_view name);
// "F32, F16, ..."; for messages.
std::string known_weight_types();

// Elements of a block; 1 for types without blocks.
std::uint64_t block_elements(WeightType type);
// Bytes of whole blocks; nothing when `elements` leaves a part of one or the product overflows.
std::optional<std::uint64_t> weight_bytes(WeightType type, std::uint64_t elements);

// Rows [begin, end) of a matrix [..][width] as float32, [end - begin][width] in `out`. `matrix` may
// lie at any address. Throws std::invalid_argument when a row is not whole blocks, the rows are not
// inside the matrix, or `out` has another size.
void rows_to_floats(WeightType type, std::span<const std::byte> matrix, std::int64_t width,
                    std::int64_t begin, std::int64_t end, std::span<float> out);

}  // namespace attn
