#include "attention/explain.h"

#include <cstdarg>
#include <cstdio>

#include "attention/observe.h"

namespace attn {

namespace {

std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char* pattern, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

// 17179869184 -> "16.0 GiB"
std::string in_bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 5; ++unit) bytes /= 1024;
  return format(unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

// 2.06e10 -> "20.6 G"
std::string in_thousands(double count) {
  const char* units[] = {"", "k", "M", "G", "T", "P"};
  int unit = 0;
  for (; count >= 1000 && unit < 5; ++unit) count /= 1000;
  return format(unit == 0 ? "%.0f%s" : "%.1f %s", count, units[unit]);
}

double share(std::int64_t part, double whole) {
  return whole > 0 ? 100.0 * static_cast<double>(part) / whole : 0.0;
}

}  // namespace

std::string explain_plan(const AttentionShape& shape, const AttentionOptions& options,
                         const PlanSummary& s, const Observed& observed) {
  const auto ll = [](std::int64_t x) { return static_cast<long long>(x); };
  const auto tiles = static_cast<double>(s.tiles_full + s.tiles_partial + s.tiles_skipped);
  const auto pairs = static_cast<double>(shape.batch * shape.q_heads) *
                     static_cast<double>(shape.q_len) * static_cast<double>(shape.k_len);
  std::string text;
  const auto line = [&text](const char* key, const std::string& value) {
    text += format("%-11s", key) + value + "\n";
  };
  line("shape",
       format("batch %lld, heads %lld on %lld, queries %lld, keys %lld, width %lld",
              ll(shape.batch), ll(shape.q_heads), ll(shape.kv_heads), ll(shape.q_len),
              ll(shape.k_len), ll(shape.width)) +
           (shape.v_width != shape.width ? format(", values %lld", ll(shape.v_width)) : ""));
  line("mask", options.mask.to_string());
  line("score", options.score.to_string());
  line("kernel", format("%s, %s, %d %s", s.kernel.c_str(), name(s.isa), s.threads,
                        s.threads == 1 ? "thread" : "threads"));
  line("blocks", format("%lld query rows x %lld keys, folded every %lld keys", ll(s.row_block),
                        ll(s.key_tile), ll(s.segment)));
  line("tiles",
       format("%lld full (%.1f %%), %lld partial (%.1f %%), %lld skipped (%.1f %%)",
              ll(s.tiles_full), share(s.tiles_full, tiles), ll(s.tiles_partial),
              share(s.tiles_partial, tiles), ll(s.tiles_skipped), share(s.tiles_skipped, tiles)));
  line("visible",
       format("%lld pairs (%.2f %%), ", ll(s.visible_pairs), share(s.visible_pairs, pairs)) +
           (s.sees_future ? "future keys are seen" : "no future key is seen") +
           (s.empty_rows > 0 ? format(", %lld empty rows (output 0)", ll(s.empty_rows))
                             : ", no empty row"));
  line("work", in_thousands(s.flops) + (s.flops < 1000 ? " FLOP, " : "FLOP, ") + in_bytes(s.bytes) +
                   " of tensors, " +
                   format("%.0f FLOP a byte", s.bytes > 0 ? s.flops / s.bytes : 0.0));
  line("workspace", in_bytes(static_cast<double>(s.workspace_bytes)));
  line("not formed", in_bytes(s.score_matrix_bytes) + " of scores");
  if (const std::string questions = describe(observed); !questions.empty())
    line("observed", questions);
  return text;
}

}  // namespace attn
