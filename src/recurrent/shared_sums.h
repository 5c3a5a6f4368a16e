// Gradients of what all sequences share: each sequence leaves its own sum, and they are added in
// their order, so that no bit depends on threads.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/tensor.h"
#include "kernels/params.h"

namespace attn {

// One sum a sequence of a tensor [1, 1, rows, channels]; nothing when `to` is empty.
class SharedSums {
 public:
  SharedSums(const Tensor& to, std::int64_t sequences)
      : to_(to),
        sequences_(sequences),
        bytes_(static_cast<std::size_t>(to.empty() ? 0 : sequences * to.size()) *
               size_of(to.dtype)) {}

  // [sequences][rows][channels], for kernels to fill.
  kernels::Matrix matrix() {
    if (to_.empty()) return {};
    return {bytes_.data(), to_.length() * to_.width(), 0, to_.width()};
  }

  void write() const {
    if (to_.empty()) return;
    if (to_.dtype == DType::f64)
      write_as<double>();
    else
      write_as<float>();
  }

 private:
  template <class T>
  void write_as() const {
    const auto* sums = reinterpret_cast<const T*>(bytes_.data());
    for (std::int64_t l = 0; l < to_.length(); ++l) {
      T* row = to_.row<T>(0, 0, l);
      for (std::int64_t i = 0; i < to_.width(); ++i) {
        T sum = 0;
        for (std::int64_t s = 0; s < sequences_; ++s)
          sum += sums[(s * to_.length() + l) * to_.width() + i];
        row[i] = sum;
      }
    }
  }

  Tensor to_;
  std::int64_t sequences_;
  std::vector<char> bytes_;
};

}  // namespace attn
