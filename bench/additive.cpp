// Additive attention beside the tanh that it would take: hidden units (pairs x columns) a second,
// and a decoder's step beside one of exact attention over the same keys and values.
//
//   build/release/bin/bench_additive
//
// Best of some samples, taken in turns with those of the tanh rate: vector tanh of numbers in the
// first cache, as the kernels compute it.

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/additive.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <utility>
#include <vector>

#include "attn/additive.h"
#include "kernels/tanh-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

// x = tanh(x) of 1,024 numbers.
void tanh_block(float* x) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
#pragma GCC unroll 4
  for (std::int64_t i = 0; i < 1024; i += lanes) hn::Store(tanh(d, hn::Load(d, x + i)), d, x + i);
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace {

using namespace attn;

void (*tanh_block_of(Isa isa))(float*) {
  switch (isa) {
#if HWY_TARGETS & HWY_AVX3
    case Isa::avx512: return &kernels::N_AVX3::tanh_block;
#endif
#if HWY_TARGETS & HWY_AVX2
    case Isa::avx2: return &kernels::N_AVX2::tanh_block;
#endif
#if HWY_TARGETS & HWY_NEON
    case Isa::neon: return &kernels::N_NEON::tanh_block;
#endif
#if HWY_TARGETS & HWY_SCALAR
    case Isa::scalar: return &kernels::N_SCALAR::tanh_block;
#endif
#if HWY_TARGETS & HWY_EMU128
    case Isa::scalar: return &kernels::N_EMU128::tanh_block;
#endif
    default: return nullptr;
  }
}

template <class F>
double seconds(const F& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Seconds for a million numbers on each of `threads` threads.
double tanh_seconds(Isa isa, int threads) {
  const auto block = tanh_block_of(isa);
  return seconds([&] {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; ++t) {
      alignas(64) float x[1024];
      for (int i = 0; i < 1024; ++i) x[i] = static_cast<float>(i - 512) / 128;
      for (int i = 0; i < 1000; ++i) block(x);
    }
  });
}

struct Problem {
  std::int64_t q_len, k_len, width;
  std::vector<float> q, k, v, v_a, out, lse, dq, dk, dv, dv_a;

  Problem(std::int64_t queries, std::int64_t keys, std::int64_t columns)
      : q_len(queries), k_len(keys), width(columns) {
    std::uint32_t state = 1;
    const auto fill = [&](std::vector<float>& x, std::int64_t n) {
      x.resize(static_cast<std::size_t>(n));
      for (float& e : x) {
        state = state * 1664525 + 1013904223;
        e = static_cast<float>(state >> 8) * 0x1p-22f - 2;
      }
    };
    for (auto* x : {&q, &out, &dq}) fill(*x, q_len * width);
    for (auto* x : {&k, &v, &dk, &dv}) fill(*x, k_len * width);
    for (auto* x : {&v_a, &dv_a}) fill(*x, width);
    fill(lse, q_len);
  }
  Tensor view(std::vector<float>& x, std::int64_t length) const {
    return {x.data(), Shape{1, 1, length, static_cast<std::int64_t>(x.size()) / length}};
  }
  AdditiveInputs inputs() { return {view(q, q_len), view(k, k_len), view(v, k_len), view(v_a, 1)}; }
  double units() const { return static_cast<double>(q_len * k_len * width); }
};

constexpr int kSamples = 40;

// Small enough for a sample to fit between the turns of other processes.
void whole(Isa isa, int threads, std::int64_t width) {
  constexpr std::int64_t kQueries = 128, kKeys = 256;
  Problem p(kQueries, kKeys, width);
  const Context context({.threads = threads, .isa = isa});
  const Tensor out = p.view(p.out, kQueries), lse = p.view(p.lse, kQueries);
  double tanh = 1e9, forward = 1e9, backward = 1e9;
  for (int i = 0; i < kSamples; ++i) {
    tanh = std::min(tanh, tanh_seconds(isa, threads));
    forward =
        std::min(forward, seconds([&] { additive(p.inputs(), out, {}, context, {.lse = lse}); }));
    backward = std::min(backward, seconds([&] {
                          additive_backward(p.inputs(), {.out = out, .lse = lse}, {.out = out},
                                            {p.view(p.dq, kQueries), p.view(p.dk, kKeys),
                                             p.view(p.dv, kKeys), p.view(p.dv_a, 1)},
                                            {}, context);
                        }));
  }
  const double rate = 1.024e6 * threads / tanh;
  std::printf("| %s, %d | %d x %d x %d | %.1f | %.1f: %.1f x | %.1f: %.1f x |\n", name(isa),
              threads, static_cast<int>(kQueries), static_cast<int>(kKeys), static_cast<int>(width),
              rate * 1e-9, p.units() / forward * 1e-9, p.units() / forward / rate,
              p.units() / backward * 1e-9, p.units() / backward / rate);
}

void step(Isa isa, std::int64_t keys, std::int64_t width) {
  Problem p(1, keys, width);
  const Context context({.threads = 1, .isa = isa});
  const Tensor out = p.view(p.out, 1);
  const AdditiveKeys kept(p.inputs().k, context);
  double additive_step = 1e9, exact_step = 1e9;
  for (int i = 0; i < 50 * kSamples; ++i) {
    additive_step =
        std::min(additive_step, seconds([&] {
                   additive(p.inputs().q, kept, p.inputs().v, p.inputs().v_a, out, {}, context);
                 }));
    exact_step = std::min(exact_step, seconds([&] {
                            attention(p.inputs().q, p.inputs().k, p.inputs().v, out, {}, context);
                          }));
  }
  std::printf("| %s | %d x %d | %.1f | %.1f |\n", name(isa), static_cast<int>(keys),
              static_cast<int>(width), additive_step * 1e6, exact_step * 1e6);
}

}  // namespace

int main() {
  std::printf(
      "| ISA, threads | Lq x Lk x D | tanh, G/s | forward, G/s | gradients, G/s |\n"
      "|---|---|---|---|---|\n");
  for (const Isa isa : supported_isas()) {
    if (isa == Isa::scalar) continue;
    for (const int threads : {1, 2}) {
      for (const std::int64_t width : {64, 256}) whole(isa, threads, width);
    }
  }
  std::printf("\n| step of one query | Lk x D | additive, us | exact, us |\n|---|---|---|---|\n");
  for (const Isa isa : supported_isas()) {
    if (isa == Isa::scalar) continue;
    for (const auto& [keys, width] :
         {std::pair(50, 512), std::pair(1000, 64), std::pair(1000, 512)})
      step(isa, keys, width);
  }
}
#endif
