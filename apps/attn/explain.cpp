// attn explain --shape: what an attention call would run, read and cost, without running it.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "arguments.h"
#include "attn/attention.h"
#include "json.h"
#include "shape.h"
#include "terminal.h"

namespace attn::cli {

namespace {

// What a measurement may cost: about a tenth of a second a run, and memory that every machine has.
constexpr double kFlops = 4e9;
constexpr double kBytes = 256e6;
constexpr double kSeconds = 0.4;
constexpr int kRuns = 7;

double input_bytes(const AttentionShape& s) {
  const auto d = static_cast<double>(s.width), dv = static_cast<double>(s.v_width);
  const auto b = static_cast<double>(s.batch);
  return static_cast<double>(size_of(s.dtype)) * b *
         (static_cast<double>(s.q_heads) * static_cast<double>(s.q_len) * (d + dv) +
          static_cast<double>(s.kv_heads) * static_cast<double>(s.k_len) * (d + dv));
}

// Reproducible noise in [-1, 1).
template <class T>
std::vector<T> noise(std::int64_t count, std::uint64_t seed) {
  std::vector<T> values(static_cast<std::size_t>(count));
  std::uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
  for (T& value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = static_cast<T>(static_cast<double>(state >> 40) * 0x1p-23 - 1.0);
  }
  return values;
}

// Seconds of the fastest of a few runs: what else the machine does only ever adds.
template <class T>
double measure(const Plan& plan, const AttentionShape& s) {
  const Shape qs{s.batch, s.q_heads, s.q_len, s.width}, ks{s.batch, s.kv_heads, s.k_len, s.width};
  const Shape vs{s.batch, s.kv_heads, s.k_len, s.v_width};
  const Shape os{s.batch, s.q_heads, s.q_len, s.v_width};
  const auto size = [](const Shape& x) { return x[0] * x[1] * x[2] * x[3]; };
  const std::vector<T> q = noise<T>(size(qs), 1), k = noise<T>(size(ks), 2);
  const std::vector<T> v = noise<T>(size(vs), 3);
  std::vector<T> out(static_cast<std::size_t>(size(os)));

  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  double total = 0;
  for (int i = 0; i <= kRuns && (i == 0 || total < kSeconds); ++i) {
    const auto begin = Clock::now();
    plan.run({q.data(), qs}, {k.data(), ks}, {v.data(), vs}, {out.data(), os});
    const double t = std::chrono::duration<double>(Clock::now() - begin).count();
    total += t;
    // The first warms caches and workspace up, and counts only when it is long.
    if (i > 0 || t >= kSeconds) seconds.push_back(t);
  }
  return *std::min_element(seconds.begin(), seconds.end());
}

// A piece that is small enough to run now: the whole call, or some query rows (from the middle) of
// one group of heads, or of all heads where the mask or score differs by head or sequence.
struct Piece {
  AttentionShape shape;
  Plan plan;
  std::string what;
};

std::optional<Piece> piece_of(const AttentionShape& whole, const AttentionOptions& options,
                              const Plan& whole_plan, const Context& context) {
  if (whole_plan.summary().flops <= kFlops && input_bytes(whole) <= kBytes) {
    return Piece{whole, whole_plan, "the whole call"};
  }
  for (const bool one_group : {true, false}) {
    AttentionShape s = whole;
    if (one_group) {
      s.batch = 1;
      s.q_heads = whole.q_heads / whole.kv_heads;
      s.kv_heads = 1;
    }
    s.q_len = 1;
    const double fixed = input_bytes(s);
    s.q_len = 2;
    const double row = input_bytes(s) - fixed;
    if (fixed > kBytes) continue;
    const auto heads = static_cast<double>(s.batch * s.q_heads);
    const double row_flops = 2.0 * static_cast<double>(s.width + s.v_width) * heads *
                             static_cast<double>(std::max<std::int64_t>(s.k_len, 1));
    const double most = std::min(static_cast<double>(whole.q_len), 1 + (kBytes - fixed) / row);
    // Every thread gets a few blocks where that is affordable, or idle threads would be counted.
    const double busy =
        4.0 * context.threads() * static_cast<double>(whole_plan.summary().row_block) / heads;
    double rows = std::max(kFlops / row_flops, std::min(busy, 8 * kFlops / row_flops));
    try {
      for (;; rows *= 4) {  // a mask that hides much leaves room for more rows
        s.q_len = static_cast<std::int64_t>(std::clamp(rows, 1.0, most));
        AttentionOptions part = options;
        part.query_start += (whole.q_len - s.q_len) / 2;
        const Plan plan = attn::plan(s, part, context);
        if (plan.summary().flops < kFlops / 4 && rows < most) continue;
        if (!(plan.summary().flops > 0)) break;
        return Piece{s, plan,
                     fmt::format("{} of {} query rows, {} of {} heads", s.q_len, whole.q_len,
                                 s.batch * s.q_heads, whole.batch * whole.q_heads)};
      }
    } catch (const std::invalid_argument&) {
      // The mask or score is made for the whole's heads or sequences: keep them all.
    }
  }
  return std::nullopt;
}

void estimate(ExplainReport& report, const AttentionOptions& options, const Plan& plan,
              const Context& context) {
  if (!(report.plan.flops > 0)) {
    report.expected_from = "no pair is visible";
    return;
  }
  const std::optional<Piece> piece = piece_of(report.shape, options, plan, context);
  if (!piece) {
    report.expected_from = "too large to try a piece of it here";
    return;
  }
  const double seconds = report.shape.dtype == DType::f64
                             ? measure<double>(piece->plan, piece->shape)
                             : measure<float>(piece->plan, piece->shape);
  const double share = report.plan.flops / piece->plan.summary().flops;
  report.expected_ms = seconds * 1e3 * share;
  report.expected_from =
      "measured now: " + piece->what + (share > 1 ? ", scaled by visible pairs" : "");
}

std::string text(const ExplainReport& report, const std::string& facts) {
  std::string out = facts;
  if (!out.empty() && out.back() != '\n') out += "\n";
  if (report.expected_ms) {
    out += fmt::format("expected   {}, {:.1f} GFLOP/s ({})\n", duration_text(*report.expected_ms),
                       report.plan.flops / *report.expected_ms * 1e-6, report.expected_from);
  } else if (!report.expected_from.empty()) {
    out += "expected   no time (" + report.expected_from + ")\n";
  }
  out += "\n" + report.picture;
  if (out.back() != '\n') out += "\n";
  return out;
}

}  // namespace

void explain(const ExplainOptions& options) {
  if (!options.mechanism.empty() || options.shape.empty()) return explain_mechanism(options);
  ExplainReport report;
  report.shape = parse_shape("explain", options.shape);
  if (options.value_width > 0) report.shape.v_width = options.value_width;
  report.shape.dtype = options.dtype == "float64" ? DType::f64 : DType::f32;
  const AttentionOptions attention{.mask = Mask::parse(options.mask),
                                   .score = Score::parse(options.score),
                                   .query_start = options.query_start};
  const Context context = options.common.context();
  const Plan plan = attn::plan(report.shape, attention, context);
  report.mask = attention.mask.to_string();
  report.score = attention.score.to_string();
  report.plan = plan.summary();
  const Geometry geometry{.batch = report.shape.batch,
                          .heads = report.shape.q_heads,
                          .q_len = report.shape.q_len,
                          .k_len = report.shape.k_len,
                          .query_start = options.query_start};
  report.picture = attention.mask.ascii(geometry, options.cells);
  if (options.measure) {
    Progress progress;
    progress.show("Measuring a piece");
    estimate(report, attention, plan, context);
  }
  print(options.common.json ? json(report) : text(report, plan.explain()));
}

}  // namespace attn::cli
