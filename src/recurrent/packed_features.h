// The directions of random features as the kernels read them, made once a draw.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/linear_attention.h"

namespace attn {

// Rows of whole vectors of any instruction set, on a cache line.
template <class T>
struct PackedDirections {
  static constexpr std::int64_t kMultiple = 64 / sizeof(T);

  PackedDirections(const std::vector<double>& directions, std::int64_t width, std::int64_t count)
      : step((count + kMultiple - 1) / kMultiple * kMultiple),
        row_step((width + kMultiple - 1) / kMultiple * kMultiple),
        across_(static_cast<std::size_t>(width * step + kMultiple)),
        by_row_(static_cast<std::size_t>(count * row_step + kMultiple)) {
    across = aligned(across_);
    by_row = aligned(by_row_);
    for (std::int64_t r = 0; r < count; ++r) {
      for (std::int64_t c = 0; c < width; ++c)
        across[c * step + r] = by_row[r * row_step + c] =
            static_cast<T>(directions[static_cast<std::size_t>(r * width + c)]);
    }
  }
  PackedDirections(const PackedDirections&) = delete;
  PackedDirections& operator=(const PackedDirections&) = delete;

  std::int64_t step, row_step;
  T *across, *by_row;  // [width][step], [count][row_step]

 private:
  static T* aligned(std::vector<T>& x) {
    const auto at = reinterpret_cast<std::uintptr_t>(x.data());
    return x.data() + (64 - at % 64) % 64 / sizeof(T);
  }
  std::vector<T> across_, by_row_;
};

struct RandomFeatures::Packed {
  PackedDirections<float> f32;
  PackedDirections<double> f64;

  template <class T>
  const PackedDirections<T>& of() const {
    if constexpr (sizeof(T) == 4)
      return f32;
    else
      return f64;
  }
};

}  // namespace attn
