// One parallel loop over numbered units of work, taken in order by whoever is free.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#include "base/threads.h"
#include "kernels/params.h"

namespace attn {

// As many threads as this much work is worth: below, a second one costs more than it brings.
inline int threads_worth(int threads, double flops) { return flops < 1 << 19 ? 1 : threads; }

// Calls work(thread, unit) for every unit in [0, units), the first ones first. An exception stops
// the others at their next unit and is thrown again here.
template <class Work>
void parallel_units(int threads, std::int64_t units, const Work& work) {
  if (threads > units) threads = static_cast<int>(units);
  threads = threads_to_start(threads);
  if (threads <= 1) {
    const kernels::FloatMode mode;
    for (std::int64_t unit = 0; unit < units; ++unit) work(0, unit);
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::atomic<int> thread_number{0};
  std::exception_ptr error;
#pragma omp parallel num_threads(threads)
  {
    const kernels::FloatMode mode;
    const int thread = thread_number.fetch_add(1);
    try {
      for (std::int64_t unit; (unit = next.fetch_add(1)) < units;) work(thread, unit);
    } catch (...) {
      next.store(units);
#pragma omp critical(attn_parallel_units)
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

// The same for small units whose memory follows each other's: a thread takes many in a row, since
// what it fetches ahead of one belongs to the next, and another thread would have to take it back.
template <class Work>
void parallel_stretches(int threads, std::int64_t units, const Work& work) {
  constexpr std::int64_t kOfThread = 2;
  const std::int64_t stretches = std::min(units, threads > 1 ? kOfThread * threads : 1);
  parallel_units(threads, stretches, [&](int thread, std::int64_t i) {
    for (std::int64_t unit = units * i / stretches; unit < units * (i + 1) / stretches; ++unit)
      work(thread, unit);
  });
}

}  // namespace attn
