// What recurrences over single channels cost beside the machine's own limits, measured in turns in
// one run: `make bench-recurrences`.
//
//   scan    exponentials (one a channel, state and token) beside powers of two from the first cache
//   step    a token of many sequences: bytes of their states, read and written, beside a product in
//           place over as many bytes; and the time of one small step
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "attn/scan.h"
#include "kernels/ceiling.h"

namespace {

using attn::ConstTensor;
using attn::Shape;
using attn::Tensor;

// Of one thread the processor's time, which others on a shared machine disturb less.
double now(int threads) {
  if (threads == 1) {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Array {
  std::vector<float> x;
  Shape shape;
  Array(const Shape& s, double low, double high) : shape(s) {
    std::uint32_t state = 1;
    for (std::int64_t i = 0; i < s[0] * s[1] * s[2] * s[3]; ++i) {
      state = state * 1664525u + 1013904223u;
      x.push_back(static_cast<float>(low + (high - low) * (state >> 8) / (1 << 24)));
    }
  }
  Tensor view() { return {x.data(), shape}; }
};

// Seconds of the fastest of some samples of `a` and of `b`, taken in turns.
std::pair<double, double> in_turns(const std::function<void()>& a, const std::function<void()>& b,
                                   int threads) {
  constexpr int kSamples = 15;
  constexpr double kShortest = 0.005;
  double best[2] = {1e9, 1e9};
  for (int i = 0; i < kSamples; ++i) {
    for (int which = 0; which < 2; ++which) {
      const double start = now(threads);
      double seconds = 0;
      int runs = 0;
      do {
        (which == 0 ? a : b)();
        ++runs;
        seconds = now(threads) - start;
      } while (seconds < kShortest);
      best[which] = std::min(best[which], seconds / runs);
    }
  }
  return {best[0], best[1]};
}

// Mamba-130M's layer: 1536 channels, 16 states.
struct Scan {
  std::int64_t batch, length, channels, states;
  Array u, delta, a, b, c, d, z, bias, out, state;
  Scan(std::int64_t batch_size, std::int64_t tokens, std::int64_t width, std::int64_t n)
      : batch(batch_size),
        length(tokens),
        channels(width),
        states(n),
        u({batch, 1, length, channels}, -1, 1),
        delta({batch, 1, length, channels}, 5, 7),  // with the bias, above 0
        a({1, 1, states, channels}, -16, -1),
        b({batch, 1, length, states}, -1, 1),
        c({batch, 1, length, states}, -1, 1),
        d({1, 1, 1, channels}, -1, 1),
        z({batch, 1, length, channels}, -1, 1),
        bias({1, 1, 1, channels}, -5, -4),
        out({batch, 1, length, channels}, 0, 0),
        state({batch, 1, states, channels}, -1, 1) {}

  bool whole = true;

  void run(const attn::Context& context) {
    const attn::ScanInputs inputs{.u = u.view(),
                                  .delta = delta.view(),
                                  .a = a.view(),
                                  .b = b.view(),
                                  .c = c.view(),
                                  .d = d.view(),
                                  .z = whole ? ConstTensor(z.view()) : ConstTensor(),
                                  .delta_bias = bias.view(),
                                  .state = state.view()};
    selective_scan(inputs, {.out = out.view(), .state = state.view()}, {.softplus = whole},
                   context);
  }
};

struct Wkv4 {
  Array k, v, decay, bonus, out, state;
  Wkv4(std::int64_t batch, std::int64_t channels)
      : k({batch, 1, 1, channels}, -1, 1),
        v({batch, 1, 1, channels}, -1, 1),
        decay({1, 1, 1, channels}, -2, -0.01),
        bonus({1, 1, 1, channels}, -1, 1),
        out({batch, 1, 1, channels}, 0, 0),
        state({batch, 1, 3, channels}, 0.5, 1) {}
  void run(const attn::Context& context) {
    wkv4({k.view(), v.view(), decay.view(), bonus.view(), state.view()},
         {.out = out.view(), .state = state.view()}, {}, context);
  }
};

// The layer's whole scan, or the recurrence alone: steps as they are, no gate.
void measure_scan(const attn::Context& context, bool whole) {
  Scan scan(1, 4096, 1536, 16);
  scan.whole = whole;
  const int threads = context.threads();
  double ceiling = 0, seconds = 1e9;
  for (int i = 0; i < 25; ++i) {
    // So short that nothing interrupts some of them.
    for (int j = 0; j < 10; ++j)
      ceiling = std::max(
          ceiling, attn::kernels::exp2_ceiling(context.isa(), attn::DType::f32, threads, 5e-4));
    const double start = now(threads);
    scan.run(context);
    seconds = std::min(seconds, now(threads) - start);
  }
  const double rate = 4096.0 * 1536 * 16 / seconds * 1e-9;
  std::printf("| scan (1, 4096, 1536, 16)%s | %d | %.1f ms | %.2f of %.2f exp/ns | %.0f %% |\n",
              whole ? ", softplus and gate" : "", threads, seconds * 1e3, rate, ceiling,
              100 * rate / ceiling);
}

// A product in place over as many numbers, by as many threads.
void measure_step(const std::string& what, Array& state, const std::function<void()>& step,
                  const attn::Context& context) {
  const auto count = static_cast<std::int64_t>(state.x.size());
  std::vector<float> same(state.x.size(), 1.0f);
  const auto scale = [&] {
    const int threads = count < (1 << 16) ? 1 : context.threads();
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; ++t) {
      const std::int64_t begin = count * t / threads, end = count * (t + 1) / threads;
      attn::kernels::scale_in_place(context.isa(), 1.0f, end - begin, same.data() + begin);
    }
  };
  const auto [seconds, limit] = in_turns(step, scale, context.threads());
  const double bytes = 2.0 * static_cast<double>(count) * sizeof(float);
  std::printf("| %s, states of %.0f KB | %d | %.2f us | %.1f of %.1f GB/s | %.0f %% |\n",
              what.c_str(), bytes / 2048, context.threads(), seconds * 1e6, bytes / seconds * 1e-9,
              bytes / limit * 1e-9, 100 * limit / seconds);
}

}  // namespace

int main() {
  std::printf("| what | threads | time | rate | share |\n|---|---|---|---|---|\n");
  for (const int threads : {1, 2}) {
    const attn::Context context({.threads = threads});
    for (const bool whole : {true, false}) measure_scan(context, whole);
    for (const std::int64_t batch : {1, 512}) {
      for (const std::int64_t channels : {512, 1536}) {
        Scan scan(batch, 1, channels, 16);
        measure_step(
            "scan step, " + std::to_string(batch) + " x " + std::to_string(channels), scan.state,
            [&] { scan.run(context); }, context);
      }
    }
    for (const std::int64_t batch : {1, 4096}) {
      Wkv4 mean(batch, 768);
      measure_step(
          "wkv4 step, " + std::to_string(batch) + " x 768", mean.state, [&] { mean.run(context); },
          context);
    }
  }
  return EXIT_SUCCESS;
}
