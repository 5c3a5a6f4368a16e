// How fast memory is multiplied in place: what a step that reads and writes its state once can
// reach.
#pragma once

#include <cstdint>

#include "attn/context.h"
#include "measure/buffer.h"

namespace attn::measuring {

class ScaleCeiling {
 public:
  ScaleCeiling(double bytes, Isa isa, int threads);

  // GB/s read and written, of all threads together, over about `seconds`.
  double gigabytes_per_second(double seconds);

 private:
  Isa isa_;
  Buffer memory_;
  std::int64_t blocks_ = 0;
  int threads_ = 1;
};

}  // namespace attn::measuring
