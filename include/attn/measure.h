// How fast attention runs here, as a share of what this machine can do.
//
//   const auto rows = attn::measure({{.shape = {1, 12, 12, 2048, 2048, 64}, .mask = "causal"}});
//   rows[0].share  // of the ceiling, best with best
//
// Ceilings are measured before and after every sample, and what is compared is timed in turns: a
// machine is rarely quiet, and says so in `spread`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "attn/attention.h"
#include "attn/context.h"

namespace attn {

// What threads together reach at most.
struct Ceilings {
  double gflops = 0;     // multiply-adds on registers, two operations each
  double gigabytes = 0;  // a second, read from memory beyond all caches; 0: not measured
};

// The best of a few tries, about 0.3 s. Float64 has its own multiply-adds.
Ceilings measure_ceilings(Isa isa, int threads, DType dtype = DType::f32);

enum class Layout : std::uint8_t { contiguous, paged };
enum class Observing : std::uint8_t { nothing, one_pass, two_passes, everything };

// "contiguous", "one-pass", ...
const char* name(Layout layout);
const char* name(Observing observing);

// What is timed, on random tensors.
struct Workload {
  AttentionShape shape = {};
  // Exact attention with this mask and score, or a recurrence by its name (attn/mechanism.h), of
  // shapes with as many key heads as query heads and as many keys as queries; then backward is of
  // all that has gradients, and decoding one step from a state to itself, in memory as it comes.
  std::string mechanism = "exact";
  std::string mask = "full";   // as Mask::parse reads it
  std::string score = "none";  // as Score::parse reads it
  // Queries are the last tokens (query_start = k_len - q_len), and keys and values come from
  // memory, not from a cache of the CPU: as many copies take turns as that needs.
  bool decode = false;
  // Plan::backward alone, gradients of q, k and v; the forward run is done before. float32 or
  // float64 throughout, contiguous, neither decoding nor observed.
  bool backward = false;
  double dropout = 0;  // probability
  // Sequence b of B has (b + 1) / B of the lengths, all in one call.
  bool ragged = false;
  Layout layout = Layout::contiguous;  // paged: pages of 64 tokens in no order
  Observing observe = Observing::nothing;
  int samples = 0;     // at most; 0: as many as MeasureOptions says
  bool alone = false;  // not beside its plain form

  // The same with float32 keys and values in one piece, nothing dropped or observed, sequences of a
  // ragged batch one by one, of another mechanism causal exact attention: what it is compared with.
  // Empty: it is plain itself.
  std::string compared_with() const;
};

struct Measured {
  Workload workload;
  Isa isa = Isa::scalar;
  int threads = 1;
  // Of the two products over visible pairs; of a recurrence 4 Dk Dv + 64 (Dk + Dv) a token and
  // head. Backward: 2.5 times that.
  double flops = 0;
  // Of queries, visible keys and values, outputs, gradients, each once; of a recurrence's step the
  // state, read and written.
  double bytes = 0;
  double seconds = 0;  // of the fastest sample
  double median_seconds = 0;
  double spread = 0;  // (slowest - fastest) / median
  int samples = 0;
  // The best of the run. For a recurrence's step, gigabytes are those of multiplying as many bytes
  // as its state has in place, read and written.
  Ceilings ceilings = {};
  // The time that the ceilings allow (the longer of flops / gflops and, when decoding,
  // bytes / gigabytes), over the time taken.
  double share = 0;           // best with best
  double median_share = 0;    // median of the samples, each with the ceilings beside it
  bool memory_bound = false;  // bytes set that limit
  double peak_bytes = 0;      // resident memory above inputs, outputs, gradients; plan included
  double relative_time = 0;   // to the plain form, best with best; 0: not compared
  // The length from which on a recurrence is faster than causal exact attention, forward, to 5 %,
  // as far as the workload's; 0: not within that, or not asked.
  std::int64_t crossing = 0;
};

struct MeasureOptions {
  Isa isa = Isa::automatic;
  int threads = 0;   // 0: as many as the process may use
  int samples = 15;  // of each workload
  // Called before each turn of a workload, with the share of turns that are done.
  std::function<void(std::size_t index, double done)> progress = {};
};

// Throws std::invalid_argument for a workload that cannot be run; takes no memory to speak of.
void check(const Workload& workload, const Context& context = Context());

// Checks all workloads, then times one after the other, in three rounds. One caller at a time: it
// resets the process's mark of peak memory.
std::vector<Measured> measure(const std::vector<Workload>& workloads,
                              const MeasureOptions& options = {});

}  // namespace attn
