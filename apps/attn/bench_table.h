// What `attn bench` measures when it is not told.
#pragma once

#include <string>
#include <vector>

#include "attn/measure.h"

namespace attn::cli {

// Without arguments: a few shapes, seconds.
std::vector<Workload> default_workloads();

struct Group {
  std::string name;
  std::vector<Workload> workloads;
  // Takes long: once, with all threads, on the best instruction set; not when it is to be quick.
  bool once = false;
};
// The table that docs/performance.md shows.
std::vector<Group> standard_table();

}  // namespace attn::cli
