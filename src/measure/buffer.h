// Memory and numbers for what is timed.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

#include "attn/tensor.h"

namespace attn::measuring {

inline std::int64_t elements(const Shape& shape) {
  return shape[0] * shape[1] * shape[2] * shape[3];
}

// Uniform in [-1, 1).
class Noise {
 public:
  explicit Noise(std::uint32_t seed) : state_(seed) {}
  std::uint32_t bits() { return state_ = state_ * 1664525u + 1013904223u; }
  float next() { return static_cast<float>(bits() >> 8) * 0x1p-23f - 1.0f; }

 private:
  std::uint32_t state_;
};

// Memory for a tensor: 64-byte aligned, as the usual libraries hand it out.
class Buffer {
 public:
  Buffer() = default;
  // Zeroed: outputs.
  Buffer(DType dtype, const Shape& shape);
  // In [-1, 1), always the same for a seed.
  static Buffer random(DType dtype, const Shape& shape, std::uint32_t seed);

  Tensor view() const;
  double bytes() const;

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  DType dtype_ = DType::f32;
  Shape shape_{};
  std::unique_ptr<void, Free> memory_;
};

// f(x) for every number x of a random buffer.
template <class F>
Buffer drawn(DType dtype, const Shape& shape, std::uint32_t seed, const F& f) {
  Buffer buffer = Buffer::random(dtype, shape, seed);
  const std::int64_t count = elements(shape);
  const auto replace = [&](auto* x) {
    for (std::int64_t i = 0; i < count; ++i) {
      x[i] = static_cast<std::remove_reference_t<decltype(*x)>>(f(static_cast<double>(x[i])));
    }
  };
  void* data = buffer.view().data;
  dtype == DType::f64 ? replace(static_cast<double*>(data)) : replace(static_cast<float*>(data));
  return buffer;
}

// `unit`, in [-1, 1), to [low, high).
inline double between(double unit, double low, double high) {
  return low + (high - low) * (unit + 1) / 2;
}

}  // namespace attn::measuring
