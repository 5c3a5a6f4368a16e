// attn explain MECHANISM: what it is, from docs/mechanisms, and what it costs here.
#include "attn/mechanism.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.h"
#include "attn/measure.h"
#include "json.h"
#include "markdown.h"
#include "shape.h"
#include "terminal.h"

namespace attn::cli {

namespace {

constexpr const char* kShape = "1,12,12,2048,2048,64";
constexpr std::int64_t kLengths[] = {256, 1024, 4096, 16384, 65536};
constexpr int kSamples = 5;
constexpr std::size_t kWidest = 100;  // columns of text that are read well

// "# Title" without its mark.
std::string title_of(const std::string& text) {
  const std::string line = text.substr(0, text.find('\n'));
  return line.substr(std::min(line.size(), line.find_first_not_of("# ")));
}

std::string list_of_topics() {
  std::string out = bold("attn explain NAME explains") + "\n";
  for (const MechanismText& t : mechanism_texts()) {
    std::string names;
    for (const Mechanism& m : mechanisms()) {
      if (m.topic != t.topic || m.name == t.topic) continue;
      names += (names.empty() ? "" : ", ") + m.name;
    }
    out += fmt::format("{:<12} {}{}\n", t.topic, title_of(t.text),
                       names.empty() ? "" : " (" + names + ")");
  }
  return out +
         "attn explain --shape B,Hq,Hkv,Lq,Lk,D says what a call of exact attention would do.\n";
}

// One mechanism by its name, or all of a topic.
MechanismReport named(const std::string& name) {
  MechanismReport report;
  report.topic = name;
  for (const Mechanism& m : mechanisms()) {
    if (m.name != name || m.topic == name) continue;
    report.topic = m.topic;
    report.mechanisms = {{.about = m, .lengths = {}}};
  }
  const auto& texts = mechanism_texts();
  const auto found = std::find_if(texts.begin(), texts.end(),
                                  [&](const MechanismText& t) { return t.topic == report.topic; });
  if (found == texts.end()) {
    std::string known;
    for (const MechanismText& t : texts) known += (known.empty() ? "" : ", ") + t.topic;
    throw std::invalid_argument("explain: there is no mechanism '" + name + "', must be one of " +
                                known + "; see attn explain");
  }
  report.text = found->text;
  if (!report.mechanisms.empty()) return report;
  for (const Mechanism& m : mechanisms()) {
    if (m.topic == report.topic) report.mechanisms.push_back({.about = m, .lengths = {}});
  }
  return report;
}

AttentionShape at_length(AttentionShape shape, std::int64_t length) {
  shape.q_len = shape.k_len = length;
  return shape;
}

// What causal exact attention costs stands beside every mechanism.
void add_causal(MechanismReport& report) {
  for (const MechanismReport::Costs& c : report.mechanisms) {
    if (c.about.name == "causal") return;
  }
  report.mechanisms.push_back({.about = mechanism("causal"), .lengths = {}});
}

void add_costs(MechanismReport& report) {
  for (MechanismReport::Costs& c : report.mechanisms) {
    for (const std::int64_t length : kLengths) {
      c.lengths.push_back(
          {length, mechanism_cost(c.about.name, at_length(report.shape, length)), {}});
    }
  }
}

// From how many tokens on another mask takes less time than the causal one, when an operation takes
// `ratio` times as long: one kernel runs both. 0: not up to the longest length that is shown.
std::int64_t counted_crossing(const std::string& name, const AttentionShape& shape, double ratio) {
  const auto less = [&](std::int64_t length) {
    const AttentionShape s = at_length(shape, length);
    return ratio * mechanism_cost(name, s).flops < mechanism_cost("causal", s).flops;
  };
  std::int64_t not_yet = 0, high = std::end(kLengths)[-1];
  if (!less(high)) return 0;
  while (high - not_yet > 1) {
    const std::int64_t middle = (not_yet + high) / 2;
    (less(middle) ? high : not_yet) = middle;
  }
  return high;
}

void add_times(MechanismReport& report, const ExplainOptions& options) {
  std::vector<Workload> workloads;
  for (const MechanismReport::Costs& c : report.mechanisms) {
    workloads.push_back(workload_of(c.about.name, report.shape));
  }
  Progress progress;
  progress.show("Measuring");
  const std::vector<Measured> rows = measure(workloads, {.isa = isa_from_name(options.common.isa),
                                                         .threads = options.common.threads,
                                                         .samples = kSamples});
  double of_causal = 0;  // seconds an operation; causal attention is the last
  for (std::size_t i = rows.size(); i-- > 0;) {
    MechanismReport::Costs& c = report.mechanisms[i];
    const double a_flop = rows[i].seconds / mechanism_cost(c.about.name, report.shape).flops;
    if (c.about.name == "causal") of_causal = a_flop;
    for (MechanismReport::Length& l : c.lengths) l.ms = a_flop * 1e3 * l.cost.flops;
    c.crossing = rows[i].crossing;
    if (c.sparse()) c.crossing = counted_crossing(c.about.name, report.shape, a_flop / of_causal);
  }
  report.measured = true;
}

// "1.1 TFLOP".
std::string flops_text(double flops) {
  constexpr const char* kUnits[] = {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"};
  std::size_t unit = 0;
  while (flops >= 999.5 && unit + 1 < std::size(kUnits)) {
    flops /= 1000;
    ++unit;
  }
  return fmt::format("{:.3g} {}", flops, kUnits[unit]);
}

std::string numbers(const MechanismReport& report) {
  const AttentionShape& s = report.shape;
  std::string out = bold("Costs here") + "\n";
  out += fmt::format("{} head{} of width {}, {}; {}, {} thread{}\n\n", s.batch * s.q_heads,
                     s.batch * s.q_heads == 1 ? "" : "s", s.width, name(s.dtype), report.isa,
                     report.threads, report.threads == 1 ? "" : "s");
  constexpr const char* kRow = "{:<12} {:>8} {:>12} {:>12} {:>10} {:>10}\n";
  out += fmt::format(kRow, "", "tokens", "work", "a step", "kept", "time");
  for (const MechanismReport::Costs& c : report.mechanisms) {
    for (const MechanismReport::Length& l : c.lengths) {
      const bool steps = l.cost.step_flops > 0;
      out += fmt::format(kRow, &l == c.lengths.data() ? c.about.name : "", l.length,
                         flops_text(l.cost.flops), steps ? flops_text(l.cost.step_flops) : "-",
                         steps ? bytes_text(l.cost.state_bytes) : "-",
                         l.ms ? duration_text(*l.ms) : "");
    }
  }
  out +=
      "\nForward of a whole sequence; a step is one more token; kept is what it reads of those\n"
      "before it. ";
  if (!report.measured) return out + "Not measured.\n";
  out += fmt::format("Times were measured now at {} tokens, and scaled by operations.\n", s.q_len);
  for (const MechanismReport::Costs& c : report.mechanisms) {
    if (c.crossing > 0) {
      out += fmt::format("{} is faster than causal exact attention from {} tokens on ({}).\n",
                         c.about.name, c.crossing, c.sparse() ? "by operations" : "measured");
    } else if (c.about.mask.empty()) {
      out +=
          fmt::format("{} is not faster than causal exact attention up to {} tokens (measured).\n",
                      c.about.name, s.q_len);
    }
  }
  return out;
}

}  // namespace

void explain_mechanism(const ExplainOptions& options) {
  if (options.mechanism.empty()) {
    print(options.common.json ? json_topics() : list_of_topics());
    return;
  }
  MechanismReport report = named(options.mechanism);
  report.shape = parse_shape("explain", options.shape.empty() ? kShape : options.shape);
  if (options.value_width > 0) report.shape.v_width = options.value_width;
  report.shape.dtype = options.dtype == "float64" ? DType::f64 : DType::f32;
  const Context context = options.common.context();
  report.isa = name(context.isa());
  report.threads = context.threads();
  if (!report.mechanisms.empty()) {
    add_causal(report);
    for (const auto& c : report.mechanisms) check(workload_of(c.about.name, report.shape));
    add_costs(report);
    if (options.measure) add_times(report, options);
  }
  if (options.common.json) return print(json(report));
  std::string text = rendered(report.text, std::min(kWidest, terminal_columns()));
  if (!report.mechanisms.empty()) text += "\n" + numbers(report);
  print(text);
}

}  // namespace attn::cli
