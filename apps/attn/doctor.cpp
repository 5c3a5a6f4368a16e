// attn doctor: what to paste into a bug report.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "arguments.h"
#include "attn/model.h"
#include "json.h"
#include "terminal.h"

namespace attn::cli {

namespace {

std::string compiler() {
#if defined(__clang__)
  return fmt::format("clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
  return fmt::format("g++ {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
}

std::vector<std::string> folders_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory(none) && name.front() != '.') names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

std::string cache_size(std::int64_t bytes) {
  if (bytes <= 0) return "unknown";
  return bytes >= 1 << 20 ? fmt::format("{:g} MiB", static_cast<double>(bytes) / (1 << 20))
                          : fmt::format("{:g} KiB", static_cast<double>(bytes) / (1 << 10));
}

std::string text(const DoctorReport& r) {
  const Machine& m = r.machine;
  std::string libraries;
  for (const auto& [library, version] : r.libraries) {
    libraries += (libraries.empty() ? "" : ", ") + library + " " + version;
  }
  std::string out;
  const auto line = [&](const char* what, const std::string& value) {
    out += bold(fmt::format("{:<10}", what)) + " " + value + "\n";
  };
  line("attn", r.version + ", " + r.compiler);
  line("ISA", r.isa + " (available: " + joined(r.isas) + ")");
  line("CPU", m.cpu);
  line("caches", fmt::format("L1d {}, L2 {}, L3 {}", cache_size(m.l1d_bytes),
                             cache_size(m.l2_bytes), cache_size(m.l3_bytes)));
  line("threads", fmt::format("{} used, {} usable of {} logical CPUs (affinity, cgroup quota){}",
                              r.threads, m.usable_threads, m.logical_cpus,
                              m.threads_share_core ? "; some of them share a core" : ""));
  line("libraries", libraries);
  line("cache",
       (r.cache.empty() ? "none (neither XDG_CACHE_HOME nor a home folder is known)" : r.cache) +
           (r.models.empty() ? " (no models)" : " (" + joined(r.models) + ")"));
  return out;
}

}  // namespace

void doctor(const DoctorOptions& options) {
  const Context context = options.common.context();
  DoctorReport report;
  report.version = version();
  report.compiler = compiler();
  report.isa = name(context.isa());
  for (const Isa isa : supported_isas()) report.isas.emplace_back(name(isa));
  report.machine = machine();
  report.threads = context.threads();
  report.libraries = {ATTN_CLI_LIBRARIES};
  try {
    report.cache = cache_folder();
  } catch (const Error&) {
    // Said below: there is none.
  }
  report.models = folders_in(report.cache);
  print(options.common.json ? json(report) : text(report));
}

}  // namespace attn::cli
