// The hyperbolic tangent of soft caps, for every instruction set of this build that the CPU has.

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/tanh_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "attn/context.h"
#include "kernels/tanh-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

template <class T>
void tanh_all(const T* in, std::size_t count, T* out) {
  const hn::ScalableTag<T> d;
  for (std::size_t i = 0; i < count; ++i) out[i] = hn::GetLane(tanh(d, hn::Set(d, in[i])));
}
void tanh_floats(const float* in, std::size_t count, float* out) { tanh_all(in, count, out); }
void tanh_doubles(const double* in, std::size_t count, double* out) { tanh_all(in, count, out); }

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
  all.push_back({Isa::avx512, &N_AVX3::tanh_floats, &N_AVX3::tanh_doubles});
#endif
#if HWY_TARGETS & HWY_AVX2
  all.push_back({Isa::avx2, &N_AVX2::tanh_floats, &N_AVX2::tanh_doubles});
#endif
#if HWY_TARGETS & HWY_NEON
  all.push_back({Isa::neon, &N_NEON::tanh_floats, &N_NEON::tanh_doubles});
#endif
#if HWY_TARGETS & HWY_SCALAR
  all.push_back({Isa::scalar, &N_SCALAR::tanh_floats, &N_SCALAR::tanh_doubles});
#endif
#if HWY_TARGETS & HWY_EMU128
  all.push_back({Isa::scalar, &N_EMU128::tanh_floats, &N_EMU128::tanh_doubles});
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

// Both signs, from the tiny to where the tangent is flat.
template <class T>
std::vector<T> arguments() {
  std::vector<T> in;
  for (double x = 1e-30; x < 40; x *= 1.00317) {
    in.push_back(static_cast<T>(x));
    in.push_back(static_cast<T>(-x));
  }
  return in;
}

template <class T>
void check_relative_error(Isa isa, void (*f)(const T*, std::size_t, T*), double bound) {
  const std::vector<T> in = arguments<T>();
  std::vector<T> out(in.size());
  f(in.data(), in.size(), out.data());
  double worst = 0;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const double error =
        std::abs(static_cast<double>(out[i]) / std::tanh(static_cast<double>(in[i])) - 1);
    if (!(error <= worst)) worst = error;
  }
  EXPECT_TRUE(worst <= bound) << name(isa) << ": " << worst;
}

template <class T>
void check_special(Isa isa, void (*f)(const T*, std::size_t, T*), double bound) {
  constexpr T kInf = std::numeric_limits<T>::infinity(), kMax = std::numeric_limits<T>::max();
  EXPECT_EQ(one(f, T(0)), T(0)) << name(isa);
  for (const T large : {kInf, kMax, T(100)}) {
    EXPECT_NEAR(static_cast<double>(one(f, large)), 1, bound) << name(isa) << " " << large;
    EXPECT_EQ(one(f, -large), -one(f, large)) << name(isa) << " " << large;
    EXPECT_LE(one(f, large), T(1)) << name(isa) << " " << large;
  }
  EXPECT_TRUE(std::isnan(one(f, std::numeric_limits<T>::quiet_NaN()))) << name(isa);
}

TEST(Tanh, EveryInstructionSetOfThisCpuIsTested) {
  EXPECT_EQ(paths().size(), supported_isas().size());
}

TEST(Tanh, RelativeError) {
  for (const Path& path : paths()) {
    check_relative_error<float>(path.isa, path.floats, 5e-7);
    check_relative_error<double>(path.isa, path.doubles, 1e-15);
  }
}

TEST(Tanh, SpecialValues) {
  for (const Path& path : paths()) {
    check_special<float>(path.isa, path.floats, 5e-7);
    check_special<double>(path.isa, path.doubles, 1e-15);
  }
}

}  // namespace
}  // namespace attn::kernels
#endif
