#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "bench/bench.h"
#include "kernels/ceiling.h"

namespace attn::bench {

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A field of /proc/self/status, in MB.
double status_mb(const std::string& field) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(field, 0) != 0) continue;
    double kb = 0;
    std::istringstream(line.substr(field.size() + 1)) >> kb;
    return kb / 1024;
  }
  return 0;
}

// Gives freed memory back first, so that what is taken next shows.
double start_of_peak_memory() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
  return status_mb("VmRSS:");
}

std::vector<float> random_values(std::int64_t n, std::uint32_t seed) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& e : x) {
    seed = seed * 1664525u + 1013904223u;
    e = static_cast<float>(seed >> 8) * 0x1p-23f - 1.0f;
  }
  return x;
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

struct Samples {
  std::vector<double> seconds, ceiling;
};

Row make_row(const Job& job, Isa isa, int threads, const std::string& peer, double flops) {
  Row row;
  row.shape = job.shape;
  row.mask = job.mask;
  row.score = job.score;
  row.peer = peer;
  row.isa = isa;
  row.threads = threads;
  row.flops = flops;
  return row;
}

// Interleaved, with the ceiling before and after every sample. A long peer drops out after a third
// of the samples.
std::vector<Samples> take_samples(const std::vector<Contestant>& contestants, Isa isa, int threads,
                                  const Limits& limits) {
  constexpr double kCeilingSeconds = 0.01, kShortest = 0.01;
  std::vector<Samples> samples(contestants.size());
  double ceiling = kernels::fma_ceiling_gflops(isa, DType::f32, threads, kCeilingSeconds);
  double peer_seconds = 0;
  for (int sample = 0; sample < limits.samples; ++sample) {
    for (std::size_t i = 0; i < contestants.size(); ++i) {
      if (i > 0 && 3 * sample >= limits.samples && peer_seconds > limits.peer_seconds) continue;
      // Short problems are repeated, lest the clock be measured.
      int repeats = 0;
      const double start = now();
      double seconds;
      do {
        contestants[i].run();
        ++repeats;
        seconds = now() - start;
      } while (seconds < kShortest);
      if (i > 0) peer_seconds += seconds;
      const double after = kernels::fma_ceiling_gflops(isa, DType::f32, threads, kCeilingSeconds);
      samples[i].seconds.push_back(seconds / repeats);
      samples[i].ceiling.push_back(std::max(ceiling, after));
      ceiling = after;
    }
  }
  return samples;
}

void fill(Row& row, const Samples& s) {
  const auto [fastest, slowest] = std::minmax_element(s.seconds.begin(), s.seconds.end());
  std::vector<double> shares;
  for (std::size_t j = 0; j < s.seconds.size(); ++j) {
    shares.push_back(row.flops * 1e-9 / s.seconds[j] / s.ceiling[j]);
  }
  row.samples = static_cast<int>(s.seconds.size());
  row.ms = *fastest * 1e3;
  row.ms_median = median(s.seconds) * 1e3;
  row.gflops = row.flops * 1e-9 / *fastest;
  row.ceiling_gflops = *std::max_element(s.ceiling.begin(), s.ceiling.end());
  row.share_median = median(shares);
  row.spread = (*slowest - *fastest) / median(s.seconds);
}

}  // namespace

std::vector<Row> measure(const Job& job, Isa isa, int threads, const Limits& limits) {
  const auto [b, hq, hkv, lq, lk, d] = job.shape;
  const std::vector<float> q = random_values(b * hq * lq * d, 1),
                           k = random_values(b * hkv * lk * d, 2),
                           v = random_values(b * hkv * lk * d, 3);
  std::vector<float> out(static_cast<std::size_t>(b * hq * lq * d), 0.0f), other = out;
  const ConstTensor qt(q.data(), Shape{b, hq, lq, d}), kt(k.data(), Shape{b, hkv, lk, d}),
      vt(v.data(), Shape{b, hkv, lk, d});
  const Tensor ot(out.data(), Shape{b, hq, lq, d}), ot2(other.data(), Shape{b, hq, lq, d});
  const AttentionOptions options{.mask = Mask::parse(job.mask), .score = Score::parse(job.score)};
  const Context context({.threads = threads, .isa = isa});

  std::vector<Contestant> contestants;
  std::vector<Row> rows;
  // The first run, which is not timed, shows the memory that is taken.
  const auto enter = [&](const std::string& peer, double flops, std::function<void()> run) {
    const double before = start_of_peak_memory();
    contestants.push_back({peer, std::move(run)});
    contestants.back().run();
    rows.push_back(make_row(job, isa, threads, peer, flops));
    rows.back().peak_mb = std::max(0.0, status_mb("VmHWM:") - before);
  };
  const Plan planned = plan(AttentionShape::of(qt, kt, vt), options, context);
  enter("", planned.summary().flops, [&] { planned.run(qt, kt, vt, ot); });

  const bool causal = job.mask == "causal";
  std::string why_not;
  if (job.peer && (causal || job.mask == "full") && job.score == "none" &&
      OpenBlas::load(isa, why_not)) {
    enter("openblas", planned.summary().flops,
          [&] { OpenBlas::attention(qt, kt, vt, ot2, causal, threads); });
    // Same problem, same answer: else the comparison is worth nothing.
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!(std::abs(out[i] - other[i]) <= 1e-4f)) {
        throw std::runtime_error("bench: attn and OpenBLAS disagree");
      }
    }
  }
  const std::vector<Samples> samples = take_samples(contestants, isa, threads, limits);
  for (std::size_t i = 0; i < rows.size(); ++i) fill(rows[i], samples[i]);
  return rows;
}

}  // namespace attn::bench
