// Plan and run: validation, the choice of row blocks, and the loop over them.
#include "attn/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "attention/explain.h"
#include "attention/observe.h"
#include "attention/parallel.h"
#include "attention/plan.h"
#include "attn/position.h"
#include "base/check.h"
#include "base/context_use.h"
#include "base/random.h"

namespace attn {

namespace {

// Query rows a block. Keys are packed once a block, so many rows are better: as many as keep
// queries and outputs in a quarter of the L2 cache, or in half of it up to 512; and few enough to
// give every thread a few blocks.
std::int64_t choose_row_block(const AttentionShape& shape, const kernels::ForwardKernel& kernel,
                              const Context& context) {
  constexpr std::int64_t kMost = 1024, kBlocksAThread = 4;
  const std::int64_t group = shape.q_heads / shape.kv_heads;
  const std::int64_t l2 = context.machine().l2_bytes > 0 ? context.machine().l2_bytes : 512 << 10;
  const std::int64_t row_bytes =
      (shape.width + shape.v_width) * static_cast<std::int64_t>(size_of(shape.dtype));
  const std::int64_t fitting =
      std::max(l2 / 4 / row_bytes, std::min<std::int64_t>(512, l2 / 2 / row_bytes));
  std::int64_t rows = std::clamp(fitting, 4 * kernel.strip, kMost);
  const std::int64_t units = shape.batch * shape.kv_heads;
  const std::int64_t all_rows = shape.q_len * group;
  while (rows > 8 * kernel.strip && context.threads() > 1 &&
         units * ((all_rows + rows - 1) / rows) < kBlocksAThread * context.threads()) {
    rows /= 2;
  }
  return std::max(rows, group);
}

// T5's table by relative position, [heads][2 * reach + 1].
std::vector<float> t5_by_distance(const T5Bias& t5, std::int64_t heads, std::int64_t reach) {
  std::vector<float> out;
  out.reserve(static_cast<std::size_t>(heads * (2 * reach + 1)));
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t relative = -reach; relative <= reach; ++relative) {
      const int bucket = t5_bucket(relative, t5.bidirectional, t5.buckets, t5.max_distance);
      out.push_back(t5.table[static_cast<std::size_t>(bucket * heads + h)]);
    }
  }
  return out;
}

}  // namespace

namespace {

// Keys that lie packed must lie as this kernel reads them.
void check_panels(const KeyValue& kv, std::int64_t panel) {
  if (kv.k_panel == 0) return;
  const auto fail = [](const std::string& what) {
    throw std::invalid_argument("[attention] k lies in panels" + what);
  };
  if (kv.k_panel != panel) {
    fail(" of " + std::to_string(kv.k_panel) + ", this instruction set reads panels of " +
         std::to_string(panel));
  }
  if (kv.rotation != nullptr) fail(" and cannot be rotated there");
  if (kv.pages == nullptr) return;
  for (const PageRun& run : kv.pages->runs) {
    if (run.row % panel != 0 || run.begin % panel != 0) fail(", a page begins inside of one");
  }
}

}  // namespace

kernels::Matrix matrix_of(const ConstTensor& t) {
  return {t.data, t.strides[0], t.strides[1], t.strides[2]};
}

// Sequences of the batch and where their rows are.
void Plan::Impl::list_sequences() {
  const Ragged& ragged = options.ragged;
  const std::vector<std::uint32_t>& streams = options.dropout.streams;
  const std::int64_t count = ragged.q_offsets.empty()
                                 ? shape.batch
                                 : static_cast<std::int64_t>(ragged.q_offsets.size()) - 1;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto n = static_cast<std::size_t>(i);
    kernels::Sequence s;
    s.batch = i;
    s.query_start = ragged.query_starts.empty() ? options.query_start : ragged.query_starts[n];
    s.stream =
        (streams.empty() ? static_cast<std::uint32_t>(i) : streams[n]) + options.dropout.offset;
    if (ragged.q_offsets.empty()) {
      s.tensor = i;
      s.q_len = shape.q_len;
      s.k_len = shape.k_len;
    } else {
      s.q_begin = ragged.q_offsets[n];
      s.q_len = ragged.q_offsets[n + 1] - s.q_begin;
      s.k_begin = ragged.k_offsets[n];
      s.k_len = ragged.k_offsets[n + 1] - s.k_begin;
    }
    sequences.push_back(s);
  }
}

// Sequences of the same lengths and start share a schedule.
void Plan::Impl::make_schedules() {
  std::map<std::array<std::int64_t, 3>, std::vector<std::int64_t>> alike;
  for (const kernels::Sequence& s : sequences) {
    alike[{s.q_len, s.k_len, s.query_start}].push_back(s.batch);
  }
  schedule_of.resize(sequences.size());
  for (const auto& [lengths, entries] : alike) {
    const Geometry geometry{.batch = static_cast<std::int64_t>(sequences.size()),
                            .heads = shape.q_heads,
                            .q_len = lengths[0],
                            .k_len = lengths[1],
                            .query_start = lengths[2],
                            .q_positions = options.q_positions,
                            .k_positions = options.k_positions};
    schedules.emplace_back(options.mask, geometry, entries, shape.kv_heads, kernel->tile,
                           block_tokens);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      schedule_of[static_cast<std::size_t>(entries[i])] = {&schedules.back(),
                                                           static_cast<std::int64_t>(i)};
    }
  }
}

// Units of all blocks, the most expensive first.
void Plan::Impl::list_units() {
  std::vector<double> cost;
  std::vector<Unit> all;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
      const GroupSchedule& tiles = group_of(i, h);
      for (std::int64_t block = 0; block < schedule_of[i].schedule->blocks(); ++block) {
        all.push_back({static_cast<std::int64_t>(i), h, block});
        cost.push_back(tiles.cost[static_cast<std::size_t>(block)]);
      }
    }
  }
  std::vector<std::size_t> order(all.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return cost[a] > cost[b]; });
  units.reserve(all.size());
  for (std::size_t i : order) units.push_back(all[i]);
}

// Where there are too few blocks to keep the threads busy, as in decoding, the segments of a block
// are shared out and folded afterwards, in the order in which one thread would have.
void Plan::Impl::split_keys() {
  constexpr std::int64_t kUnitsAThread = 4;
  constexpr std::size_t kMostBytes = 8 << 20;
  const auto count = static_cast<std::int64_t>(units.size());
  const std::int64_t wanted = kUnitsAThread * context.threads();
  if (context.threads() == 1 || count == 0 || count >= wanted) return;
  std::vector<Unit> split;
  for (const Unit& unit : units) {
    split_block(unit, (wanted + count - 1) / count, split);
    if (states_bytes > kMostBytes) {  // many rows over many segments: keep them whole
      split_blocks.clear();
      split_runs.clear();
      states_bytes = 0;
      return;
    }
  }
  units = std::move(split);
}

void Plan::Impl::split_block(const Unit& unit, std::int64_t pieces, std::vector<Unit>& out) {
  const std::int64_t tiles = kernel->segment / kernel->tile;
  RowIntervals rows;
  const kernels::ForwardBlock block = block_of(unit, rows);
  const kernels::Schedule& all = block.schedule;
  std::vector<std::int64_t> segments;  // that the block visits
  for (std::int64_t i = 0; i < all.run_count; ++i) {
    for (std::int64_t s = all.runs[i].begin / tiles; s * tiles < all.runs[i].end; ++s) {
      if (segments.empty() || segments.back() < s) segments.push_back(s);
    }
  }
  const auto count = static_cast<std::int64_t>(segments.size());
  if (count < 2) {
    out.push_back(unit);
    return;
  }
  const std::size_t bytes = kernel->state_bytes(block.token_count * group(), shape.v_width);
  SplitBlock whole{unit, count};
  whole.whole.states = states_bytes;
  split_blocks.push_back(whole);
  pieces = std::min(pieces, count);
  const std::int64_t words = all.slots * all.block_tokens * (kernel->tile / 64);
  for (std::int64_t n = 0; n < pieces; ++n) {
    const std::int64_t first = count * n / pieces, last = count * (n + 1) / pieces;
    const std::int64_t begin = segments[static_cast<std::size_t>(first)] * tiles;
    const std::int64_t end = (segments[static_cast<std::size_t>(last) - 1] + 1) * tiles;
    Unit piece = unit;
    piece.states = states_bytes + static_cast<std::size_t>(first) * bytes;
    piece.run_begin = static_cast<std::int64_t>(split_runs.size());
    for (std::int64_t i = 0; i < all.run_count; ++i) {
      kernels::TileRun run = all.runs[i];
      const std::int64_t from = std::max<std::int64_t>(run.begin, begin);
      const std::int64_t to = std::min<std::int64_t>(run.end, end);
      if (from >= to) continue;
      run.bits_offset += (from - run.begin) * words;
      run.begin = static_cast<std::int32_t>(from);
      run.end = static_cast<std::int32_t>(to);
      split_runs.push_back(run);
    }
    piece.run_end = static_cast<std::int64_t>(split_runs.size());
    out.push_back(piece);
  }
  states_bytes += static_cast<std::size_t>(count) * bytes;
}

// Does a distance between a query and a key exceed what the tensors' type holds exactly?
bool Plan::Impl::far_positions() const {
  const auto range = [](const std::vector<std::int64_t>& positions, std::int64_t first,
                        std::int64_t count) {
    if (positions.empty()) return std::pair(first, first + count);
    const auto [low, high] = std::minmax_element(positions.begin(), positions.end());
    return std::pair(*low, *high);
  };
  const std::int64_t exact = std::int64_t{1} << (shape.dtype == DType::f64 ? 53 : 24);
  return std::any_of(sequences.begin(), sequences.end(), [&](const kernels::Sequence& s) {
    const auto q = range(options.q_positions, s.query_start, s.q_len);
    const auto k = range(options.k_positions, 0, s.k_len);
    return std::max(q.second, k.second) - std::min(q.first, k.first) >= exact;
  });
}

void Plan::Impl::fill_params() {
  const Score& score = options.score;
  kernels::ScoreParams& p = params.score;
  params.group = group();
  params.width = shape.width;
  params.v_width = shape.v_width;
  p.scale = score.scale.value_or(1.0 / std::sqrt(static_cast<double>(shape.width)));
  p.soft_cap = score.soft_cap;
  if (!score.bias.empty()) {
    p.bias.data = score.bias.data;
    for (std::size_t i = 0; i < 4; ++i) {
      p.bias.strides[i] = score.bias.shape[i] == 1 ? 0 : score.bias.strides[i];
    }
  }
  if (score.alibi_slopes) {
    alibi = score.alibi_slopes->empty() ? alibi_slopes(shape.q_heads) : *score.alibi_slopes;
    p.alibi_slopes = alibi.data();
    p.far_positions = far_positions();
  }
  if (score.t5) {
    p.t5_reach = std::max(score.t5->max_distance, score.t5->buckets);
    t5 = t5_by_distance(*score.t5, shape.q_heads, p.t5_reach);
    p.t5 = t5.data();
  }
  if (!score.sinks.empty()) p.sinks = score.sinks.data();
  if (score.custom) p.custom = &score.custom;
  const DropoutRule dropout(options.dropout);
  params.dropout = {dropout.threshold(), {dropout.key()[0], dropout.key()[1]}, dropout.scale()};
  if (!options.q_positions.empty()) p.q_positions = options.q_positions.data();
  if (!options.k_positions.empty()) p.k_positions = options.k_positions.data();
}

void Plan::Impl::summarise() {
  const auto bytes = static_cast<double>(size_of(shape.dtype)),
             kv_bytes = static_cast<double>(size_of(*shape.kv_dtype));
  for (const MaskSchedule& schedule : schedules) {
    summary.visible_pairs += schedule.visible_pairs();
    summary.empty_rows += schedule.empty_rows();
    summary.sees_future = summary.sees_future || schedule.sees_future();
  }
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const auto rows = static_cast<double>(shape.q_heads * sequences[i].q_len);
    summary.score_matrix_bytes += rows * static_cast<double>(sequences[i].k_len) * bytes;
    for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
      const GroupSchedule& tiles = group_of(i, h);
      summary.tiles_full += tiles.tiles_full;
      summary.tiles_partial += tiles.tiles_partial;
      summary.tiles_skipped += tiles.tiles_skipped;
    }
  }
  const auto batch = static_cast<double>(shape.batch), heads = static_cast<double>(shape.q_heads);
  const auto q_len = static_cast<double>(shape.q_len), k_len = static_cast<double>(shape.k_len);
  const auto widths = static_cast<double>(shape.width + shape.v_width);
  summary.kernel = std::string("flash forward, ") + name(shape.dtype);
  summary.isa = context.isa();
  summary.threads = context.threads();
  summary.row_block = block_tokens * group();
  summary.key_tile = kernel->tile;
  summary.segment = kernel->segment;
  summary.flops = 2.0 * static_cast<double>(summary.visible_pairs) * widths;
  summary.bytes = batch * widths *
                  (bytes * heads * q_len + kv_bytes * static_cast<double>(shape.kv_heads) * k_len);
  summary.workspace_bytes = static_cast<std::int64_t>(workspace) * context.threads() +
                            static_cast<std::int64_t>(states_bytes);
}

Plan plan(const AttentionShape& given, const AttentionOptions& options, const Context& context) {
  check_options(given, options);
  auto impl = std::make_shared<Plan::Impl>(context);
  Plan::Impl& plan = *impl;
  plan.shape = checked_shape(given);
  plan.options = options;
  const AttentionShape& shape = plan.shape;
  plan.kernel = &kernels::forward_kernel(context.isa(), shape.dtype);
  plan.list_sequences();
  std::int64_t longest = 1;
  for (const kernels::Sequence& s : plan.sequences) longest = std::max(longest, s.q_len);
  plan.block_tokens = std::clamp<std::int64_t>(
      choose_row_block(shape, *plan.kernel, context) / plan.group(), 1, longest);
  plan.make_schedules();
  plan.workspace =
      plan.kernel->workspace_bytes(plan.block_tokens * plan.group(), shape.width, shape.v_width);
  plan.list_units();
  plan.split_keys();
  plan.fill_params();
  plan.summarise();

  Plan result;
  result.impl_ = std::move(impl);
  return result;
}

kernels::ForwardBlock Plan::Impl::tiles_of(const Unit& unit) const {
  const auto place = static_cast<std::size_t>(unit.sequence);
  const GroupSchedule& group = group_of(place, unit.kv_head);
  kernels::ForwardBlock block;
  block.sequence = sequences[place];
  block.kv_head = unit.kv_head;
  block.token_begin = unit.block * block_tokens;
  block.token_count = std::min(block_tokens, block.sequence.q_len - block.token_begin);
  kernels::Schedule& tiles = block.schedule;
  const std::int64_t first = group.run_begin[static_cast<std::size_t>(unit.block)];
  tiles.runs = group.runs.data() + first;
  tiles.run_count = group.run_begin[static_cast<std::size_t>(unit.block) + 1] - first;
  tiles.block_tokens = block.token_count;
  if (unit.run_begin >= 0) {
    tiles.runs = split_runs.data() + unit.run_begin;
    tiles.run_count = unit.run_end - unit.run_begin;
  }
  return block;
}

kernels::ForwardBlock Plan::Impl::block_of(const Unit& unit, RowIntervals& rows) const {
  const auto place = static_cast<std::size_t>(unit.sequence);
  kernels::ForwardBlock block = tiles_of(unit);
  schedule_of[place].schedule->describe_rows(group_of(place, unit.kv_head), block.token_begin,
                                             rows.begin, rows.intervals, block.schedule);
  return block;
}

void Plan::Impl::run_unit(const kernels::ForwardParams& p, int thread, std::int64_t index,
                          void* states) const {
  const Unit& unit = units[static_cast<std::size_t>(index)];
  RowIntervalsUse rows;
  kernels::ForwardBlock block = block_of(unit, *rows);
  if (unit.run_begin >= 0) block.states = static_cast<char*>(states) + unit.states;
  // Units are taken in turn: the other threads will have taken those in between.
  const auto next = static_cast<std::size_t>(index + context.threads());
  kernels::ForwardBlock following;
  if (next < units.size()) {
    following = tiles_of(units[next]);
    block.next = &following;
  }
  kernel->run(p, block, context.workspace(thread, workspace));
}

void Plan::Impl::fold_block(const kernels::ForwardParams& p, int thread, std::int64_t index,
                            void* states) const {
  const SplitBlock& split = split_blocks[static_cast<std::size_t>(index)];
  RowIntervalsUse rows;
  kernels::ForwardBlock block = block_of(split.whole, *rows);
  block.states = static_cast<char*>(states) + split.whole.states;
  kernel->fold(p, block, split.segments, context.workspace(thread, workspace));
}

kernels::ForwardParams Plan::Impl::params_for(const ConstTensor& q, const KeyValue& kv,
                                              const Tensor& out, const Observed& observed) const {
  kernels::ForwardParams p = params;
  p.q = matrix_of(q);
  p.q_dtype = q.dtype;
  p.k = {matrix_of(kv.k), kv.k.dtype, matrix_of(kv.k_scale), nullptr, nullptr, kv.k_panel};
  p.v = {matrix_of(kv.v), kv.v.dtype, matrix_of(kv.v_scale), nullptr, nullptr, 0};
  if (kv.pages != nullptr) {
    p.k.runs = p.v.runs = kv.pages->runs.data();
    p.k.run_begin = p.v.run_begin = kv.pages->run_begin.data();
  }
  p.rotation = kv.rotation;
  p.out = matrix_of(out);
  p.out_dtype = out.dtype;
  p.lse = matrix_of(observed.lse);
  p.statistics = {matrix_of(observed.max_logit), matrix_of(observed.entropy),
                  matrix_of(observed.relative_entropy), matrix_of(observed.max_probability),
                  matrix_of(observed.mean_variance)};
  return p;
}

void Plan::run(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const Tensor& out,
               const Observed& observed) const {
  run(q, {.k = k, .v = v}, out, observed);
}

void Plan::run(const ConstTensor& q, const KeyValue& kv, const Tensor& out,
               const Observed& observed) const {
  const Impl& plan = *impl_;
  check_inputs(plan.shape, plan.options, q, kv);
  check_output(plan.shape, out);
  check_apart(out, q, kv);
  check_observed(plan.shape, observed);
  check_panels(kv, plan.kernel->panel);
  kernels::ForwardParams p = plan.params_for(q, kv, out, observed);
  const ContextUse use(plan.context);
  std::optional<SecondPass> second;
  if (observed.two_passes()) {
    second.emplace(plan, observed);
    p.softmax = second->softmax();
  }
  const int threads = threads_worth(plan.context.threads(), plan.summary.flops);
  void* states = nullptr;
  if (!plan.split_blocks.empty()) {
    states = static_cast<char*>(plan.context.workspace(0, plan.workspace + plan.states_bytes)) +
             plan.workspace;
  }
  parallel_units(threads, static_cast<std::int64_t>(plan.units.size()),
                 [&](int thread, std::int64_t unit) { plan.run_unit(p, thread, unit, states); });
  parallel_units(
      threads, static_cast<std::int64_t>(plan.split_blocks.size()),
      [&](int thread, std::int64_t block) { plan.fold_block(p, thread, block, states); });
  if (second) second->run(p);
}

const PlanSummary& Plan::summary() const { return impl_->summary; }

std::string Plan::explain(const Observed& observed) const {
  return explain_plan(impl_->shape, impl_->options, impl_->summary, observed);
}

void attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const Tensor& out,
               const AttentionOptions& options, const Context& context, const Observed& observed) {
  plan(AttentionShape::of(q, k, v), options, context).run(q, k, v, out, observed);
}

}  // namespace attn
