#include "nn/dense.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "base/threads.h"
#include "nn/few_rows.h"

namespace attn::nn {

void dense(const DenseParams& params, const Context& context) {
  DenseParams p = params;
  if (p.x_stride == 0) p.x_stride = p.in;
  if (p.w_stride == 0) p.w_stride = p.in;
  if (p.y_stride == 0) p.y_stride = p.out;
  // CBLAS libraries count in int.
  constexpr std::int64_t kLargest = std::numeric_limits<int>::max();
  for (const std::int64_t size : {p.rows, p.in, p.out, p.x_stride, p.w_stride, p.y_stride}) {
    if (size < 0 || size > kLargest) {
      throw std::invalid_argument("[dense] a size or stride is " + std::to_string(size) +
                                  ", must be in [0, 2^31)");
    }
  }
  if (p.x_stride < p.in || p.w_stride < p.in || p.y_stride < p.out) {
    throw std::invalid_argument("[dense] a stride is below its row: x " +
                                std::to_string(p.x_stride) + ", w " + std::to_string(p.w_stride) +
                                ", y " + std::to_string(p.y_stride));
  }
  if (p.rows == 0 || p.out == 0) return;
  if (p.in == 0) {
    for (std::int64_t r = 0; r < p.rows; ++r) std::fill_n(p.y + r * p.y_stride, p.out, 0.0F);
  } else {
    // Below this many multiply-adds a second thread costs more than it brings.
    constexpr std::int64_t kWorthThreads = 1 << 18;
    const bool small = p.rows < kWorthThreads / p.in / p.out;
    const int threads = small ? 1 : threads_to_start(context.threads());
    if (p.rows <= kFewRows) {
      few_rows_product(p, threads);
    } else {
      dense_product(p, threads);
    }
  }
  bias_activate(p.rows, p.out, p.y, p.y_stride, p.bias, p.activation, context);
}

}  // namespace attn::nn
