#include "kernels/ceiling.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ceiling.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/exp2-inl.h"

#ifndef ATTN_KERNELS_READ_BLOCK
#define ATTN_KERNELS_READ_BLOCK
namespace attn::kernels {
constexpr std::int64_t kReadBlock = std::int64_t{1} << 20;  // floats
constexpr std::int64_t kExponents = 512;
}  // namespace attn::kernels
#endif

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

// Exponentials of `rounds` rounds.
template <class T>
HWY_NOINLINE double exp2_rounds(std::int64_t rounds, const T* in, T* out) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < kExponents; i += lanes)
      hn::Store(exp2(d, hn::Load(d, in + i)), d, out + i);
  }
  return static_cast<double>(rounds * kExponents);
}

template <class T>
double exp2_rounds_of_type(std::int64_t rounds) {
  alignas(64) T in[kExponents], out[kExponents];
  for (std::int64_t i = 0; i < kExponents; ++i) in[i] = static_cast<T>(-8 * i) / kExponents;
  const double work = exp2_rounds(rounds, in, out);
  static thread_local volatile T keep;
  keep = out[0];
  (void)keep;
  return work;
}

double exp2_rounds_of(DType dtype, std::int64_t rounds) {
  return dtype == DType::f64 ? exp2_rounds_of_type<double>(rounds)
                             : exp2_rounds_of_type<float>(rounds);
}

void scale(float factor, std::int64_t count, float* x) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto by = hn::Set(d, factor);
  std::int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
#pragma GCC unroll 4
    for (std::int64_t j = 0; j < 4 * lanes; j += lanes)
      hn::StoreU(hn::Mul(by, hn::LoadU(d, x + i + j)), d, x + i + j);
  }
  for (; i < count; ++i) x[i] *= factor;
}

// Reads a block as kStreams runs of consecutive lines, side by side.
template <int kStreams>
HWY_NOINLINE float read_streams(const float* block) {
  constexpr std::int64_t kLine = 16, kStream = kReadBlock / kStreams;
  const hn::CappedTag<float, kLine> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto even = hn::Zero(d), odd = even;
  for (std::int64_t i = 0; i < kStream; i += 2 * kLine) {
#pragma GCC unroll 4
    for (std::int64_t s = 0; s < kStreams; ++s) {
      const float* at = block + s * kStream + i;
      for (std::int64_t j = 0; j < kLine; j += lanes) {
        even = hn::Add(even, hn::LoadU(d, at + j));
        odd = hn::Add(odd, hn::LoadU(d, at + kLine + j));
      }
    }
  }
  return hn::GetLane(hn::Add(even, odd));
}

void read_block(const float* block, bool several_streams) {
  static thread_local volatile float keep;
  keep = several_streams ? read_streams<4>(block) : read_streams<1>(block);
  (void)keep;
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

namespace {

struct Loops {
  double (*fma)(DType, std::int64_t);
  void (*read)(const float*, bool);
  double (*exp2)(DType, std::int64_t);
  void (*scale)(float, std::int64_t, float*);
};

#define ATTN_LOOPS(target) \
  { &target::fma_rounds_of, &target::read_block, &target::exp2_rounds_of, &target::scale }

Loops loops_of(Isa isa) {
  switch (isa) {
#if HWY_TARGETS & HWY_AVX3
    case Isa::avx512: return ATTN_LOOPS(N_AVX3);
#endif
#if HWY_TARGETS & HWY_AVX2
    case Isa::avx2: return ATTN_LOOPS(N_AVX2);
#endif
#if HWY_TARGETS & HWY_NEON
    case Isa::neon: return ATTN_LOOPS(N_NEON);
#endif
#if HWY_TARGETS & HWY_SCALAR
    case Isa::scalar: return ATTN_LOOPS(N_SCALAR);
#endif
#if HWY_TARGETS & HWY_EMU128
    case Isa::scalar: return ATTN_LOOPS(N_EMU128);
#endif
    default: throw std::invalid_argument("[kernels] this build has no " + std::string(name(isa)));
  }
}

#undef ATTN_LOOPS

// Work a second of all threads together: each calls step(thread), which returns what it did, for
// about `seconds`.
template <class Step>
double rate(int threads, double seconds, const Step& step) {
  using Clock = std::chrono::steady_clock;
  double total = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : total)
  for (int t = 0; t < threads; ++t) {
    const auto begin = Clock::now();
    double work = 0, elapsed;
    do {
      work += step(t);
      elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
    } while (elapsed < seconds);
    total += work / elapsed;
  }
  return total;
}

}  // namespace

double fma_ceiling_gflops(Isa isa, DType dtype, int threads, double seconds) {
  constexpr std::int64_t kRounds = 2000;
  const Loops loops = loops_of(isa);
  return rate(threads, seconds, [&](int) { return loops.fma(dtype, kRounds); }) * 1e-9;
}

double exp2_ceiling(Isa isa, DType dtype, int threads, double seconds) {
  constexpr std::int64_t kRounds = 100;
  const Loops loops = loops_of(isa);
  return rate(threads, seconds, [&](int) { return loops.exp2(dtype, kRounds); }) * 1e-9;
}

void scale_in_place(Isa isa, float factor, std::int64_t count, float* x) {
  loops_of(isa).scale(factor, count, x);
}

void ReadCeiling::Free::operator()(float* memory) const { std::free(memory); }

ReadCeiling::ReadCeiling(int threads) : next_(static_cast<std::size_t>(threads), 0) {
  constexpr std::int64_t kBytes = kReadBlock * static_cast<std::int64_t>(sizeof(float));
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  blocks_ = std::max<std::int64_t>(16, 2 * machine().l3_bytes / threads / kBytes);
  const auto bytes = static_cast<std::size_t>(blocks_ * kBytes);
  for (int t = 0; t < threads; ++t) {
    memory_.emplace_back(static_cast<float*>(std::aligned_alloc(kHugePage, bytes)));
    if (memory_.back() == nullptr) throw std::bad_alloc();
    madvise(memory_.back().get(), bytes, MADV_HUGEPAGE);  // a wish: without them it is slower
  }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) {
    std::fill_n(memory_[static_cast<std::size_t>(t)].get(), blocks_ * kReadBlock, 1.0f);
  }
}

double ReadCeiling::gigabytes_per_second(Isa isa, double seconds) {
  const Loops loops = loops_of(isa);
  double best = 0;
  // Which of the two a machine likes better differs.
  for (const bool several_streams : {false, true}) {
    const auto step = [&](int t) {
      std::int64_t& next = next_[static_cast<std::size_t>(t)];
      loops.read(memory_[static_cast<std::size_t>(t)].get() + next * kReadBlock, several_streams);
      next = (next + 1) % blocks_;
      return static_cast<double>(kReadBlock) * sizeof(float);
    };
    best = std::max(best, rate(static_cast<int>(next_.size()), seconds / 2, step) * 1e-9);
  }
  return best;
}

}  // namespace attn::kernels
#endif
