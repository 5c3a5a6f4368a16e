#include "nn/dense.h"

#include <algorithm>
#include <exception>
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
  const auto rows = [&](std::int64_t begin, std::int64_t count, int threads) {
    DenseParams part = p;
    part.rows = count;
    part.x += begin * p.x_stride;
    part.y += begin * p.y_stride;
    if (p.in == 0) {
      for (std::int64_t r = 0; r < count; ++r) std::fill_n(part.y + r * p.y_stride, p.out, 0.0F);
    } else if (count <= kFewRows) {
      few_rows_product(part, threads);
    } else {
      dense_product(part, threads);
    }
    bias_activate(count, p.out, part.y, p.y_stride, p.bias, p.activation, context);
  };
  // Below this many multiply-adds a second thread costs more than it brings.
  constexpr std::int64_t kWorthThreads = 1 << 18;
  const bool small = p.in == 0 || p.rows < kWorthThreads / p.in / p.out;
  const int threads = small ? 1 : threads_to_start(context.threads());
  // Of many rows each thread takes blocks: the activation finds them in its cache, and nobody waits
  // for a thread that something else delays, as inside a library's call. As many for each thread,
  // of nearly the same height.
  constexpr std::int64_t kBlock = 256, kLeast = 64;
  if (threads == 1 || p.rows < 2 * kBlock) return rows(0, p.rows, threads);
  const std::int64_t rounds = (p.rows + threads * kBlock - 1) / (threads * kBlock);
  const std::int64_t block = std::max(kLeast, (p.rows + rounds * threads - 1) / (rounds * threads));
  std::exception_ptr failure;  // may not leave a thread
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (std::int64_t begin = 0; begin < p.rows; begin += block) {
    try {
      rows(begin, std::min(block, p.rows - begin), 1);
    } catch (...) {
#pragma omp critical(attn_dense)
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace attn::nn
