#include "measure/scaling.h"

#include <algorithm>
#include <chrono>

#include "kernels/ceiling.h"

namespace attn::measuring {

namespace {

constexpr std::int64_t kBlock = 1024;  // floats
// A state that one core holds is one thread's.
constexpr double kBytesOfThreads = 1 << 20;

}  // namespace

ScaleCeiling::ScaleCeiling(double bytes, Isa isa, int threads)
    : isa_(isa),
      blocks_(std::max<std::int64_t>(1, static_cast<std::int64_t>(bytes / (4 * kBlock)))),
      threads_(bytes < kBytesOfThreads ? 1 : threads) {
  memory_ = Buffer::random(DType::f32, {1, 1, blocks_, kBlock}, 7);
}

double ScaleCeiling::gigabytes_per_second(double seconds) {
  using Clock = std::chrono::steady_clock;
  auto* x = static_cast<float*>(memory_.view().data);
  double best = 0, total = 0;
  for (float by = 2; total < seconds || best == 0; by = 1 / by) {
    const auto begin = Clock::now();
#pragma omp parallel for num_threads(threads_) schedule(static) if (threads_ > 1)
    for (std::int64_t b = 0; b < blocks_; ++b)
      kernels::scale_in_place(isa_, by, kBlock, x + b * kBlock);
    const double t = std::chrono::duration<double>(Clock::now() - begin).count();
    total += t;
    if (t > 0) best = std::max(best, 2 * memory_.bytes() * 1e-9 / t);
  }
  return best;
}

}  // namespace attn::measuring
