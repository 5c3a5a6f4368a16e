// Where work runs: threads, instruction set, workspace. Passed, never global.
//
// A Context is a handle (copies share the same threads and workspace). Use one context a calling
// thread: a run on a context that is already running one throws std::invalid_argument.
//
// In a process that was forked after this library had run several threads, every call runs on one:
// OpenMP's threads do not follow a fork. The results are the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace attn {

// Instruction sets that the kernels are compiled for, best last.
enum class Isa : std::uint8_t { automatic, scalar, avx2, avx512, neon };

const char* name(Isa isa);                // "avx512"
Isa isa_from_name(const std::string& s);  // throws std::invalid_argument, listing the names

struct ContextOptions {
  int threads = 0;           // 0: as many as the affinity mask and the cgroup quota allow
  Isa isa = Isa::automatic;  // a lower one may be forced; one that the CPU lacks throws
};

// What the machine offers, as read from the operating system.
struct Machine {
  std::string cpu;                  // "AMD EPYC 7B13"
  int logical_cpus = 1;             // in the machine
  int usable_threads = 1;           // after affinity and cgroup quota
  std::int64_t l1d_bytes = 0;       // of one core
  std::int64_t l2_bytes = 0;        // of one core
  std::int64_t l3_bytes = 0;        // shared
  bool threads_share_core = false;  // hyper-threads of one core among the usable ones
};

class Context {
 public:
  // Throws std::invalid_argument for a negative thread count or an ISA that this CPU lacks.
  explicit Context(const ContextOptions& options = {});

  int threads() const;
  Isa isa() const;  // never automatic
  const Machine& machine() const;

  // Scratch of at least `bytes`, aligned to 64, for `thread` in [0, threads()). Kept between calls
  // and grown when needed; its contents are undefined. For the library's own kernels.
  void* workspace(int thread, std::size_t bytes) const;
  // Bytes now held by all workspaces.
  std::size_t workspace_bytes() const;

 private:
  friend class ContextUse;
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// ISAs that both this build and this CPU have, best first.
std::vector<Isa> supported_isas();

// The machine, read once.
const Machine& machine();

// "0.1.0"
const char* version();

}  // namespace attn
