#include "attn/measure.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <utility>

#include "kernels/ceiling.h"
#include "measure/attention_problem.h"
#include "measure/crossing.h"
#include "measure/mechanism_table.h"
#include "measure/memory.h"
#include "measure/problem.h"
#include "measure/scaling.h"

namespace attn {

namespace {

using measuring::Problem;

constexpr double kCeilingSeconds = 0.01;
// Short problems are repeated, lest the clock be measured.
constexpr double kShortest = 0.01;
// All workloads have their turn this often, so that what else the machine does for a minute does
// not spoil one of them.
constexpr int kRounds = 3;
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

bool exact(const Workload& w) { return w.mechanism == "exact"; }

// What the machine does at most, measured beside every sample. Memory is measured once it is asked
// for: it takes some of its own.
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
  // Of what a step of a recurrence does, which reads and writes `bytes`: multiplying in place.
  Ceilings measure_scaling(DType dtype, double bytes) {
    Ceilings c = measure(dtype, false);
    if (scale_ == nullptr || scaled_bytes_ != bytes) {
      scale_ = std::make_unique<measuring::ScaleCeiling>(bytes / 2, isa_, threads_);
      scaled_bytes_ = bytes;
    }
    c.gigabytes = scale_->gigabytes_per_second(kCeilingSeconds);
    return c;
  }

 private:
  Isa isa_;
  int threads_;
  std::unique_ptr<kernels::ReadCeiling> read_;
  std::unique_ptr<measuring::ScaleCeiling> scale_;
  double scaled_bytes_ = 0;
};

// The seconds that the ceilings allow.
double least_seconds(const Measured& row, const Ceilings& c) {
  const double compute = row.flops * 1e-9 / c.gflops;
  return row.workload.decode ? std::max(compute, row.bytes * 1e-9 / c.gigabytes) : compute;
}

// What was taken of one workload.
struct Samples {
  std::vector<double> seconds;
  std::vector<Ceilings> ceilings;  // beside each
  double flops = 0, bytes = 0, peak_bytes = 0;

  double fastest() const { return *std::min_element(seconds.begin(), seconds.end()); }
};

// What is timed in turns with others: one problem, or several one after the other.
struct Contestant {
  std::vector<std::unique_ptr<Problem>> problems;
  Samples& samples;
  double first = 0;  // seconds of the first run

  Contestant(const std::vector<Workload>& parts, const Context& context, Samples& into)
      : samples(into) {
    for (const Workload& part : parts) {
      problems.push_back(measuring::make_problem(part, context));
    }
    const double before = measuring::forget_peak();
    for (const auto& problem : problems) problem->plan();
    const double start = now();
    run();
    first = now() - start;
    samples.peak_bytes =
        std::max(samples.peak_bytes, std::max(0.0, measuring::peak_bytes() - before));
    samples.flops = samples.bytes = 0;
    for (const auto& problem : problems) {
      samples.flops += problem->flops();
      samples.bytes += problem->bytes();
    }
  }
  void run() {
    for (const auto& problem : problems) problem->run();
  }
};

// Until each has `count`.
void take_samples(const std::vector<Contestant*>& contestants, Limits& limits,
                  const Workload& workload, int count) {
  const DType dtype = arithmetic(workload.shape.dtype);
  const auto wants = [&](const Samples& s) { return static_cast<int>(s.seconds.size()) < count; };
  const auto ceilings = [&] {
    return workload.decode && !exact(workload)
               ? limits.measure_scaling(dtype, contestants.front()->samples.bytes)
               : limits.measure(dtype, workload.decode);
  };
  Ceilings before = ceilings();
  for (Contestant* c : contestants) {
    if (c->first < kLong || !wants(c->samples)) continue;
    c->samples.seconds.push_back(c->first);
    c->samples.ceilings.push_back(before);
  }
  for (bool more = true; more;) {
    more = false;
    for (Contestant* c : contestants) {
      if (!wants(c->samples)) continue;
      int repeats = 0;
      const double start = now();
      double seconds;
      do {
        c->run();
        ++repeats;
        seconds = now() - start;
      } while (seconds < kShortest);
      const Ceilings after = ceilings();
      c->samples.seconds.push_back(seconds / repeats);
      c->samples.ceilings.push_back(better(before, after));
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
  if (!exact(workload)) {
    plain.mechanism = "exact";
    plain.mask = "causal";
  }
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

// A workload and, beside it, its plain form.
struct Row {
  const Workload& workload;
  int samples;  // wanted
  Samples own, plain = {};
  std::int64_t crossing = 0;

  bool compared() const { return !workload.alone && !workload.compared_with().empty(); }
  // Until there are `count`.
  void sample(const Context& context, Limits& limits, int count) {
    if (static_cast<int>(own.seconds.size()) >= count) return;
    // Each on a workspace of its own, whose memory counts.
    const auto fresh = [&] {
      return Context({.threads = context.threads(), .isa = context.isa()});
    };
    Contestant mine({workload}, fresh(), own);
    std::vector<Contestant*> contestants = {&mine};
    std::unique_ptr<Contestant> beside;
    if (compared()) {
      beside = std::make_unique<Contestant>(plain_form(workload), fresh(), plain);
      contestants.push_back(beside.get());
    }
    take_samples(contestants, limits, workload, count);
    if (crossing == 0 && compared() && !exact(workload) && !workload.backward) {
      crossing = measuring::crossing(workload, plain_form(workload).front(), fresh());
    }
  }
  Measured measured(const Context& context) const;
};

Measured Row::measured(const Context& context) const {
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
  if (compared()) row.relative_time = row.seconds / plain.fastest();
  row.crossing = crossing;
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
      if (arithmetic(other.workload.shape.dtype) != arithmetic(row.workload.shape.dtype)) continue;
      // How fast a state is multiplied depends on its size: that ceiling is the row's own.
      const double gigabytes = row.ceilings.gigabytes;
      row.ceilings = better(row.ceilings, other.ceilings);
      if (!exact(row.workload) || !exact(other.workload)) row.ceilings.gigabytes = gigabytes;
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
  add(mechanism != "exact" && !decode, "causal exact attention");
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
  if (!exact(workload)) return measuring::check_mechanism(workload);
  if (workload.backward) refuse_backward(workload);
  const measuring::Call call = measuring::call_of(workload);
  (void)plan(call.shape, call.options, context);
}

std::vector<Measured> measure(const std::vector<Workload>& workloads,
                              const MeasureOptions& options) {
  const Context context({.threads = options.threads, .isa = options.isa});
  for (const Workload& workload : workloads) check(workload, context);
  Limits limits(context.isa(), context.threads());
  std::vector<Row> rows;
  for (const Workload& w : workloads) {
    const int samples = std::max(1, options.samples);
    rows.push_back({w, w.samples > 0 ? std::min(w.samples, samples) : samples, {}});
  }
  for (int round = 1; round <= kRounds; ++round) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const double visits = static_cast<double>(kRounds) * static_cast<double>(rows.size());
      const double visit = static_cast<double>(round - 1) * static_cast<double>(rows.size()) +
                           static_cast<double>(i);
      if (options.progress) options.progress(i, visit / visits);
      rows[i].sample(context, limits, (rows[i].samples * round + kRounds - 1) / kRounds);
    }
  }
  std::vector<Measured> all;
  for (const Row& row : rows) all.push_back(row.measured(context));
  judge(all);
  return all;
}

}  // namespace attn
