// Plan::backward: which keys are worked on together, by whom and in which order, and the sums that
// are shared.
#include "kernels/backward.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "attention/parallel.h"
#include "attention/plan.h"
#include "attn/position.h"
#include "base/check.h"
#include "base/context_use.h"

namespace attn {

namespace {

using kernels::BackwardBlock;
using kernels::BackwardParams;
using kernels::BackwardRows;
using kernels::Sequence;

// Some key tiles of one sequence and key head.
struct KeyBlock {
  std::size_t sequence = 0;
  std::int64_t kv_head = 0;
  std::int64_t block = 0;  // tiles [block * tiles, ...)
  std::int64_t tile_count = 0;
  std::size_t first_tile = 0;  // among the tiles of all sequences and heads
};

// Adds x to an element of a tensor of T.
void add(const Tensor& to, const Shape& at, double x) {
  const std::int64_t place = to.offset(at[0], at[1], at[2]) + at[3];
  if (to.dtype == DType::f64)
    static_cast<double*>(to.data)[place] += x;
  else
    static_cast<float*>(to.data)[place] += static_cast<float>(x);
}

void clear(const Tensor& x) {
  for (std::int64_t b = 0; b < x.batch(); ++b) {
    for (std::int64_t h = 0; h < x.heads(); ++h) {
      for (std::int64_t l = 0; l < x.length(); ++l) {
        if (x.dtype == DType::f64)
          std::fill_n(x.row<double>(b, h, l), x.width(), 0.0);
        else
          std::fill_n(x.row<float>(b, h, l), x.width(), 0.0f);
      }
    }
  }
}

class BackwardRun {
 public:
  BackwardRun(const Plan::Impl& plan, const AttentionInputs& inputs,
              const AttentionResults& results, const OutputGradients& from,
              const InputGradients& to)
      : plan_(plan),
        to_(to),
        kernel_(kernels::backward_kernel(plan.context.isa(), plan.shape.dtype)),
        turns_a_block_((plan.block_tokens * plan.group() + kernel_.rows - 1) / kernel_.rows) {
    fill_params(inputs, results, from);
    choose_tiles();
    list_units();
  }

  void run() {
    for (const Tensor* sum : {&to_.bias, &to_.alibi_slopes, &to_.t5, &to_.sinks}) {
      if (!sum->empty() && !to_.accumulate) clear(*sum);
    }
    if (!to_.q.empty() && !to_.accumulate) clear_unseen();
    prepare();
    parallel_units(plan_.context.threads(), static_cast<std::int64_t>(unit_begin_.size()) - 1,
                   [&](int thread, std::int64_t unit) {
                     try {
                       run_unit(thread, static_cast<std::size_t>(unit));
                     } catch (...) {
                       failed_ = true;
                       throw;
                     }
                   });
    add_slopes();
    add_t5();
  }

 private:
  class Rows;

  void fill_params(const AttentionInputs& inputs, const AttentionResults& results,
                   const OutputGradients& from) {
    const AttentionShape& s = plan_.shape;
    p_.q = matrix_of(inputs.q);
    p_.k = matrix_of(inputs.k);
    p_.v = matrix_of(inputs.v);
    p_.out = matrix_of(results.out);
    p_.lse = matrix_of(results.lse);
    p_.d_out = matrix_of(from.out);
    p_.d_lse = matrix_of(from.lse);
    p_.d_entropy = matrix_of(from.entropy);
    p_.entropy = matrix_of(results.entropy);
    p_.dq = matrix_of(to_.q);
    p_.dk = matrix_of(to_.k);
    p_.dv = matrix_of(to_.v);
    if (!to_.bias.empty()) {
      p_.d_bias.data = to_.bias.data;
      for (std::size_t i = 0; i < 4; ++i) {
        p_.d_bias.strides[i] = to_.bias.shape[i] == 1 ? 0 : to_.bias.strides[i];
      }
    }
    p_.accumulate = to_.accumulate;
    p_.group = plan_.group();
    p_.width = s.width;
    p_.v_width = s.v_width;
    p_.score = plan_.params.score;
    p_.dropout = plan_.params.dropout;
    if (plan_.options.score.custom) p_.custom_gradient = &plan_.options.score.custom_gradient;
    constexpr std::int64_t kTerms = 4;
    const auto numbers = static_cast<std::size_t>(s.batch * s.q_heads * s.q_len * kTerms);
    terms_.reset(new double[s.dtype == DType::f64 ? numbers : (numbers + 1) / 2]);
    p_.terms = {terms_.get(), s.q_heads * s.q_len * kTerms, s.q_len * kTerms, kTerms};
  }

  // Key tiles a block: rows are packed once for all of them. As many as keep half of L2 for rows,
  // but few enough for every thread to have some blocks.
  void choose_tiles() {
    constexpr std::int64_t kMost = 4, kBlocksAThread = 4;
    const std::int64_t l2 =
        plan_.context.machine().l2_bytes > 0 ? plan_.context.machine().l2_bytes : 512 << 10;
    std::int64_t all = 0;
    for (const Sequence& s : plan_.sequences) all += tiles_of(s) * plan_.shape.kv_heads;
    const auto bytes = [&](std::int64_t tiles) {
      return static_cast<std::int64_t>(kernel_.workspace_bytes(p_, tiles));
    };
    const std::int64_t least = std::max<std::int64_t>(1, kBlocksAThread * plan_.context.threads());
    // A bias that keys share is summed tile by tile, in order.
    const bool one_key = !to_.bias.empty() && to_.bias.shape[3] == 1;
    while (!one_key && tiles_ < kMost && all / (2 * tiles_) >= least && bytes(2 * tiles_) <= l2)
      tiles_ *= 2;
    workspace_ = kernel_.workspace_bytes(p_, tiles_);
  }

  std::int64_t tiles_of(const Sequence& s) const {
    return (s.k_len + plan_.kernel->tile - 1) / plan_.kernel->tile;
  }

  // Key blocks that add to the same elements of the bias gradient are one unit, done in order. All
  // others are units of their own, taken so that each thread tends to stay with a head, and the
  // blocks of a head in ascending order: a block waits for those before it only.
  void list_units() {
    const AttentionShape& s = plan_.shape;
    const bool bias = !to_.bias.empty();
    const bool one_batch = bias && to_.bias.shape[0] == 1,
               one_head = bias && to_.bias.shape[1] == 1, one_key = bias && to_.bias.shape[3] == 1;
    std::map<std::array<std::int64_t, 3>, std::vector<KeyBlock>> units;
    std::int64_t most = 0;
    for (const Sequence& sequence : plan_.sequences)
      most = std::max(most, (tiles_of(sequence) + tiles_ - 1) / tiles_);
    for (std::int64_t block = 0; block < most; ++block) {
      std::size_t tiles = 0;
      for (std::size_t i = 0; i < plan_.sequences.size(); ++i) {
        const std::int64_t all = tiles_of(plan_.sequences[i]);
        for (std::int64_t h = 0; h < s.kv_heads; ++h, tiles += static_cast<std::size_t>(all)) {
          if (block * tiles_ >= all) continue;
          const auto sequence = static_cast<std::int64_t>(i);
          const std::int64_t place = sequence * s.kv_heads + h, threads = plan_.context.threads();
          std::array<std::int64_t, 3> unit{place / threads, block, place % threads};
          if (bias) unit = {one_key ? 0 : block, one_batch ? 0 : sequence, one_head ? 0 : h};
          units[unit].push_back({i, h, block, std::min(tiles_, all - block * tiles_),
                                 tiles + static_cast<std::size_t>(block * tiles_)});
        }
      }
      tile_count_ = tiles;
    }
    unit_begin_.push_back(0);
    for (const auto& [key, blocks] : units) {
      blocks_.insert(blocks_.end(), blocks.begin(), blocks.end());
      unit_begin_.push_back(blocks_.size());
    }
    // Turns of each sequence and key head.
    for (std::size_t i = 0; i < plan_.sequences.size(); ++i) {
      turns_begin_.push_back(turn_count_);
      turn_count_ += turns_of(i) * static_cast<std::size_t>(s.kv_heads);
    }
    turns_ = std::make_unique<std::atomic<std::int32_t>[]>(turn_count_);
    const auto heads = tile_count_ * static_cast<std::size_t>(plan_.group());
    if (!to_.alibi_slopes.empty()) slopes_.assign(heads, 0.0);
    if (!to_.t5.empty()) t5_.assign(heads * static_cast<std::size_t>(buckets()), 0.0);
  }

  std::size_t turns_of(std::size_t sequence) const {
    return static_cast<std::size_t>(plan_.schedule_of[sequence].schedule->blocks() *
                                    turns_a_block_);
  }
  std::int64_t buckets() const { return plan_.options.score.t5->buckets; }

  // Queries of blocks that see nothing at all.
  void clear_unseen() const {
    for (std::size_t i = 0; i < plan_.sequences.size(); ++i) {
      const Sequence& s = plan_.sequences[i];
      for (std::int64_t h = 0; h < plan_.shape.kv_heads; ++h) {
        const GroupSchedule& group = plan_.group_of(i, h);
        for (std::int64_t first = 0; first < s.q_len; first += plan_.block_tokens) {
          const auto block = static_cast<std::size_t>(first / plan_.block_tokens);
          if (group.run_begin[block] < group.run_begin[block + 1]) continue;
          Tensor rows = to_.q;
          rows.data = static_cast<char*>(to_.q.data) +
                      static_cast<std::size_t>(
                          to_.q.offset(s.tensor, h * plan_.group(), s.q_begin + first)) *
                          size_of(to_.q.dtype);
          rows.shape = {1, plan_.group(), std::min(plan_.block_tokens, s.q_len - first),
                        to_.q.width()};
          clear(rows);
        }
      }
    }
  }

  // Terms of all rows. A head's sink gets its rows' sums in order.
  void prepare() {
    constexpr std::int64_t kRows = 512;
    struct Piece {
      std::size_t sequence;
      std::int64_t head, first;
      double d_sink = 0;
    };
    std::vector<Piece> pieces;
    for (std::size_t i = 0; i < plan_.sequences.size(); ++i) {
      for (std::int64_t h = 0; h < plan_.shape.q_heads; ++h) {
        for (std::int64_t first = 0; first < plan_.sequences[i].q_len; first += kRows)
          pieces.push_back({i, h, first});
      }
    }
    parallel_units(plan_.context.threads(), static_cast<std::int64_t>(pieces.size()),
                   [&](int, std::int64_t n) {
                     Piece& piece = pieces[static_cast<std::size_t>(n)];
                     const Sequence& s = plan_.sequences[piece.sequence];
                     kernel_.prepare(p_, s, piece.head, piece.first,
                                     std::min(kRows, s.q_len - piece.first), &piece.d_sink);
                   });
    if (to_.sinks.empty()) return;
    std::vector<double> sums(static_cast<std::size_t>(plan_.shape.q_heads), 0.0);
    for (const Piece& piece : pieces) sums[static_cast<std::size_t>(piece.head)] += piece.d_sink;
    for (std::size_t h = 0; h < sums.size(); ++h)
      add(to_.sinks, {0, 0, 0, static_cast<std::int64_t>(h)}, sums[h]);
  }

  void run_unit(int thread, std::size_t unit);

  // Where the sums of a key block's first tile lie in those of all tiles.
  std::size_t place(const KeyBlock& block) const {
    return block.first_tile * static_cast<std::size_t>(plan_.group());
  }

  // By distance, to buckets.
  void keep_t5(const KeyBlock& block, const std::vector<double>& by_distance) {
    const T5Bias& t5 = *plan_.options.score.t5;
    const std::int64_t reach = p_.score.t5_reach;
    double* sums = t5_.data() + place(block) * static_cast<std::size_t>(buckets());
    for (auto from = by_distance.begin(); from != by_distance.end(); sums += buckets()) {
      for (std::int64_t relative = -reach; relative <= reach; ++relative)
        sums[t5_bucket(relative, t5.bidirectional, t5.buckets, t5.max_distance)] += *from++;
    }
  }

  // Sums over sequences and tiles, in order; [kv heads][group][width] from [sequences][kv
  // heads][tiles][group][width].
  std::vector<double> over_tiles(const std::vector<double>& x, std::size_t width) const {
    const auto row = static_cast<std::size_t>(plan_.group()) * width;
    std::vector<double> sums(static_cast<std::size_t>(plan_.shape.kv_heads) * row, 0.0);
    auto from = x.begin();
    for (const Sequence& s : plan_.sequences) {
      for (auto to = sums.begin(); to != sums.end(); to += static_cast<std::ptrdiff_t>(row)) {
        for (std::int64_t tile = 0; tile < tiles_of(s); ++tile) {
          for (std::size_t i = 0; i < row; ++i) to[static_cast<std::ptrdiff_t>(i)] += *from++;
        }
      }
    }
    return sums;
  }

  void add_slopes() const {
    if (slopes_.empty()) return;
    const std::vector<double> sums = over_tiles(slopes_, 1);
    for (std::size_t h = 0; h < sums.size(); ++h)
      add(to_.alibi_slopes, {0, 0, 0, static_cast<std::int64_t>(h)}, sums[h]);
  }

  void add_t5() const {
    if (t5_.empty()) return;
    const std::vector<double> sums = over_tiles(t5_, static_cast<std::size_t>(buckets()));
    auto from = sums.begin();
    for (std::int64_t h = 0; h < plan_.shape.q_heads; ++h) {
      for (std::int64_t bucket = 0; bucket < buckets(); ++bucket)
        add(to_.t5, {0, 0, bucket, h}, *from++);
    }
  }

  const Plan::Impl& plan_;
  const InputGradients& to_;
  const kernels::BackwardKernel& kernel_;
  const std::int64_t turns_a_block_;
  BackwardParams p_;
  std::unique_ptr<double[]> terms_;
  std::int64_t tiles_ = 1;
  std::size_t workspace_ = 0;
  std::vector<KeyBlock> blocks_;         // of all units
  std::vector<std::size_t> unit_begin_;  // [units + 1]
  std::size_t tile_count_ = 0;           // of all sequences and heads
  std::size_t turn_count_ = 0;
  std::vector<std::size_t> turns_begin_;  // [sequences]
  std::unique_ptr<std::atomic<std::int32_t>[]> turns_;
  std::vector<double> slopes_;  // [tiles][group]
  std::vector<double> t5_;      // [tiles][group][buckets]
  std::atomic<bool> failed_{false};
};

// The blocks of rows that see some of a key block.
class BackwardRun::Rows final : public kernels::RowBlocks {
 public:
  Rows(const BackwardRun& run, const KeyBlock& keys, RowIntervals& intervals,
       std::vector<kernels::TileRun>& runs)
      : run_(run),
        plan_(run.plan_),
        schedule_(*plan_.schedule_of[keys.sequence].schedule),
        group_(plan_.group_of(keys.sequence, keys.kv_head)),
        sequence_(plan_.sequences[keys.sequence]),
        block_(keys.block),
        turns_(run.turns_.get() + run.turns_begin_[keys.sequence] +
               static_cast<std::size_t>(keys.kv_head) * run.turns_of(keys.sequence)),
        intervals_(intervals),
        runs_(runs) {}

  bool next(BackwardRows& rows) override {
    for (; at_ < schedule_.blocks(); ++at_) {
      if (!clip(rows)) continue;
      rows.token_begin = at_ * plan_.block_tokens;
      rows.token_count = std::min(plan_.block_tokens, sequence_.q_len - rows.token_begin);
      rows.turns = turns_ + at_ * run_.turns_a_block_;
      fill(rows);
      ++at_;
      return true;
    }
    return false;
  }
  bool failed() const override { return run_.failed_.load(std::memory_order_relaxed); }

 private:
  // The block's runs of tiles within the key block, and how many key blocks it visits before.
  bool clip(BackwardRows& rows) {
    const std::int64_t begin = block_ * run_.tiles_, end = begin + run_.tiles_;
    const auto at = static_cast<std::size_t>(at_);
    const std::int64_t words =
        static_cast<std::int64_t>(group_.variants.size()) *
        std::min(plan_.block_tokens, sequence_.q_len - at_ * plan_.block_tokens) *
        (plan_.kernel->tile / 64);
    runs_.clear();
    rows.turn = 0;
    std::int64_t last = -1;  // key block that was counted
    for (std::int64_t i = group_.run_begin[at]; i < group_.run_begin[at + 1]; ++i) {
      kernels::TileRun run = group_.runs[static_cast<std::size_t>(i)];
      if (run.begin >= end) break;
      const std::int64_t first = std::max(run.begin / run_.tiles_, last + 1);
      const std::int64_t before = std::min((run.end - 1) / run_.tiles_, block_ - 1);
      if (first <= before) {
        rows.turn += static_cast<std::int32_t>(before - first + 1);
        last = before;
      }
      if (run.end <= begin) continue;
      const auto from = static_cast<std::int32_t>(std::max<std::int64_t>(run.begin, begin));
      run.bits_offset += (from - run.begin) * words;
      run.begin = from;
      run.end = static_cast<std::int32_t>(std::min<std::int64_t>(run.end, end));
      runs_.push_back(run);
    }
    return !runs_.empty();
  }

  void fill(BackwardRows& rows) {
    kernels::Schedule& tiles = rows.schedule;
    tiles = {};
    tiles.runs = runs_.data();
    tiles.run_count = static_cast<std::int64_t>(runs_.size());
    tiles.block_tokens = rows.token_count;
    schedule_.describe_rows(group_, rows.token_begin, intervals_.begin, intervals_.intervals,
                            tiles);
  }

  const BackwardRun& run_;
  const Plan::Impl& plan_;
  const MaskSchedule& schedule_;
  const GroupSchedule& group_;
  const Sequence& sequence_;
  const std::int64_t block_;
  std::atomic<std::int32_t>* turns_;
  RowIntervals& intervals_;
  std::vector<kernels::TileRun>& runs_;
  std::int64_t at_ = 0;
};

void BackwardRun::run_unit(int thread, std::size_t unit) {
  RowIntervalsUse intervals;
  std::vector<kernels::TileRun> runs;
  std::vector<double> by_distance;
  for (std::size_t i = unit_begin_[unit]; i < unit_begin_[unit + 1]; ++i) {
    const KeyBlock& keys = blocks_[i];
    Rows rows(*this, keys, *intervals, runs);
    const Sequence& sequence = plan_.sequences[keys.sequence];
    BackwardBlock block;
    block.sequence = sequence;
    block.kv_head = keys.kv_head;
    block.tile_begin = keys.block * tiles_;
    block.tile_end = block.tile_begin + keys.tile_count;
    block.rows = &rows;
    if (!slopes_.empty()) block.slopes = slopes_.data() + place(keys);
    if (!t5_.empty()) {
      const std::int64_t distances = 2 * p_.score.t5_reach + 1;
      by_distance.assign(static_cast<std::size_t>(keys.tile_count * plan_.group() * distances),
                         0.0);
      block.t5 = by_distance.data();
    }
    kernel_.run(p_, block, tiles_, plan_.context.workspace(thread, workspace_));
    if (!t5_.empty()) keep_t5(keys, by_distance);
  }
}

}  // namespace

void Plan::backward(const AttentionInputs& inputs, const AttentionResults& results,
                    const OutputGradients& from, const InputGradients& to) const {
  const Impl& plan = *impl_;
  check_backward(plan.shape, plan.options, inputs, from, to);
  check_results(plan.shape, results, from);
  const ContextUse use(plan.context);
  BackwardRun(plan, inputs, results, from, to).run();
}

}  // namespace attn
