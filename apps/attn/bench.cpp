// attn bench: this machine's ceilings, and what attention reaches of them.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "attn/error.h"
#include "attn/measure.h"
#include "attn/mechanism.h"
#include "bench_table.h"
#include "json.h"
#include "output.h"
#include "shape.h"
#include "terminal.h"

namespace attn::cli {

namespace {

DType dtype_named(const std::string& text) {
  for (const DType type : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i8}) {
    if (text == name(type)) return type;
  }
  throw std::invalid_argument("bench: unknown type '" + text + "'");
}

Observing observing_named(const std::string& text) {
  for (const Observing o : {Observing::one_pass, Observing::two_passes, Observing::everything}) {
    if (text == name(o)) return o;
  }
  return Observing::nothing;
}

// Options that exclude each other, by the names that were typed.
void refuse_mixtures(const BenchOptions& options) {
  const std::string dtype = "--dtype " + options.dtype;
  const std::string kv_dtype = options.kv_dtype.empty() ? dtype : "--kv-dtype " + options.kv_dtype;
  const auto refuse = [](bool both, const std::string& one, const std::string& other) {
    if (both) throw std::invalid_argument("bench: " + one + " does not go with " + other);
  };
  const auto wide = [](const std::string& type) { return type == "float64"; };
  const auto small = [&](const std::string& type) { return !wide(type) && type != "float32"; };
  const std::string kv = options.kv_dtype.empty() ? options.dtype : options.kv_dtype;
  refuse(wide(kv) != wide(options.dtype), kv_dtype, dtype);
  for (const std::string& name : options.mechanisms) {
    const std::string one = "--mechanism " + name;
    refuse(options.mask != "full", one, "--mask " + options.mask);
    refuse(options.score != "none", one, "--score " + options.score);
  }
  refuse(options.ragged && options.cache == "paged", "--ragged", "--cache paged");
  if (!options.backward) return;
  refuse(options.decode, "--backward", "--decode");
  refuse(options.cache == "paged", "--backward", "--cache paged");
  refuse(options.observe != "none", "--backward", "--observe " + options.observe);
  refuse(small(options.dtype), "--backward", dtype);
  refuse(small(kv), "--backward", kv_dtype);
}

std::vector<Workload> asked_workloads(const BenchOptions& options) {
  if (options.plain()) return default_workloads();
  if (!(options.dropout >= 0 && options.dropout < 1)) {
    throw std::invalid_argument("bench: --dropout must be at least 0 and below 1");
  }
  refuse_mixtures(options);
  std::vector<std::string> shapes = options.shapes;
  if (shapes.empty() && !options.mechanisms.empty()) {
    shapes = {options.decode ? "64,12,12,1,1,64" : "1,12,12,8192,8192,64"};
  } else if (shapes.empty()) {
    shapes = {options.decode   ? "1,32,8,1,32768,128"
              : options.ragged ? "8,12,12,512,512,64"
                               : "1,12,12,2048,2048,64"};
  }
  std::vector<Workload> list;
  for (const std::string& text : shapes) {
    Workload w;
    w.shape = parse_shape("bench", text);
    w.shape.dtype = dtype_named(options.dtype);
    if (!options.kv_dtype.empty()) w.shape.kv_dtype = dtype_named(options.kv_dtype);
    w.mask = options.mask;
    w.score = options.score;
    w.decode = options.decode;
    w.backward = options.backward;
    w.dropout = options.dropout;
    w.ragged = options.ragged;
    w.layout = options.cache == "paged" ? Layout::paged : Layout::contiguous;
    w.observe = observing_named(options.observe);
    if (options.mechanisms.empty()) list.push_back(w);
    for (const std::string& name : options.mechanisms) {
      const Workload of = workload_of(name, w.shape);
      w.mechanism = of.mechanism;
      w.mask = of.mask;
      list.push_back(w);
    }
  }
  return list;
}

// "causal alibi int8 paged".
std::string what(const Workload& w) {
  std::string text = w.mechanism == "exact" ? w.mask : w.mechanism;
  if (w.score != "none") text += " " + w.score;
  if (w.decode) text += " decode";
  if (w.backward) text += " backward";
  if (w.shape.dtype != DType::f32) text += fmt::format(" {}", name(w.shape.dtype));
  if (w.shape.kv_dtype.value_or(w.shape.dtype) != w.shape.dtype) {
    text += fmt::format(" {}", name(*w.shape.kv_dtype));
  }
  if (w.layout == Layout::paged) text += " paged";
  if (w.ragged) text += " ragged";
  if (w.dropout > 0) text += fmt::format(" dropout:{:g}", w.dropout);
  if (w.observe != Observing::nothing) text += fmt::format(" observed:{}", name(w.observe));
  return text;
}

std::string shape_text(const AttentionShape& s) {
  const std::string text =
      fmt::format("{},{},{},{},{},{}", s.batch, s.q_heads, s.kv_heads, s.q_len, s.k_len, s.width);
  return s.v_width > 0 && s.v_width != s.width ? text + fmt::format(",{}", s.v_width) : text;
}

std::string threads_text(int threads) {
  return fmt::format("{} thread{}", threads, threads == 1 ? "" : "s");
}

// From where on mechanisms are faster than what they are compared with.
std::string crossings(const std::vector<Measured>& rows) {
  std::string text;
  for (const Measured& row : rows) {
    if (row.crossing == 0) continue;
    text += fmt::format("{} {} {}", text.empty() ? "" : ",", row.workload.mechanism, row.crossing);
  }
  return text.empty() ? "" : "Faster than causal exact attention from, tokens:" + text + "\n";
}

constexpr const char* kRow = "{:<22} {:<26} {:>8} {:>13} {:>6} {:>6} {:>5} {:>7}\n";

std::string table(const std::vector<Measured>& rows) {
  std::string title = fmt::format("{}, {}: at most {:.1f} GFLOP/s", name(rows.front().isa),
                                  threads_text(rows.front().threads), rows.front().ceilings.gflops);
  double reading = 0;
  for (const Measured& row : rows) {
    if (row.workload.mechanism == "exact") reading = std::max(reading, row.ceilings.gigabytes);
  }
  if (reading > 0) title += fmt::format(", {:.1f} GB/s", reading);
  std::string text = bold(title) + "\n";
  text += fmt::format(kRow, "B,Hq,Hkv,Lq,Lk,D", "what", "time", "rate", "share", "spread", "vs",
                      "memory");
  for (const Measured& row : rows) {
    text += fmt::format(
        kRow, shape_text(row.workload.shape), shortened(what(row.workload), 26),
        duration_text(row.seconds * 1e3),
        row.memory_bound ? fmt::format("{:.1f} GB/s", row.bytes * 1e-9 / row.seconds)
                         : fmt::format("{:.1f} GFLOP/s", row.flops * 1e-9 / row.seconds),
        fmt::format("{:.1f}%", 100 * row.share), fmt::format("{:.0f}%", 100 * row.spread),
        row.relative_time > 0
            ? fmt::format("{:.{}f}x", row.relative_time, row.relative_time < 0.1 ? 3 : 2)
            : "",
        bytes_text(row.peak_bytes));
  }
  return text + crossings(rows) + "\n";
}

// The instruction sets and thread counts to measure with.
struct Setting {
  Isa isa = Isa::scalar;
  int threads = 1;
};

std::vector<int> thread_counts(const Common& common) {
  if (common.threads > 0) return {common.threads};
  const int all = Context().threads();
  return all > 1 ? std::vector<int>{1, all} : std::vector<int>{1};
}

std::vector<Isa> vector_isas(const Common& common, bool every) {
  const Isa chosen = common.context().isa();
  if (common.isa != "automatic" || !every) return {chosen};
  std::vector<Isa> isas = supported_isas();
  std::erase(isas, Isa::scalar);  // the portable baseline is for correctness
  return isas.empty() ? std::vector<Isa>{chosen} : isas;
}

std::vector<Workload> standard_workloads(const BenchOptions& options, bool once) {
  std::vector<Group> table = standard_table();
  for (const std::string& asked : options.groups) {
    if (std::none_of(table.begin(), table.end(), [&](const Group& g) { return g.name == asked; })) {
      std::string known;
      for (const Group& g : table) known += (known.empty() ? "" : ", ") + g.name;
      throw std::invalid_argument("bench: --standard has no group '" + asked +
                                  "', must be one of " + known);
    }
  }
  std::vector<Workload> list;
  for (const Group& g : table) {
    const bool asked =
        options.groups.empty() ||
        std::find(options.groups.begin(), options.groups.end(), g.name) != options.groups.end();
    if (!asked || (g.once && (!once || options.quick))) continue;
    list.insert(list.end(), g.workloads.begin(), g.workloads.end());
  }
  return list;
}

}  // namespace

void bench(const BenchOptions& options) {
  const std::vector<int> counts = thread_counts(options.common);
  std::vector<Setting> settings;
  for (const Isa isa : vector_isas(options.common, options.standard)) {
    for (const int threads : counts) settings.push_back({isa, threads});
  }
  std::vector<std::vector<Workload>> work;  // of each setting
  std::size_t total = 0;
  for (const Setting& s : settings) {
    const bool once = s.isa == settings.front().isa && s.threads == counts.back();
    work.push_back(options.standard ? standard_workloads(options, once) : asked_workloads(options));
    total += work.back().size();
    for (const Workload& w : work.back()) check(w);
  }
  if (!options.output.empty()) check_output("bench: --output", options.output);

  Progress progress;
  BenchReport report;
  report.machine = machine();
  const auto say = [&](const std::string& text) {
    progress.clear();
    if (!options.common.json) print(text);
  };
  std::string facts = fmt::format("{}, L2 {}, L3 {}\n", report.machine.cpu,
                                  bytes_text(static_cast<double>(report.machine.l2_bytes)),
                                  bytes_text(static_cast<double>(report.machine.l3_bytes)));
  for (const Isa isa : vector_isas(options.common, true)) {
    for (const int threads : counts) {
      progress.show(fmt::format("Ceilings: {}, {}", name(isa), threads_text(threads)));
      report.ceilings.push_back({isa, threads, measure_ceilings(isa, threads)});
      const Ceilings& c = report.ceilings.back().ceilings;
      facts += fmt::format("{:<8} {:<10} {:>8.1f} GFLOP/s multiply-adds {:>8.1f} GB/s read\n",
                           name(isa), threads_text(threads), c.gflops, c.gigabytes);
    }
  }
  for (const BenchReport::Ceiling& many : report.ceilings) {
    for (const BenchReport::Ceiling& one : report.ceilings) {
      if (one.isa != many.isa || one.threads != 1 || many.threads == 1) continue;
      const double times = many.ceilings.gflops / one.ceilings.gflops;
      if (times < 0.75 * many.threads) {
        facts += fmt::format("{}: {} reach {:.1f} times one; they share a core, or are not alone\n",
                             name(many.isa), threads_text(many.threads), times);
      }
    }
  }
  say(facts + "\n");

  std::size_t done = 0;
  for (std::size_t i = 0; i < settings.size(); ++i) {
    if (work[i].empty()) continue;
    const std::string setting =
        fmt::format("{}, {}", name(settings[i].isa), threads_text(settings[i].threads));
    const MeasureOptions how{
        .isa = settings[i].isa,
        .threads = settings[i].threads,
        .samples = options.samples > 0 ? options.samples
                   : options.quick     ? 5
                                       : 15,
        .progress = [&](std::size_t at, double part) {
          const Workload& w = work[i][at];
          const double all = static_cast<double>(done) + part * static_cast<double>(work[i].size());
          progress.show(fmt::format("{} {}: {} {}", bar(all / static_cast<double>(total)), setting,
                                    shape_text(w.shape), what(w)));
        }};
    const std::vector<Measured> rows = measure(work[i], how);
    done += work[i].size();
    say(table(rows));
    report.rows.insert(report.rows.end(), rows.begin(), rows.end());
  }
  if (options.common.json) print(json(report));
  if (!options.output.empty()) {
    write_output("bench: --output", options.output, json(report.rows));
    say("written: " + std::filesystem::absolute(options.output).string() + "\n");
  }
}

}  // namespace attn::cli
