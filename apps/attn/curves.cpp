// attn curves: time and memory of mechanisms against the length.
#include "attn/curves.h"

#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <vector>

#include "arguments.h"
#include "json.h"
#include "output.h"
#include "terminal.h"

namespace attn::cli {

namespace {

std::string table(const std::vector<Curve>& curves) {
  constexpr const char* kRow = "{:<14} {:>8} {:>10} {:>12} {:>9}\n";
  std::string text = bold("Time and peak memory against the length") + "\n";
  text += fmt::format(kRow, "", "tokens", "time", "memory", "exponent");
  for (const Curve& curve : curves) {
    for (const CurvePoint& p : curve.points) {
      const bool last = &p == &curve.points.back();
      text += fmt::format(kRow, &p == curve.points.data() ? curve.mechanism : "", p.length,
                          duration_text(p.seconds * 1e3), bytes_text(p.peak_bytes),
                          last && curve.exponent ? fmt::format("{:.2f}", *curve.exponent) : "");
    }
  }
  return text;
}

}  // namespace

void curves(const CurvesOptions& options) {
  const Context context = options.common.context();
  const std::string csv = options.output + ".csv", svg = options.output + ".svg";
  if (!options.output.empty()) {
    check_output("curves: --output", csv);
    check_output("curves: --output", svg);
  }
  Progress progress;
  const std::vector<Curve> all = measure_curves(
      {.isa = context.isa(),
       .threads = context.threads(),
       .mechanisms = options.mechanisms,
       .heads = options.heads,
       .width = options.width,
       .first = options.first,
       .last = options.last,
       .most_seconds = options.seconds,
       .progress = [&](const std::string& mechanism, std::int64_t length, double done) {
         progress.show(fmt::format("{:3.0f} % {} at {} tokens", 100 * done, mechanism, length));
       }});
  progress.clear();
  print(options.common.json ? json(all) : table(all));
  if (options.output.empty()) return;
  const std::string facts =
      fmt::format("{}, {}, {} thread{}; batch 1, {} heads of width {}, float32, forward",
                  machine().cpu, name(context.isa()), context.threads(),
                  context.threads() == 1 ? "" : "s", options.heads, options.width);
  write_output("curves: --output", csv, curves_csv(all));
  write_output("curves: --output", svg, curves_svg(all, facts));
  if (!options.common.json) {
    print("written: " + std::filesystem::absolute(csv).string() + ", " +
          std::filesystem::absolute(svg).string() + "\n");
  }
}

}  // namespace attn::cli
