// The instruction sets that we tune: AVX-512, AVX2, NEON, and the portable baseline. Include before
// any Highway header.
#pragma once

#define HWY_DISABLED_TARGETS \
  (HWY_AVX3_DL | HWY_SSE4 | HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
