// The standard table: attention at given shapes, as a share of the FMA ceiling measured around
// every sample.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "attn/attention.h"

namespace attn::bench {

struct Row {
  std::array<std::int64_t, 6> shape{};  // B, Hq, Hkv, Lq, Lk, D
  std::string mask = "full", score = "none";
  std::string peer;  // empty: attn itself
  Isa isa = Isa::scalar;
  int threads = 1;
  double flops = 0;
  double ms = 0, ms_median = 0, gflops = 0, ceiling_gflops = 0;
  double share = 0;         // best against best
  double share_median = 0;  // median of sample against the ceiling beside it
  double spread = 0;        // (slowest - fastest) / median time
  double peak_mb = 0;       // resident memory above the inputs and outputs
  int samples = 0;
};

struct Job {
  std::array<std::int64_t, 6> shape{};
  std::string mask = "full", score = "none";
  bool peer = true;  // time plain OpenBLAS attention too
};

struct Limits {
  int samples = 15;
  double peer_seconds = 6;  // a peer that has taken longer stops at a third of the samples
};

// One thing to time: computes the whole problem once.
struct Contestant {
  std::string peer;
  std::function<void()> run;
};

// Times the job for attn and (where it applies) the peer, interleaved, the ceiling around each. The
// rows' ceiling is the best seen beside them; their share is left to judge().
std::vector<Row> measure(const Job& job, Isa isa, int threads, const Limits& limits);

// Judges all rows of one instruction set and thread count by the best ceiling of the whole run.
void judge(std::vector<Row>& rows, double best_ceiling);

// Plain attention on OpenBLAS: for a block of 256 rows, scores of all keys by one product, softmax
// in place, outputs by another. Built around dlopen so that OPENBLAS_CORETYPE can be set first.
class OpenBlas {
 public:
  // The library tuned for `isa`; one choice a process. False with a reason when there is none.
  static bool load(Isa isa, std::string& why_not);
  static void attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                        const Tensor& out, bool causal, int threads);
};

void print_header(const std::string& title);
void print_row(const Row& row);
void write_json(const std::vector<Row>& rows, const std::string& path);
std::vector<Row> read_json(const std::string& path);

}  // namespace attn::bench
