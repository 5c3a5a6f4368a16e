#include "measure/crossing.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "measure/problem.h"

namespace attn::measuring {

namespace {

constexpr std::int64_t kShortest = 16;
constexpr int kTurns = 7;
constexpr double kExact = 1.05;
// A turn repeats what is short, lest the clock be measured; turns end when they took long.
constexpr double kTurnSeconds = 1e-3, kMostSeconds = 1;

double seconds_of(Problem& problem) {
  using Clock = std::chrono::steady_clock;
  int runs = 0;
  double seconds = 0;
  for (const auto begin = Clock::now(); seconds < kTurnSeconds; ++runs) {
    problem.run();
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return seconds / runs;
}

bool faster(Workload one, Workload other, std::int64_t length, const Context& context) {
  std::unique_ptr<Problem> problems[2];
  double best[2] = {0, 0}, total = 0;
  Workload* workloads[2] = {&one, &other};
  for (int i = 0; i < 2; ++i) {
    workloads[i]->shape.q_len = workloads[i]->shape.k_len = length;
    problems[i] = make_problem(*workloads[i], context);
    problems[i]->plan();
  }
  for (int turn = 0; turn < kTurns && (turn == 0 || total < kMostSeconds); ++turn) {
    for (int i = 0; i < 2; ++i) {
      const double t = seconds_of(*problems[i]);
      best[i] = turn == 0 ? t : std::min(best[i], t);
      total += t;
    }
  }
  return best[0] < best[1];
}

}  // namespace

std::int64_t crossing(const Workload& one, const Workload& other, const Context& context) {
  std::int64_t slower = kShortest, high = one.shape.q_len;
  if (high <= slower || !faster(one, other, high, context)) return 0;
  if (faster(one, other, slower, context)) return slower;
  while (static_cast<double>(high) > kExact * static_cast<double>(slower) && high > slower + 1) {
    // Between, by factors: lengths differ by orders of magnitude.
    const double mean = std::sqrt(static_cast<double>(slower) * static_cast<double>(high));
    const std::int64_t middle = std::clamp(static_cast<std::int64_t>(mean), slower + 1, high - 1);
    (faster(one, other, middle, context) ? high : slower) = middle;
  }
  return high;
}

}  // namespace attn::measuring
