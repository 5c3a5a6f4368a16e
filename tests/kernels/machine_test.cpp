// The ceiling that shares are of, and the floating-point mode that bits rely on.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/ceiling.h"
#include "kernels/forward.h"

namespace attn::kernels {
namespace {

TEST(Ceiling, IsPositiveOnEveryPath) {
  for (const Isa isa : supported_isas()) {
    EXPECT_GT(fma_ceiling_gflops(isa, DType::f32, 1, 0.002), 0.0);
    EXPECT_GT(fma_ceiling_gflops(isa, DType::f64, 2, 0.002), 0.0);
  }
}

// Reading goes on through all of its memory and around.
TEST(Ceiling, ReadsOnEveryPath) {
  for (const int threads : {1, 3}) {
    ReadCeiling ceiling(threads);
    for (const Isa isa : supported_isas()) {
      EXPECT_GT(ceiling.gigabytes_per_second(isa, 0.002), 0.0);
      EXPECT_LT(ceiling.gigabytes_per_second(isa, 0.002), 1e5);
    }
  }
}

TEST(FloatModeTest, FlushesAndRestores) {
  volatile float tiny = std::numeric_limits<float>::denorm_min() * 4;
  volatile float half = 0.5f;
  EXPECT_GT(tiny * half, 0.0f);
  {
    const FloatMode mode;
#if defined(__x86_64__) || defined(__aarch64__)
    EXPECT_EQ(tiny * half, 0.0f);
#endif
  }
  EXPECT_GT(tiny * half, 0.0f);
}

// What moves bits is constant: tiles divide segments, words divide tiles.
TEST(ForwardKernelTest, GridsNest) {
  for (const Isa isa : supported_isas()) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      const ForwardKernel& kernel = forward_kernel(isa, dtype);
      EXPECT_EQ(kernel.segment % kernel.tile, 0);
      EXPECT_EQ(kernel.tile % 64, 0);
      EXPECT_GT(kernel.strip, 0);
      EXPECT_GT(kernel.workspace_bytes(kernel.strip, 64, 64), 0u);
    }
  }
}

}  // namespace
}  // namespace attn::kernels
