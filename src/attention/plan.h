// What a plan holds. Shared by run, backward and the observers' second pass.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "attention/schedule.h"
#include "attn/attention.h"
#include "kernels/forward.h"

namespace attn {

// A block of query rows of one sequence and key head; where keys are split, some of its segments.
struct Unit {
  std::int64_t sequence = 0, kv_head = 0, block = 0;
  std::int64_t run_begin = -1, run_end = -1;  // into split_runs; -1: all runs of the block
  std::size_t states = 0;                     // split: where its states are in that memory
};

// A block whose keys were split, to be folded when all its units are done.
struct SplitBlock {
  Unit whole;
  std::int64_t segments = 0;
};

// Rows of a block as intervals.
struct RowIntervals {
  std::vector<std::int64_t> begin;
  std::vector<Interval> intervals;
};

struct Plan::Impl {
  AttentionShape shape;  // checked
  AttentionOptions options;
  Context context;
  const kernels::ForwardKernel* kernel = nullptr;
  kernels::ForwardParams params;  // all but the tensors
  std::vector<float> alibi, t5;   // what params points to
  std::vector<kernels::Sequence> sequences;
  std::deque<MaskSchedule> schedules;  // one a distinct sequence; one for all if not ragged
  struct Place {
    const MaskSchedule* schedule = nullptr;
    std::int64_t entry = 0;
  };
  std::vector<Place> schedule_of;  // [sequences]
  std::int64_t block_tokens = 1;
  std::vector<Unit> units;  // heaviest first
  std::size_t workspace = 0;
  std::vector<SplitBlock> split_blocks;
  std::vector<kernels::TileRun> split_runs;
  std::size_t states_bytes = 0;  // of all split blocks, behind the workspace of thread 0
  PlanSummary summary;

  explicit Impl(const Context& c) : context(c) {}

  std::int64_t group() const { return shape.q_heads / shape.kv_heads; }
  const GroupSchedule& group_of(std::size_t sequence, std::int64_t kv_head) const {
    return schedule_of[sequence].schedule->group(schedule_of[sequence].entry, kv_head);
  }
  void list_sequences();
  void make_schedules();
  void list_units();
  void split_keys();
  void split_block(const Unit& unit, std::int64_t pieces, std::vector<Unit>& out);
  kernels::ForwardParams params_for(const ConstTensor& q, const KeyValue& kv, const Tensor& out,
                                    const Observed& observed) const;
  bool far_positions() const;
  void fill_params();
  void summarise();
  // The block of a unit: its tokens and key tiles.
  kernels::ForwardBlock tiles_of(const Unit& unit) const;
  // And which keys its rows see; `rows` keeps what the schedule points to.
  kernels::ForwardBlock block_of(const Unit& unit, RowIntervals& rows) const;
  void run_unit(const kernels::ForwardParams& p, int thread, std::int64_t index,
                void* states) const;
  void fold_block(const kernels::ForwardParams& p, int thread, std::int64_t index,
                  void* states) const;
};

// Row intervals of this thread, kept between calls so that a run allocates nothing once its threads
// have warmed up; taken while in use, since a custom score may run attention of its own.
class RowIntervalsUse {
 public:
  RowIntervalsUse() : rows_(std::move(kept())) {}
  ~RowIntervalsUse() { kept() = std::move(rows_); }
  RowIntervalsUse(const RowIntervalsUse&) = delete;
  RowIntervalsUse& operator=(const RowIntervalsUse&) = delete;
  RowIntervals& operator*() { return rows_; }

 private:
  static RowIntervals& kept() {
    thread_local RowIntervals rows;
    return rows;
  }
  RowIntervals rows_;
};

// Strides of a tensor for the kernels.
kernels::Matrix matrix_of(const ConstTensor& t);

}  // namespace attn
