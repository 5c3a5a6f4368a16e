#include "attn/measure.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <utility>

#include "kernels/ceiling.h"
#include "measure/memory.h"
#include "measure/problem.h"

namespace attn {

namespace {

using measuring::Problem;

constexpr double kCeilingSeconds = 0.01;
// Short problems are repeated, lest the clock be measured.
constexpr double kShortest = 0.01;
// A first run that takes longer than this counts as a sample: its warming up no longer shows.
constexpr double kLong = 1;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

DType arithmetic(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

Ceilings better(const Ceilings& a, const Ceilings& b) {
  return {std::max(a.gflops, b.gflops), std::max(a.gigabytes, b.gigabytes)};
}

// What the machine does at most, measured beside every sample. Reading is measured once it is asked
// for: it takes memory of its own.
class Limits {
 public:
  Limits(Isa isa, int threads) : isa_(isa), threads_(threads) {}

  Ceilings measure(DType dtype, bool reading, double seconds = kCeilingSeconds) {
    Ceilings c{.gflops = kernels::fma_ceiling_gflops(isa_, dtype, threads_, seconds)};
    if (reading) {
      if (read_ == nullptr) read_ = std::make_unique<kernels::ReadCeiling>(threads_);
      c.gigabytes = read_->gigabytes_per_second(isa_, seconds);
    }
    return c;
  }

 private:
  Isa isa_;
  int threads_;
  std::unique_ptr<kernels::ReadCeiling> read_;
};

// The seconds that the ceilings allow.
double least_seconds(const Measured& row, const Ceilings& c) {
  const double compute = row.flops * 1e-9 / c.gflops;
  return row.workload.decode ? std::max(compute, row.bytes * 1e-9 / c.gigabytes) : compute;
}

// What is timed in turns with others: one problem, or several one after the other.
struct Contestant {
  std::vector<std::unique_ptr<Problem>> problems;
  std::vector<double> seconds;
  std::vector<Ceilings> ceilings;
  double flops = 0, bytes = 0, peak_bytes = 0;
  double first = 0;  // seconds of the first run

  Contestant(const std::vector<Workload>& parts, const Context& context) {
    for (const Workload& part : parts) {
      problems.push_back(std::make_unique<Problem>(part, context));
    }
    const double before = measuring::forget_peak();
    for (const auto& problem : problems) problem->plan();
    const double start = now();
    run();
    first = now() - start;
    peak_bytes = std::max(0.0, measuring::peak_bytes() - before);
    for (const auto& problem : problems) {
      flops += problem->flops();
      bytes += problem->bytes();
    }
  }
  void run() {
    for (const auto& problem : problems) problem->run();
  }
  double fastest() const { return *std::min_element(seconds.begin(), seconds.end()); }
};

void take_samples(const std::vector<Contestant*>& contestants, Limits& limits,
                  const Workload& workload, int samples) {
  const DType dtype = arithmetic(workload.shape.dtype);
  Ceilings before = limits.measure(dtype, workload.decode);
  for (Contestant* c : contestants) {
    if (c->first < kLong) continue;
    c->seconds.push_back(c->first);
    c->ceilings.push_back(before);
  }
  for (bool more = true; more;) {
    more = false;
    for (Contestant* c : contestants) {
      if (static_cast<int>(c->seconds.size()) >= samples) continue;
      int repeats = 0;
      const double start = now();
      double seconds;
      do {
        c->run();
        ++repeats;
        seconds = now() - start;
      } while (seconds < kShortest);
      const Ceilings after = limits.measure(dtype, workload.decode);
      c->seconds.push_back(seconds / repeats);
      c->ceilings.push_back(better(before, after));
      before = after;
      more = true;
    }
  }
}

// The plain form of a workload: more than one where a ragged batch is taken apart.
std::vector<Workload> plain_form(const Workload& workload) {
  Workload plain = workload;
  plain.shape.kv_dtype = workload.shape.dtype == DType::f64 ? DType::f64 : DType::f32;
  plain.shape.dtype = *plain.shape.kv_dtype;
  plain.dropout = 0;
  plain.ragged = false;
  plain.layout = Layout::contiguous;
  plain.observe = Observing::nothing;
  if (!workload.ragged) return {plain};
  std::vector<Workload> parts;
  for (std::int64_t b = 1; b <= workload.shape.batch; ++b) {
    Workload part = plain;
    part.shape.batch = 1;
    part.shape.q_len = std::max<std::int64_t>(1, plain.shape.q_len * b / plain.shape.batch);
    part.shape.k_len = std::max<std::int64_t>(1, plain.shape.k_len * b / plain.shape.batch);
    parts.push_back(part);
  }
  return parts;
}

Measured measure_one(const Workload& workload, const Context& context, Limits& limits,
                     int samples) {
  // Each on a workspace of its own, whose memory counts.
  const auto fresh = [&] { return Context({.threads = context.threads(), .isa = context.isa()}); };
  Contestant own({workload}, fresh());
  std::vector<Contestant*> contestants = {&own};
  std::unique_ptr<Contestant> plain;
  if (!workload.alone && !workload.compared_with().empty()) {
    plain = std::make_unique<Contestant>(plain_form(workload), fresh());
    contestants.push_back(plain.get());
  }
  take_samples(contestants, limits, workload,
               workload.samples > 0 ? std::min(workload.samples, samples) : samples);

  Measured row;
  row.workload = workload;
  row.isa = context.isa();
  row.threads = context.threads();
  row.flops = own.flops;
  row.bytes = own.bytes;
  row.seconds = own.fastest();
  row.median_seconds = median(own.seconds);
  row.spread = (*std::max_element(own.seconds.begin(), own.seconds.end()) - row.seconds) /
               row.median_seconds;
  row.samples = static_cast<int>(own.seconds.size());
  std::vector<double> shares;
  for (std::size_t i = 0; i < own.seconds.size(); ++i) {
    row.ceilings = better(row.ceilings, own.ceilings[i]);
    shares.push_back(least_seconds(row, own.ceilings[i]) / own.seconds[i]);
  }
  row.median_share = median(shares);
  row.peak_bytes = own.peak_bytes;
  if (plain) row.relative_time = row.seconds / plain->fastest();
  return row;
}

// What has no backward run.
void refuse_backward(const Workload& w) {
  const auto refuse = [](const std::string& what) {
    throw std::invalid_argument("[measure] backward is of contiguous float32 or float64, not of " +
                                what);
  };
  if (w.decode) refuse("decoding");
  if (w.layout != Layout::contiguous) refuse(std::string("a ") + name(w.layout) + " cache");
  if (w.observe != Observing::nothing) refuse("what is observed");
  for (const DType type : {w.shape.dtype, w.shape.kv_dtype.value_or(w.shape.dtype)}) {
    if (type != DType::f32 && type != DType::f64) refuse(name(type));
  }
}

// All rows by the best ceilings of the whole run.
void judge(std::vector<Measured>& rows) {
  for (Measured& row : rows) {
    for (const Measured& other : rows) {
      if (arithmetic(other.workload.shape.dtype) == arithmetic(row.workload.shape.dtype)) {
        row.ceilings = better(row.ceilings, other.ceilings);
      }
    }
  }
  for (Measured& row : rows) {
    row.share = least_seconds(row, row.ceilings) / row.seconds;
    row.memory_bound = least_seconds(row, row.ceilings) > row.flops * 1e-9 / row.ceilings.gflops;
  }
}

}  // namespace

const char* name(Layout layout) { return layout == Layout::contiguous ? "contiguous" : "paged"; }

const char* name(Observing observing) {
  switch (observing) {
    case Observing::one_pass: return "one-pass";
    case Observing::two_passes: return "two-pass";
    case Observing::everything: return "all";
    default: return "none";
  }
}

std::string Workload::compared_with() const {
  const bool stored = layout != Layout::contiguous || shape.dtype == DType::bf16 ||
                      shape.dtype == DType::f16 ||
                      shape.kv_dtype.value_or(shape.dtype) != shape.dtype;
  std::string what;
  const auto add = [&](bool differs, const char* plain) {
    if (differs) what += (what.empty() ? "" : ", ") + std::string(plain);
  };
  add(stored, "contiguous float32");
  add(dropout > 0, "no dropout");
  add(ragged, "its sequences one by one");
  add(observe != Observing::nothing, "not observed");
  return what;
}

Ceilings measure_ceilings(Isa isa, int threads, DType dtype) {
  const Context context({.threads = threads, .isa = isa});
  Limits limits(context.isa(), context.threads());
  Ceilings best;
  for (int i = 0; i < 5; ++i) {
    best = better(best, limits.measure(arithmetic(dtype), true, 3 * kCeilingSeconds));
  }
  return best;
}

void check(const Workload& workload, const Context& context) {
  if (workload.backward) refuse_backward(workload);
  const measuring::Call call = measuring::call_of(workload);
  (void)plan(call.shape, call.options, context);
}

std::vector<Measured> measure(const std::vector<Workload>& workloads,
                              const MeasureOptions& options) {
  const Context context({.threads = options.threads, .isa = options.isa});
  for (const Workload& workload : workloads) check(workload, context);
  Limits limits(context.isa(), context.threads());
  std::vector<Measured> rows;
  for (std::size_t i = 0; i < workloads.size(); ++i) {
    if (options.progress) options.progress(i);
    rows.push_back(measure_one(workloads[i], context, limits, std::max(1, options.samples)));
  }
  judge(rows);
  return rows;
}

}  // namespace attn
