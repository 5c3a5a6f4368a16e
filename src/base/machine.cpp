// Reads the machine from Linux: /proc and /sys. Where a fact is missing a safe default stands.
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "attn/context.h"

namespace attn {

namespace {

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "32K", "1024K", "32M" -> bytes; 0 when empty.
std::int64_t parse_size(const std::string& text) {
  std::istringstream in(text);
  std::int64_t value = 0;
  char unit = 0;
  if (!(in >> value)) return 0;
  in >> unit;
  return unit == 'K' ? value << 10 : unit == 'M' ? value << 20 : unit == 'G' ? value << 30 : value;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) {
      const std::size_t colon = line.find(':');
      if (colon != std::string::npos && colon + 2 <= line.size()) return line.substr(colon + 2);
    }
  }
  return "unknown CPU";
}

// Whole CPUs that the cgroup quota allows, rounded up; a large number without a quota.
int cgroup_cpus() {
  constexpr int kUnlimited = 1 << 20;
  double quota = 0, period = 0;
  std::istringstream v2(read_line("/sys/fs/cgroup/cpu.max"));
  std::string first;
  if (v2 >> first >> period) {
    if (first == "max") return kUnlimited;
    std::istringstream(first) >> quota;
  } else {
    std::istringstream(read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")) >> quota;
    std::istringstream(read_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us")) >> period;
  }
  if (!(quota > 0) || !(period > 0)) return kUnlimited;
  return std::max(1, static_cast<int>(std::ceil(quota / period)));
}

Machine read_machine() {
  Machine m;
  m.cpu = cpu_name();
  m.logical_cpus = std::max(1L, sysconf(_SC_NPROCESSORS_ONLN));

  cpu_set_t set;
  CPU_ZERO(&set);
  std::set<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(static_cast<unsigned>(cpu), &set)) cpus.insert(cpu);
    }
  }
  const int affine = cpus.empty() ? m.logical_cpus : static_cast<int>(cpus.size());
  m.usable_threads = std::max(1, std::min(affine, cgroup_cpus()));

  std::set<std::string> siblings;
  for (int cpu : cpus) {
    const std::string list = read_line("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                                       "/topology/thread_siblings_list");
    if (!list.empty() && !siblings.insert(list).second) m.threads_share_core = true;
  }

  const std::string base = "/sys/devices/system/cpu/cpu0/cache/index";
  for (int i = 0; i < 8; ++i) {
    const std::string index = base + std::to_string(i) + "/";
    const std::string type = read_line(index + "type");
    const std::string level = read_line(index + "level");
    const std::int64_t size = parse_size(read_line(index + "size"));
    if (type == "Instruction") continue;
    if (level == "1") m.l1d_bytes = size;
    if (level == "2") m.l2_bytes = size;
    if (level == "3") m.l3_bytes = size;
  }
  return m;
}

}  // namespace

const Machine& machine() {
  static const Machine m = read_machine();
  return m;
}

}  // namespace attn
