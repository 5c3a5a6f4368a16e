// From a mask to tiles: for every block of query rows, the runs of key tiles that it must visit.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/attention.h"
#include "kernels/forward.h"
#include "mask/bound.h"

namespace attn {

// Blocks of one kind of head group: groups whose heads have the same masks share one.
struct GroupSchedule {
  std::vector<int> variants;               // of BoundMask, one a slot
  std::vector<std::int32_t> slot_of_head;  // [group]
  std::vector<kernels::TileRun> runs;      // of all blocks
  std::vector<std::int64_t> run_begin;     // [blocks + 1]
  std::vector<std::uint64_t> bits;         // of partial tiles, when a slot is not structured
  std::vector<double> cost;                // [blocks] rows x keys
  bool uses_bits = false;
  std::int64_t tiles_full = 0, tiles_partial = 0, tiles_skipped = 0;
};

class MaskSchedule {
 public:
  // `tile` keys a tile, `block_tokens` query tokens a block. Of the geometry's batch, only
  // `entries` are scheduled.
  MaskSchedule(const Mask& mask, const Geometry& geometry, const std::vector<std::int64_t>& entries,
               std::int64_t kv_heads, std::int64_t tile, std::int64_t block_tokens);

  std::int64_t blocks() const { return blocks_; }
  // Of the entry at place `entry` in the list of entries.
  const GroupSchedule& group(std::int64_t entry, std::int64_t kv_head) const {
    return groups_[static_cast<std::size_t>(
        group_index_[static_cast<std::size_t>(entry * kv_heads_ + kv_head)])];
  }

  // Intervals of one block's rows, in `begin` and `intervals` (overwritten), as kernels::Schedule
  // wants them. Evaluated when the block runs, so that a plan's memory does not grow with rows.
  void block_intervals(const GroupSchedule& group, std::int64_t token_begin, std::int64_t tokens,
                       std::vector<std::int64_t>& begin, std::vector<Interval>& intervals) const;
  // What a schedule with `tiles.runs` and `tiles.block_tokens` needs to know about rows from
  // token_begin on: bits or intervals, if some run is partial. The vectors keep the intervals.
  void describe_rows(const GroupSchedule& group, std::int64_t token_begin,
                     std::vector<std::int64_t>& begin, std::vector<Interval>& intervals,
                     kernels::Schedule& tiles) const;

  // Over entries and query heads.
  std::int64_t visible_pairs() const { return visible_pairs_; }
  std::int64_t empty_rows() const { return empty_rows_; }
  bool sees_future() const { return sees_future_; }

 private:
  // Answers about one variant's rows.
  struct Facts {
    bool counted = false;
    std::int64_t pairs = 0, empty_rows = 0;
    bool sees_future = false;
    void add(std::int64_t row_pairs, bool row_sees_future) {
      pairs += row_pairs;
      empty_rows += row_pairs == 0;
      sees_future = sees_future || row_sees_future;
    }
  };
  void schedule_group(GroupSchedule& group);
  void count_row(Facts& facts, std::int64_t q, const std::vector<Interval>& row) const;
  void count_row_bits(Facts& facts, std::int64_t q, const std::uint64_t* words) const;
  void count_full_rows(Facts& facts) const;

  BoundMask mask_;
  Geometry geometry_;
  std::int64_t kv_heads_, tile_, block_tokens_, blocks_;
  std::vector<GroupSchedule> groups_;
  std::vector<int> group_index_;  // [entries * kv_heads]
  std::vector<Facts> facts_;      // [variants]
  std::int64_t visible_pairs_ = 0, empty_rows_ = 0;
  bool sees_future_ = false;
};

}  // namespace attn
