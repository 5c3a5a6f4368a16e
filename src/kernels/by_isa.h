// From an instruction set to the kernel that was compiled for it. Include after Highway's headers.
#pragma once

#include <hwy/highway.h>

#include <stdexcept>
#include <string>

#include "attn/context.h"

// In a function outside of the targets' namespaces: returns `call` of the namespace of `isa`, which
// is not automatic. Throws std::invalid_argument for one that this build lacks.
#define ATTN_RETURN_BY_ISA(isa, call)                                                              \
  switch (isa) {                                                                                   \
    ATTN_CASE_AVX512(call)                                                                         \
    ATTN_CASE_AVX2(call)                                                                           \
    ATTN_CASE_NEON(call)                                                                           \
    ATTN_CASE_SCALAR(call)                                                                         \
    default: throw std::invalid_argument("[kernels] this build has no " + std::string(name(isa))); \
  }

#if HWY_TARGETS & HWY_AVX3
#define ATTN_CASE_AVX512(call) \
  case Isa::avx512:            \
    return N_AVX3::call;
#else
#define ATTN_CASE_AVX512(call)
#endif

#if HWY_TARGETS & HWY_AVX2
#define ATTN_CASE_AVX2(call) \
  case Isa::avx2:            \
    return N_AVX2::call;
#else
#define ATTN_CASE_AVX2(call)
#endif

#if HWY_TARGETS & HWY_NEON
#define ATTN_CASE_NEON(call) \
  case Isa::neon:            \
    return N_NEON::call;
#else
#define ATTN_CASE_NEON(call)
#endif

// Of the portable targets Highway compiles one.
#if HWY_TARGETS & HWY_SCALAR
#define ATTN_CASE_SCALAR(call) \
  case Isa::scalar:            \
    return N_SCALAR::call;
#elif HWY_TARGETS & HWY_EMU128
#define ATTN_CASE_SCALAR(call) \
  case Isa::scalar:            \
    return N_EMU128::call;
#else
#define ATTN_CASE_SCALAR(call)
#endif
