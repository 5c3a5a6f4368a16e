// Exponential, sigmoid and softplus of gates, for every instruction set of this build that the CPU
// has.

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gates_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "attn/context.h"
#include "kernels/gates-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

// exp, sigmoid and softplus of x.
template <class T>
void gates_of(T x, T* out) {
  const hn::ScalableTag<T> d;
  const auto v = hn::Set(d, x);
  out[0] = hn::GetLane(exp(d, v));
  out[1] = hn::GetLane(sigmoid(d, v));
  out[2] = hn::GetLane(softplus(d, v));
}
void gates_of_float(float x, float* out) { gates_of(x, out); }
void gates_of_double(double x, double* out) { gates_of(x, out); }

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {
namespace {

struct Path {
  Isa isa;
  void (*floats)(float, float*);
  void (*doubles)(double, double*);
};

std::vector<Path> paths() {
  std::vector<Path> all;
#if HWY_TARGETS & HWY_AVX3
  all.push_back({Isa::avx512, &N_AVX3::gates_of_float, &N_AVX3::gates_of_double});
#endif
#if HWY_TARGETS & HWY_AVX2
  all.push_back({Isa::avx2, &N_AVX2::gates_of_float, &N_AVX2::gates_of_double});
#endif
#if HWY_TARGETS & HWY_NEON
  all.push_back({Isa::neon, &N_NEON::gates_of_float, &N_NEON::gates_of_double});
#endif
#if HWY_TARGETS & HWY_SCALAR
  all.push_back({Isa::scalar, &N_SCALAR::gates_of_float, &N_SCALAR::gates_of_double});
#endif
#if HWY_TARGETS & HWY_EMU128
  all.push_back({Isa::scalar, &N_EMU128::gates_of_float, &N_EMU128::gates_of_double});
#endif
  std::vector<Path> usable;
  for (const Isa isa : supported_isas()) {
    for (const Path& path : all) {
      if (path.isa == isa) usable.push_back(path);
    }
  }
  return usable;
}

// Where neither e^x nor e^-x leaves the type's normal numbers.
template <class T>
void check_relative_error(Isa isa, void (*f)(T, T*), T largest, double bound, double growth) {
  for (T x = -largest; x <= largest; x += T(0.0137)) {
    T got[3];
    f(x, got);
    const auto exact = static_cast<double>(x);
    const double e = std::exp(exact);
    const double expected[] = {e, 1 / (1 + 1 / e),
                               std::max(exact, 0.0) + std::log1p(std::exp(-std::abs(exact)))};
    for (int i = 0; i < 3; ++i) {
      const double error = std::abs(static_cast<double>(got[i]) / expected[i] - 1);
      ASSERT_TRUE(error <= bound + growth * std::abs(exact))
          << name(isa) << ", " << i << " of " << x << ": " << error;
    }
  }
}

template <class T>
void check_special(Isa isa, void (*f)(T, T*)) {
  constexpr T kInf = std::numeric_limits<T>::infinity(), kMax = std::numeric_limits<T>::max();
  T got[3];
  for (const T large : {kInf, kMax, T(2000)}) {
    f(large, got);
    EXPECT_EQ(got[0], kInf) << name(isa) << " " << large;
    EXPECT_EQ(got[1], T(1)) << name(isa) << " " << large;
    EXPECT_EQ(got[2], large) << name(isa) << " " << large;
    f(-large, got);
    for (const T zero : got) EXPECT_EQ(zero, T(0)) << name(isa) << " " << -large;
  }
  f(std::numeric_limits<T>::quiet_NaN(), got);
  for (const T nan : got) EXPECT_TRUE(std::isnan(nan)) << name(isa);
}

TEST(Gates, EveryInstructionSetOfThisCpuIsTested) {
  EXPECT_EQ(paths().size(), supported_isas().size());
}

TEST(Gates, RelativeError) {
  for (const Path& path : paths()) {
    check_relative_error<float>(path.isa, path.floats, 80, 4e-7, 7.3e-8);
    check_relative_error<double>(path.isa, path.doubles, 600, 4e-15, 2e-16);
  }
}

TEST(Gates, SpecialValues) {
  for (const Path& path : paths()) {
    check_special<float>(path.isa, path.floats);
    check_special<double>(path.isa, path.doubles);
  }
}

}  // namespace
}  // namespace attn::kernels
#endif
