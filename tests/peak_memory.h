// The most memory that this process has had.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace attn {

// In kB; 0 where the system does not say.
inline std::int64_t peak_kb() {
  std::ifstream status("/proc/self/status");
  std::string word;
  std::int64_t kb = 0;
  while (status >> word && word != "VmHWM:") {
  }
  status >> kb;
  return kb;
}

}  // namespace attn
