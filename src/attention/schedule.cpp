#include "attention/schedule.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <map>

namespace attn {

namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t size_of(const Interval& i) { return ceil_div(i.end - i.begin, i.step); }

// Counts, for the rows of a block, how many touch and how many cover each tile. Only tiles where a
// count changes are looked at: all of them once a block would make a plan quadratic in the length.
class TileCounts {
 public:
  TileCounts(std::int64_t k_len, std::int64_t tile)
      : k_len_(k_len),
        tile_(tile),
        tiles_(ceil_div(k_len, tile)),
        changes_(static_cast<std::size_t>(tiles_) + 1) {}

  void clear() {
    for (const std::int64_t t : changed_) changes_[static_cast<std::size_t>(t)] = {};
    changed_.clear();
    last_touched_ = -1;
  }

  void add_row(const Interval* intervals, std::size_t count) {
    last_touched_ = -1;
    for (std::size_t n = 0; n < count; ++n) add(intervals[n]);
  }

  void add_row_bits(const std::uint64_t* words) {
    const std::int64_t words_a_tile = tile_ / 64;
    for (std::int64_t t = 0; t < tiles_; ++t) {
      std::int64_t seen = 0;
      const std::int64_t end = std::min((t + 1) * words_a_tile, ceil_div(k_len_, 64));
      for (std::int64_t w = t * words_a_tile; w < end; ++w) seen += std::popcount(words[w]);
      if (seen == 0) continue;
      bump(&Change::touched, t, t + 1);
      if (seen == std::min(tile_, k_len_ - t * tile_)) bump(&Change::covered, t, t + 1);
    }
  }

  // Calls f(begin, end, partial) for each run of visited tiles, after all rows are in.
  template <class F>
  void for_runs(std::int64_t rows, F&& f) {
    std::sort(changed_.begin(), changed_.end());
    std::int64_t touched = 0, covered = 0;
    std::int64_t begin = 0;
    int kind = 0;                            // 0 skipped, 1 partial, 2 full
    for (const std::int64_t t : changed_) {  // at the last one nothing is touched any more
      touched += changes_[static_cast<std::size_t>(t)].touched;
      covered += changes_[static_cast<std::size_t>(t)].covered;
      const int next = touched == 0 ? 0 : covered == rows ? 2 : 1;
      if (next == kind) continue;
      if (kind != 0) f(begin, t, kind == 1);
      kind = next;
      begin = t;
    }
  }

 private:
  // Of the counts, against the tile before.
  struct Change {
    std::int64_t touched = 0, covered = 0;
    bool listed = false;
  };

  void bump(std::int64_t Change::*count, std::int64_t begin, std::int64_t end) {
    at(begin).*count += 1;
    at(end).*count -= 1;
  }
  Change& at(std::int64_t t) {
    Change& change = changes_[static_cast<std::size_t>(t)];
    if (!change.listed) changed_.push_back(t);
    change.listed = true;
    return change;
  }

  // A tile that several intervals of a row touch counts once.
  void add(const Interval& i) {
    if (i.begin >= i.end) return;
    const std::int64_t last = i.begin + (size_of(i) - 1) * i.step;
    if (i.step <= tile_) {
      const std::int64_t from = std::max(i.begin / tile_, last_touched_ + 1), to = last / tile_ + 1;
      if (from < to) bump(&Change::touched, from, to);
      last_touched_ = std::max(last_touched_, to - 1);
    } else {
      for (std::int64_t k = i.begin; k <= last; k += i.step)
        bump(&Change::touched, k / tile_, k / tile_ + 1);
    }
    if (i.step != 1) return;
    const std::int64_t from = ceil_div(i.begin, tile_);
    const std::int64_t to = i.end == k_len_ ? tiles_ : i.end / tile_;
    if (from < to) bump(&Change::covered, from, to);
  }

  std::int64_t k_len_, tile_, tiles_;
  std::int64_t last_touched_ = -1;
  std::vector<Change> changes_;        // [tiles + 1]
  std::vector<std::int64_t> changed_;  // where changes_ is listed
};

}  // namespace

MaskSchedule::MaskSchedule(const Mask& mask, const Geometry& geometry,
                           const std::vector<std::int64_t>& entries, std::int64_t kv_heads,
                           std::int64_t tile, std::int64_t block_tokens)
    : mask_(mask, geometry),
      geometry_(geometry),
      kv_heads_(kv_heads),
      tile_(tile),
      block_tokens_(block_tokens),
      blocks_(ceil_div(geometry.q_len, block_tokens)),
      facts_(static_cast<std::size_t>(mask_.variants())) {
  const std::int64_t size = geometry.heads / std::max<std::int64_t>(kv_heads, 1);
  std::map<std::vector<int>, int> known;  // variants of the heads of a group -> schedule
  for (const std::int64_t b : entries) {
    for (std::int64_t h = 0; h < kv_heads; ++h) {
      std::vector<int> of_head;
      for (std::int64_t j = 0; j < size; ++j) of_head.push_back(mask_.variant(b, h * size + j));
      const auto [place, added] = known.try_emplace(of_head, static_cast<int>(groups_.size()));
      group_index_.push_back(place->second);
      if (!added) continue;
      GroupSchedule group;
      for (int variant : of_head) {
        auto slot = std::find(group.variants.begin(), group.variants.end(), variant);
        group.slot_of_head.push_back(static_cast<std::int32_t>(slot - group.variants.begin()));
        if (slot == group.variants.end()) group.variants.push_back(variant);
      }
      for (int variant : group.variants)
        group.uses_bits = group.uses_bits || !mask_.structured(variant);
      schedule_group(group);
      groups_.push_back(std::move(group));
    }
  }
  for (const std::int64_t b : entries) {
    for (std::int64_t h = 0; h < geometry.heads; ++h) {
      const Facts& facts = facts_[static_cast<std::size_t>(mask_.variant(b, h))];
      visible_pairs_ += facts.pairs;
      empty_rows_ += facts.empty_rows;
      sees_future_ = sees_future_ || facts.sees_future;
    }
  }
}

void MaskSchedule::schedule_group(GroupSchedule& group) {
  TileCounts counts(geometry_.k_len, tile_);
  const std::int64_t tiles = ceil_div(geometry_.k_len, tile_);
  const std::int64_t row_words = ceil_div(geometry_.k_len, 64), tile_words = tile_ / 64;
  const auto slots = static_cast<std::int64_t>(group.variants.size());
  const auto group_heads = static_cast<double>(group.slot_of_head.size());
  bool full = true;
  for (int variant : group.variants) full = full && mask_.full(variant);

  std::vector<Interval> row;
  std::vector<std::uint64_t> words;
  group.run_begin.push_back(0);
  for (std::int64_t begin = 0; begin < geometry_.q_len; begin += block_tokens_) {
    const std::int64_t tokens = std::min(block_tokens_, geometry_.q_len - begin);
    double keys = 0;
    const auto add_run = [&](std::int64_t first, std::int64_t last, bool partial) {
      group.runs.push_back({static_cast<std::int32_t>(first), static_cast<std::int32_t>(last),
                            partial, static_cast<std::int64_t>(group.bits.size())});
      (partial ? group.tiles_partial : group.tiles_full) += last - first;
      keys += static_cast<double>((last - first) * tile_) * (partial ? 0.6 : 1.0);
      if (!partial || !group.uses_bits) return;
      for (std::int64_t t = first; t < last; ++t) {
        for (std::int64_t slot = 0; slot < slots; ++slot) {
          for (std::int64_t i = 0; i < tokens; ++i) {
            for (std::int64_t w = t * tile_words; w < (t + 1) * tile_words; ++w) {
              group.bits.push_back(
                  w < row_words
                      ? words[static_cast<std::size_t>((slot * tokens + i) * row_words + w)]
                      : 0);
            }
          }
        }
      }
    };
    if (full) {
      if (tiles > 0) add_run(0, tiles, false);
    } else {
      counts.clear();
      if (group.uses_bits) words.assign(static_cast<std::size_t>(slots * tokens * row_words), 0);
      for (std::int64_t slot = 0; slot < slots; ++slot) {
        const int variant = group.variants[static_cast<std::size_t>(slot)];
        Facts& facts = facts_[static_cast<std::size_t>(variant)];
        for (std::int64_t i = 0; i < tokens; ++i) {
          if (group.uses_bits) {
            std::uint64_t* to = words.data() + (slot * tokens + i) * row_words;
            mask_.row_bits(variant, begin + i, to);
            counts.add_row_bits(to);
            if (!facts.counted) count_row_bits(facts, begin + i, to);
          } else {
            row.clear();
            mask_.row_intervals(variant, begin + i, row);
            counts.add_row(row.data(), row.size());
            if (!facts.counted) count_row(facts, begin + i, row);
          }
        }
      }
      counts.for_runs(slots * tokens, add_run);
    }
    group.cost.push_back(keys * static_cast<double>(tokens) * group_heads);
    group.run_begin.push_back(static_cast<std::int64_t>(group.runs.size()));
  }
  for (int variant : group.variants) {
    Facts& facts = facts_[static_cast<std::size_t>(variant)];
    if (full && !facts.counted) count_full_rows(facts);
    facts.counted = true;
  }
  group.tiles_skipped = tiles * blocks_ - group.tiles_full - group.tiles_partial;
}

void MaskSchedule::block_intervals(const GroupSchedule& group, std::int64_t token_begin,
                                   std::int64_t tokens, std::vector<std::int64_t>& begin,
                                   std::vector<Interval>& intervals) const {
  begin.clear();
  intervals.clear();
  for (int variant : group.variants) {
    if (mask_.full(variant)) {
      begin.insert(begin.end(), static_cast<std::size_t>(tokens) + 1, -1);
      continue;
    }
    for (std::int64_t i = 0; i < tokens; ++i) {
      begin.push_back(static_cast<std::int64_t>(intervals.size()));
      mask_.row_intervals(variant, token_begin + i, intervals);
    }
    begin.push_back(static_cast<std::int64_t>(intervals.size()));
  }
}

void MaskSchedule::describe_rows(const GroupSchedule& group, std::int64_t token_begin,
                                 std::vector<std::int64_t>& begin, std::vector<Interval>& intervals,
                                 kernels::Schedule& tiles) const {
  tiles.slot_of_head = group.slot_of_head.data();
  tiles.slots = static_cast<std::int64_t>(group.variants.size());
  const bool partial = std::any_of(tiles.runs, tiles.runs + tiles.run_count,
                                   [](const kernels::TileRun& run) { return run.partial; });
  if (partial && group.uses_bits) {
    tiles.bits = group.bits.data();
  } else if (partial) {
    block_intervals(group, token_begin, tiles.block_tokens, begin, intervals);
    tiles.interval_begin = begin.data();
    tiles.intervals = intervals.data();
  }
}

void MaskSchedule::count_row(Facts& facts, std::int64_t q, const std::vector<Interval>& row) const {
  std::int64_t pairs = 0, latest = std::numeric_limits<std::int64_t>::min();
  for (const Interval& i : row) {
    pairs += size_of(i);
    if (mask_.keys().increasing()) {
      latest = geometry_.k_position(i.begin + (size_of(i) - 1) * i.step);
    } else {
      for (std::int64_t k = i.begin; k < i.end; k += i.step) {
        latest = std::max(latest, geometry_.k_position(k));
      }
    }
  }
  facts.add(pairs, pairs > 0 && latest > geometry_.q_position(q));
}

void MaskSchedule::count_row_bits(Facts& facts, std::int64_t q, const std::uint64_t* words) const {
  std::int64_t pairs = 0;
  bool future = false;
  for (std::int64_t w = 0; w < ceil_div(geometry_.k_len, 64); ++w) {
    pairs += std::popcount(words[w]);
    for (std::uint64_t rest = words[w]; rest != 0 && !future; rest &= rest - 1) {
      future = geometry_.k_position(w * 64 + std::countr_zero(rest)) > geometry_.q_position(q);
    }
  }
  facts.add(pairs, future);
}

// A row of everything, without asking the mask.
void MaskSchedule::count_full_rows(Facts& facts) const {
  const std::vector<Interval> row(geometry_.k_len > 0 ? 1 : 0, Interval{0, geometry_.k_len, 1});
  for (std::int64_t q = 0; q < geometry_.q_len; ++q) count_row(facts, q, row);
}

}  // namespace attn
