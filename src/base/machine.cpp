// Reads the machine from Linux: /proc and /sys. Where a fact is missing a safe default stands.
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
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

// What the files of one control group allow, in CPUs; infinity without a quota.
double group_cpus(const std::string& folder) {
  double quota = 0, period = 0;
  std::string first;
  std::istringstream v2(read_line(folder + "/cpu.max"));  // "max 100000", "50000 100000"
  if (v2 >> first >> period) {
    std::istringstream(first) >> quota;
  } else {
    std::istringstream(read_line(folder + "/cpu.cfs_quota_us")) >> quota;
    std::istringstream(read_line(folder + "/cpu.cfs_period_us")) >> period;
  }
  return quota > 0 && period > 0 ? quota / period : std::numeric_limits<double>::infinity();
}

// Whole CPUs that the process's control group and all groups around it allow, rounded up; a large
// number without a quota. In a container the path may be the host's: what of it is not there counts
// nothing, and the mount's own root is always asked.
int cgroup_cpus(const std::string& membership = "/proc/self/cgroup",
                const std::string& mount = "/sys/fs/cgroup") {
  double least = std::min(group_cpus(mount), group_cpus(mount + "/cpu"));
  std::ifstream file(membership);
  for (std::string line; std::getline(file, line);) {  // "0::/path", "4:cpu,cpuacct:/path"
    const std::size_t names = line.find(':'), path = line.find(':', names + 1);
    if (names == std::string::npos || path == std::string::npos) continue;
    const std::string controllers = "," + line.substr(names + 1, path - names - 1) + ",";
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
    const std::string root = v2 ? mount : mount + "/cpu";
    for (std::string group = line.substr(path + 1); group.size() > 1;
         group.erase(group.find_last_of('/'))) {
      least = std::min(least, group_cpus(root + group));
      if (group.find('/') == std::string::npos) break;
    }
  }
  return std::max(1, static_cast<int>(std::min(std::ceil(least), double{1 << 20})));
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
