// The machine's own limits, measured: fused multiply-adds on registers, powers of two, reads from
// memory and products in place.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attn/context.h"
#include "attn/tensor.h"

namespace attn::kernels {

// GFLOP/s of `threads` threads together over about `seconds`, with the vectors of one ISA.
double fma_ceiling_gflops(Isa isa, DType dtype, int threads, double seconds);

// Exponentials a nanosecond of `threads` threads together over about `seconds`: 2^t as the kernels
// compute it, of numbers in the first cache.
double exp2_ceiling(Isa isa, DType dtype, int threads, double seconds);

// x *= factor, with the vectors of one ISA: each number is read and written once.
void scale_in_place(Isa isa, float factor, std::int64_t count, float* x);

// How fast memory is read: vector loads over more memory than all caches hold, each thread its own
// part. Huge pages where the system gives them. For one caller at a time.
class ReadCeiling {
 public:
  explicit ReadCeiling(int threads);

  // GB/s of all threads together over about `seconds`, with the vectors of one ISA. Goes on where
  // the last call stopped, so that no cache holds what is read.
  double gigabytes_per_second(Isa isa, double seconds);

 private:
  struct Free {
    void operator()(float* memory) const;
  };
  std::int64_t blocks_ = 0;  // of each thread
  std::vector<std::unique_ptr<float[], Free>> memory_;
  std::vector<std::int64_t> next_;  // block
};

}  // namespace attn::kernels
