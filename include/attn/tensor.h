// Tensor views: pointer, type, logical shape [batch, heads, length, width], strides.
//
// A view owns nothing; the memory must outlive it. The last dimension has stride 1, all others any
// stride (in elements, zero and negative allowed), so [B,H,L,D] and [B,L,H,D] memory both work
// without a copy. Views are cheap to copy and safe to share between threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

namespace attn {

enum class DType : std::uint8_t { f32, f64, bf16, f16, i8 };

// "float32", "float64", ...
const char* name(DType type);
std::size_t size_of(DType type);

// 16-bit floating point as it is stored.
struct BFloat16 {
  std::uint16_t bits = 0;
};
struct Float16 {
  std::uint16_t bits = 0;
};
// Round to nearest, ties to even; NaN stays NaN.
BFloat16 to_bfloat16(float x);
Float16 to_float16(float x);
float to_float(BFloat16 x);
float to_float(Float16 x);

template <class T>
constexpr DType dtype_of() {
  using Bare = std::remove_cv_t<T>;
  if constexpr (std::is_same_v<Bare, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<Bare, double>)
    return DType::f64;
  else if constexpr (std::is_same_v<Bare, BFloat16>)
    return DType::bf16;
  else if constexpr (std::is_same_v<Bare, Float16>)
    return DType::f16;
  else if constexpr (std::is_same_v<Bare, std::int8_t>)
    return DType::i8;
  else
    static_assert(sizeof(T) == 0, "no attn::DType for this C++ type");
}

using Shape = std::array<std::int64_t, 4>;    // batch, heads, length, width
using Strides = std::array<std::int64_t, 4>;  // in elements; the last must be 1

// Strides of contiguous [B,H,L,D] memory, and of [B,L,H,D] memory seen as [B,H,L,D].
Strides strides_bhld(const Shape& shape);
Strides strides_blhd(const Shape& shape);

// "[2, 12, 512, 64]"
std::string to_string(const Shape& shape);

// A read-only view. Void is `const void` here and `void` in Tensor.
template <class Void>
struct BasicTensor {
  template <class T>
  using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;

  Void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape{};
  Strides strides{};

  BasicTensor() = default;
  BasicTensor(Void* memory, DType type, const Shape& logical, const Strides& steps)
      : data(memory), dtype(type), shape(logical), strides(steps) {}

  // Contiguous [batch, heads, length, width] memory.
  template <class T>
  BasicTensor(T* memory, const Shape& logical)
      : BasicTensor(memory, dtype_of<T>(), logical, strides_bhld(logical)) {}
  template <class T>
  BasicTensor(T* memory, const Shape& logical, const Strides& steps)
      : BasicTensor(memory, dtype_of<T>(), logical, steps) {}

  // A writable view reads as a read-only one.
  template <class Other,
            class = std::enable_if_t<std::is_const_v<Void> && !std::is_const_v<Other>>>
  BasicTensor(const BasicTensor<Other>& other)  // NOLINT(google-explicit-constructor)
      : BasicTensor(other.data, other.dtype, other.shape, other.strides) {}

  // Memory laid out [batch, length, heads, width], as most projections write it.
  template <class T>
  static BasicTensor blhd(T* memory, const Shape& logical) {
    return {memory, dtype_of<T>(), logical, strides_blhd(logical)};
  }

  bool empty() const { return data == nullptr; }
  std::int64_t batch() const { return shape[0]; }
  std::int64_t heads() const { return shape[1]; }
  std::int64_t length() const { return shape[2]; }
  std::int64_t width() const { return shape[3]; }
  std::int64_t size() const { return shape[0] * shape[1] * shape[2] * shape[3]; }

  std::int64_t offset(std::int64_t b, std::int64_t h, std::int64_t l) const {
    return b * strides[0] + h * strides[1] + l * strides[2];
  }
  // The row (b, h, l); the caller knows the type.
  template <class T>
  Element<T>* row(std::int64_t b, std::int64_t h, std::int64_t l) const {
    return static_cast<Element<T>*>(data) + offset(b, h, l);
  }
};

using ConstTensor = BasicTensor<const void>;
using Tensor = BasicTensor<void>;

}  // namespace attn
