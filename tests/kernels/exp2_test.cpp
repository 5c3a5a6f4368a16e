// The exponential, for every instruction set of this build that the CPU has.

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/exp2_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "attn/context.h"
#include "kernels/exp2-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

template <class T>
void exp2_all(const T* in, std::size_t count, T* out) {
  const hn::ScalableTag<T> d;
  for (std::size_t i = 0; i < count; ++i) out[i] = hn::GetLane(exp2(d, hn::Set(d, in[i])));
}
void exp2_floats(const float* in, std::size_t count, float* out) { exp2_all(in, count, out); }
void exp2_doubles(const double* in, std::size_t count, double* out) { exp2_all(in, count, out); }

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {
namespace {

struct Path {
  Isa isa;
  void (*floats)(const float*, std::size_t, float*);
  void (*doubles)(const double*, std::size_t, double*);
};

std::vector<Path> paths() {
  std::vector<Path> all;
#if HWY_TARGETS & HWY_AVX3
  all.push_back({Isa::avx512, &N_AVX3::exp2_floats, &N_AVX3::exp2_doubles});
#endif
#if HWY_TARGETS & HWY_AVX2
  all.push_back({Isa::avx2, &N_AVX2::exp2_floats, &N_AVX2::exp2_doubles});
#endif
#if HWY_TARGETS & HWY_NEON
  all.push_back({Isa::neon, &N_NEON::exp2_floats, &N_NEON::exp2_doubles});
#endif
#if HWY_TARGETS & HWY_SCALAR
  all.push_back({Isa::scalar, &N_SCALAR::exp2_floats, &N_SCALAR::exp2_doubles});
#endif
#if HWY_TARGETS & HWY_EMU128
  all.push_back({Isa::scalar, &N_EMU128::exp2_floats, &N_EMU128::exp2_doubles});
#endif
  std::vector<Path> usable;
  for (const Isa isa : supported_isas()) {
    for (const Path& path : all) {
      if (path.isa == isa) usable.push_back(path);
    }
  }
  return usable;
}

template <class T>
T one(void (*f)(const T*, std::size_t, T*), T x) {
  T y;
  f(&x, 1, &y);
  return y;
}

TEST(Exp2, EveryInstructionSetOfThisCpuIsTested) {
  EXPECT_EQ(paths().size(), supported_isas().size());
}

TEST(Exp2, RelativeErrorOfFloats) {
  std::vector<float> in, out;
  for (double t = -125.9; t <= 8; t += 0.000913) in.push_back(static_cast<float>(t));
  out.resize(in.size());
  for (const Path& path : paths()) {
    path.floats(in.data(), in.size(), out.data());
    double worst = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      const double error = std::abs(out[i] / std::exp2(static_cast<double>(in[i])) - 1);
      if (!(error <= worst)) worst = error;
    }
    EXPECT_TRUE(worst <= 2.1e-7) << name(path.isa) << ": " << worst;
  }
}

TEST(Exp2, RelativeErrorOfDoubles) {
  std::vector<double> in, out;
  for (double t = -1000.3; t <= 8; t += 0.0107) in.push_back(t);
  out.resize(in.size());
  for (const Path& path : paths()) {
    path.doubles(in.data(), in.size(), out.data());
    double worst = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      const double error = std::abs(out[i] / std::exp2(in[i]) - 1);
      if (!(error <= worst)) worst = error;
    }
    EXPECT_TRUE(worst <= 1e-15) << name(path.isa) << ": " << worst;
  }
}

// Exact where bits rely on it: weight 1 leaves a row as it is, a hidden pair adds nothing.
template <class T>
void check_special(Isa isa, void (*f)(const T*, std::size_t, T*)) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  EXPECT_EQ(one(f, T(0)), T(1)) << name(isa);
  EXPECT_EQ(one(f, -kInf), T(0)) << name(isa);
  EXPECT_EQ(one(f, std::numeric_limits<T>::lowest()), T(0)) << name(isa);
  EXPECT_TRUE(std::isnan(one(f, std::numeric_limits<T>::quiet_NaN()))) << name(isa);
  for (int n = 1; n <= 8; ++n) {
    const double expected = std::exp2(n);
    EXPECT_NEAR(static_cast<double>(one(f, T(n))), expected, expected * 4e-7) << name(isa);
  }
}

TEST(Exp2, SpecialValues) {
  for (const Path& path : paths()) {
    check_special<float>(path.isa, path.floats);
    check_special<double>(path.isa, path.doubles);
  }
}

}  // namespace
}  // namespace attn::kernels
#endif
