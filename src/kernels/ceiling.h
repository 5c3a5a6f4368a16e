// The machine's own limits, measured: fused multiply-adds on registers, and reads from memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attn/context.h"
#include "attn/tensor.h"

namespace attn::kernels {

// GFLOP/s of `threads` threads together over about `seconds`, with the vectors of one ISA.
double fma_ceiling_gflops(Isa isa, DType dtype, int threads, double seconds);

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
