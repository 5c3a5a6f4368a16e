#include "attn/curves.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "attn/mechanism.h"
#include "measure/memory.h"
#include "measure/problem.h"

namespace attn {

namespace {

constexpr int kRuns = 5;
constexpr double kEnough = 1;  // seconds for a point, unless one run takes more
constexpr std::int64_t kFittedFrom = 2048;
constexpr double kFittedSeconds = 1e-3;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

CurvePoint measure_point(const Workload& workload, const CurveOptions& options) {
  // A workspace of its own, whose memory counts.
  const Context context({.threads = options.threads, .isa = options.isa});
  const auto problem = measuring::make_problem(workload, context);
  CurvePoint point{.length = workload.shape.q_len};
  const double before = measuring::forget_peak();
  problem->plan();
  double total = 0;
  for (int run = 0; run <= kRuns && (run == 0 || total < kEnough); ++run) {
    const double start = now();
    problem->run();
    const double seconds = now() - start;
    total += seconds;
    if (run == 0) point.peak_bytes = std::max(0.0, measuring::peak_bytes() - before);
    // The first warms up.
    point.seconds = run <= 1 ? seconds : std::min(point.seconds, seconds);
  }
  return point;
}

}  // namespace

std::optional<double> growth_exponent(const std::vector<CurvePoint>& points) {
  double n = 0, x = 0, y = 0, xx = 0, xy = 0;
  for (const CurvePoint& p : points) {
    if (p.length < kFittedFrom || !(p.seconds > kFittedSeconds)) continue;
    const double log_length = std::log(static_cast<double>(p.length));
    const double log_seconds = std::log(p.seconds);
    n += 1;
    x += log_length;
    y += log_seconds;
    xx += log_length * log_length;
    xy += log_length * log_seconds;
  }
  if (n < 2) return std::nullopt;
  return (n * xy - x * y) / (n * xx - x * x);
}

std::vector<Curve> measure_curves(const CurveOptions& options) {
  if (options.first < 1 || options.last < options.first) {
    throw std::invalid_argument("[measure_curves] lengths run from " +
                                std::to_string(options.first) + " to " +
                                std::to_string(options.last));
  }
  std::vector<std::string> names = options.mechanisms;
  if (names.empty()) {
    for (const Mechanism& m : mechanisms()) names.push_back(m.name);
  }
  std::vector<std::int64_t> lengths;
  for (std::int64_t length = options.first; length <= options.last; length *= 2) {
    lengths.push_back(length);
  }
  const auto workload = [&](const std::string& name, std::int64_t length) {
    return workload_of(name, {.batch = 1,
                              .q_heads = options.heads,
                              .kv_heads = options.heads,
                              .q_len = length,
                              .k_len = length,
                              .width = options.width});
  };
  for (const std::string& name : names) check(workload(name, options.first));

  std::vector<Curve> curves;
  for (const std::string& name : names) {
    Curve curve{.mechanism = name, .points = {}};
    for (const std::int64_t length : lengths) {
      if (options.progress) {
        const double points = static_cast<double>(curves.size() * lengths.size()) +
                              static_cast<double>(curve.points.size());
        options.progress(name, length, points / static_cast<double>(names.size() * lengths.size()));
      }
      curve.points.push_back(measure_point(workload(name, length), options));
      if (curve.points.back().seconds >= options.most_seconds) break;
    }
    curve.exponent = growth_exponent(curve.points);
    curves.push_back(std::move(curve));
  }
  return curves;
}

std::string curves_csv(const std::vector<Curve>& curves) {
  std::string text = "mechanism,length,seconds,peak_bytes,exponent\n";
  for (const Curve& curve : curves) {
    char exponent[32] = "";
    if (curve.exponent) std::snprintf(exponent, sizeof exponent, "%.3f", *curve.exponent);
    for (const CurvePoint& p : curve.points) {
      char line[96];
      std::snprintf(line, sizeof line, ",%lld,%.4g,%.0f,", static_cast<long long>(p.length),
                    p.seconds, p.peak_bytes);
      text += curve.mechanism + line + exponent + "\n";
    }
  }
  return text;
}

}  // namespace attn
