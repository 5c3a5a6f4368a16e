#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <sstream>
#include <stdexcept>

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

}  // namespace

std::vector<Row> measure(const Job& job, Isa isa, int threads, const Limits& limits,
                         double& best_ceiling) {
  const auto [b, hq, hkv, lq, lk, d] = job.shape;
  const std::vector<float> q = random_values(b * hq * lq * d, 1),
                           k = random_values(b * hkv * lk * d, 2),
                           v = random_values(b * hkv * lk * d, 3);
  std::vector<float> out(static_cast<std::size_t>(b * hq * lq * d), 0.0f), other = out;
  const ConstTensor qt(q.data(), Shape{b, hq, lq, d}), kt(k.data(), Shape{b, hkv, lk, d}),
      vt(v.data(), Shape{b, hkv, lk, d});
  const Tensor ot(out.data(), Shape{b, hq, lq, d}), ot2(other.data(), Shape{b, hq, lq, d});

  const AttentionOptions options{.mask = Mask::parse(job.mask), .score = Score::parse(job.score)};
  const auto row_of = [&](const std::string& peer) {
    Row row;
    row.shape = job.shape;
    row.mask = job.mask;
    row.score = job.score;
    row.peer = peer;
    row.isa = isa;
    row.threads = threads;
    return row;
  };

  std::vector<Contestant> contestants;
  std::vector<Row> rows;
  const Context context({.threads = threads, .isa = isa});
  const double before = start_of_peak_memory();
  const Plan planned = plan(AttentionShape::of(qt, kt, vt), options, context);
  contestants.push_back({"", [&] { planned.run(qt, kt, vt, ot); }});
  contestants.back().run();
  rows.push_back(row_of(""));
  rows.back().peak_mb = std::max(0.0, status_mb("VmHWM:") - before);

  const bool causal = job.mask == "causal";
  std::string why_not;
  if (job.peer && (causal || job.mask == "full") && job.score == "none" &&
      OpenBlas::load(isa, why_not)) {
    contestants.push_back(
        {"openblas", [&] { OpenBlas::attention(qt, kt, vt, ot2, causal, threads); }});
    const double start = start_of_peak_memory();
    contestants.back().run();
    rows.push_back(row_of("openblas"));
    rows.back().peak_mb = std::max(0.0, status_mb("VmHWM:") - start);
    // Same problem, same answer: else the comparison is worth nothing.
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!(std::abs(out[i] - other[i]) <= 1e-4f))
        throw std::runtime_error("bench: attn and OpenBLAS disagree");
    }
  }

  // Interleaved, with the ceiling before and after every sample.
  std::vector<Samples> samples(contestants.size());
  const double begin = now();
  const auto enough = [&] {
    const auto taken = static_cast<int>(samples.front().seconds.size());
    return taken >= limits.samples || (taken >= 5 && now() - begin > limits.seconds);
  };
  constexpr double kCeilingSeconds = 0.01;
  double ceiling = kernels::fma_ceiling_gflops(isa, DType::f32, threads, kCeilingSeconds);
  while (!enough()) {
    for (std::size_t i = 0; i < contestants.size(); ++i) {
      // Short problems are repeated, lest the clock be measured.
      int repeats = 0;
      const double start = now();
      double seconds;
      do {
        contestants[i].run();
        ++repeats;
        seconds = now() - start;
      } while (seconds < 0.01);
      const double after = kernels::fma_ceiling_gflops(isa, DType::f32, threads, kCeilingSeconds);
      samples[i].seconds.push_back(seconds / repeats);
      samples[i].ceiling.push_back(std::max(ceiling, after));
      ceiling = after;
    }
  }

  for (const Samples& s : samples) {
    best_ceiling = std::max(best_ceiling, *std::max_element(s.ceiling.begin(), s.ceiling.end()));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Samples& s = samples[i];
    const double flops = planned.summary().flops;
    const auto [fastest, slowest] = std::minmax_element(s.seconds.begin(), s.seconds.end());
    std::vector<double> shares;
    for (std::size_t j = 0; j < s.seconds.size(); ++j)
      shares.push_back(flops * 1e-9 / s.seconds[j] / s.ceiling[j]);
    Row& row = rows[i];
    row.samples = static_cast<int>(s.seconds.size());
    row.ms = *fastest * 1e3;
    row.ms_median = median(s.seconds) * 1e3;
    row.gflops = flops * 1e-9 / *fastest;
    row.ceiling_gflops = best_ceiling;
    row.share = row.gflops / best_ceiling;
    row.share_median = median(shares);
    row.spread = (*slowest - *fastest) / median(s.seconds);
  }
  return rows;
}

}  // namespace attn::bench
