#include "kernels/ceiling.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ceiling.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Independent chains: more than latency x units of any CPU so far, and few enough for 16 registers.
constexpr int kChains = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON ? 24 : 12;

// FLOPs of `rounds` rounds; the sum of the chains goes to `sink` so that they are computed.
template <class T>
HWY_NOINLINE double fma_rounds(std::int64_t rounds, T* sink) {
  const hn::ScalableTag<T> d;
  hn::Vec<decltype(d)> chain[kChains];
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) chain[i] = hn::Set(d, static_cast<T>(i));
  const auto a = hn::Set(d, T(0.999)), b = hn::Set(d, T(0.001));
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) chain[i] = hn::MulAdd(chain[i], a, b);
  }
  auto sum = chain[0];
#pragma GCC unroll 32
  for (int i = 1; i < kChains; ++i) sum = hn::Add(sum, chain[i]);
  *sink = hn::GetLane(sum);
  return 2.0 * kChains * static_cast<double>(hn::Lanes(d)) * static_cast<double>(rounds);
}

double fma_rounds_of(DType dtype, std::int64_t rounds) {
  static thread_local volatile double keep;
  double flops;
  if (dtype == DType::f64) {
    double sink;
    flops = fma_rounds<double>(rounds, &sink);
    keep = sink;
  } else {
    float sink;
    flops = fma_rounds<float>(rounds, &sink);
    keep = sink;
  }
  (void)keep;
  return flops;
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

namespace {

using Rounds = double (*)(DType, std::int64_t);

Rounds rounds_of(Isa isa) {
  switch (isa) {
#if HWY_TARGETS & HWY_AVX3
    case Isa::avx512: return &N_AVX3::fma_rounds_of;
#endif
#if HWY_TARGETS & HWY_AVX2
    case Isa::avx2: return &N_AVX2::fma_rounds_of;
#endif
#if HWY_TARGETS & HWY_NEON
    case Isa::neon: return &N_NEON::fma_rounds_of;
#endif
#if HWY_TARGETS & HWY_SCALAR
    case Isa::scalar: return &N_SCALAR::fma_rounds_of;
#endif
#if HWY_TARGETS & HWY_EMU128
    case Isa::scalar: return &N_EMU128::fma_rounds_of;
#endif
    default: throw std::invalid_argument("[kernels] this build has no " + std::string(name(isa)));
  }
}

}  // namespace

double fma_ceiling_gflops(Isa isa, DType dtype, int threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point t) {
    return std::chrono::duration<double>(Clock::now() - t).count();
  };
  const Rounds run = rounds_of(isa);
  constexpr std::int64_t kRounds = 2000;
  std::vector<double> rate(static_cast<std::size_t>(threads), 0.0);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    const auto begin = Clock::now();
    double flops = 0, elapsed;
    do {
      flops += run(dtype, kRounds);
      elapsed = since(begin);
    } while (elapsed < seconds);
    rate[static_cast<std::size_t>(t)] = flops / elapsed * 1e-9;
  }
  double total = 0;
  for (double r : rate) total += r;
  return total;
}

}  // namespace attn::kernels
#endif
