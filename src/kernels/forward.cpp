#include "kernels/forward.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>

#include "kernels/ahead-inl.h"
#include "kernels/arena.h"
#include "kernels/by_isa.h"
#include "kernels/inplace-inl.h"
#include "kernels/look_ahead-inl.h"
#include "kernels/micro-inl.h"
#include "kernels/panels-inl.h"
#include "kernels/rows-inl.h"
#include "kernels/scores-inl.h"
#include "kernels/softmax-inl.h"
#include "kernels/state-inl.h"
#include "kernels/values-inl.h"
#include "kernels/visible-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
class Forward {
  using B = Blocking<T>;
  static constexpr std::int64_t kWords = B::kTile / 64;
  static constexpr T kMinusInf = -std::numeric_limits<T>::infinity();
  // Strips whose scores are kept side by side, so that keys and values are read once for all.
  static constexpr std::int64_t kFewStrips = 4;

 public:
  Forward(const ForwardParams& params, const ForwardBlock& block, Arena arena)
      : p_(params),
        block_(block),
        sequence_(block.sequence),
        rows_(params, block, arena),
        softmax_(params, block, rows_, arena),
        now_(arena, rows_.count, rows_.v_padded),
        before_(arena, rows_.count, rows_.v_padded),
        weights_(arena.take<T>(2 * round_up(rows_.count, B::kLanes))),
        few_(rows_.strips <= kFewStrips && sequence_.k_len > B::kTile),
        scores_(arena.take<T>(kFewStrips * B::kRows * B::kStride)),
        top_(arena.take<T>(kFewStrips * B::kRows * B::kLanes)),
        edge_top_(arena.take<T>(B::kRows * B::kLanes)),
        factor_(arena.take<T>(kFewStrips * B::kRows)),
        visible_words_(arena.take<std::uint64_t>(kFewStrips * B::kRows * kWords)),
        values_(params, block, few_, rows_.v_padded, arena.take<T>(B::kTile * rows_.v_padded)),
        spans_(arena.take<Span>(rows_.strips)),
        panels_(params, block.sequence, block.kv_head, arena.take<T>(B::kTile * params.width),
                arena.take<T>(B::kPanel * params.width), few_),
        modified_(params.score.beyond_softmax()),
        ahead_(params, block, rows_),
        bytes_(arena.used()) {
    visible_.schedule = &block.schedule;
  }

  std::size_t bytes() const { return bytes_; }

  // The whole block; or, when the block has `states`, only the states of its segments.
  void run() {
    rows_.place(block_);
    rows_.pack_queries();
    find_spans();
    std::int64_t segment = -1, ended = 0;
    const auto end = [&] {
      if (segment >= 0) end_segment(ended++);
    };
    const Schedule& schedule = block_.schedule;
    for (std::int64_t i = 0; i < schedule.run_count; ++i) {
      const TileRun& tiles = schedule.runs[i];
      for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
        const std::int64_t its_segment = tile * B::kTile / B::kSegment;
        if (its_segment != segment) {
          end();
          begin_segment(ended);
          segment = its_segment;
        }
        visible_.partial = tiles.partial;
        ahead_.begin_tile(tile, tile + 1 < tiles.end         ? tile + 1
                                : i + 1 < schedule.run_count ? schedule.runs[i + 1].begin
                                                             : -1);
        if (!few_) ahead_.look_past_tile(strips_that_see(tile), tiles.partial);
        if (tiles.partial && schedule.bits != nullptr) {
          visible_.bits = schedule.bits + tiles.bits_offset +
                          (tile - tiles.begin) * schedule.slots * schedule.block_tokens * kWords;
        }
        run_tile(tile);
      }
    }
    end();
    if (block_.states != nullptr) return;
    if (ended == 0) before_.clear(rows_.count);
    rows_.write(before_);
  }

  // Folds the states that run() left, `count` of them, in key order, and writes the rows.
  void run_fold(std::int64_t count) {
    rows_.place(block_);
    const State<T> first = state_at(0);
    for (std::int64_t i = 1; i < count; ++i) fold_in(first, state_at(i));
    rows_.write(first);
  }

  static std::size_t state_bytes(std::int64_t rows, std::int64_t v_width) {
    Arena arena(nullptr);
    State<T>(arena, rows, round_up(v_width, B::kPanel));
    return arena.used();
  }

 private:
  State<T> state_at(std::int64_t index) const {
    Arena arena(static_cast<char*>(block_.states) +
                static_cast<std::size_t>(index) * state_bytes(rows_.count, p_.v_width));
    return State<T>(arena, rows_.count, rows_.v_padded);
  }

  void fold_in(const State<T>& before, const State<T>& later) {
    fold(
        before, later, rows_.count, rows_.strips, rows_.v_padded, p_.statistics.any(),
        [this](std::int64_t strip) { return rows_.strip_begin(strip); }, weights_);
  }

  void begin_segment(std::int64_t ended) {
    if (block_.states != nullptr) now_ = state_at(ended);
    now_.clear(rows_.count);
  }

  void end_segment(std::int64_t ended) {
    softmax_.end_segment(now_);
    if (block_.states != nullptr) return;
    if (ended == 0)
      std::swap(now_, before_);
    else
      fold_in(before_, now_);
  }

  // Most strips see all or nothing of most tiles that are partial for the block.
  void find_spans() {
    const Schedule& schedule = block_.schedule;
    if (schedule.interval_begin == nullptr) return;
    for (std::int64_t strip = 0; strip < rows_.strips; ++strip) {
      spans_[strip] = span_of_rows(schedule, sequence_.k_len, rows_.token, block_.token_begin,
                                   rows_.head, block_.kv_head * p_.group, rows_.strip_begin(strip),
                                   rows_.strip_begin(strip + 1));
    }
  }

  std::int64_t strips_that_see(std::int64_t tile) const {
    if (!visible_.partial || block_.schedule.interval_begin == nullptr) return rows_.strips;
    const std::int64_t begin = tile * B::kTile, end = begin + B::kTile;
    return std::count_if(spans_, spans_ + rows_.strips,
                         [&](const Span& s) { return s.begin < end && s.end > begin; });
  }

  void run_tile(std::int64_t tile) {
    k_begin_ = tile * B::kTile;
    k_count_ = std::min(B::kTile, sequence_.k_len - k_begin_);
    visible_.k_begin = k_begin_;
    visible_.k_count = k_count_;
    panels_.begin_tile(k_begin_, k_count_);
    softmax_.begin_tile(k_begin_, k_count_);
    values_.load(k_begin_, k_count_, visible_.partial || modified_);
    if (p_.k.dtype == DType::i8) panels_.read_scales(softmax_.k_scale());
    if (p_.v.dtype == DType::i8)
      read_tile_scales(values_.stored(), k_begin_, k_count_, softmax_.v_scale());
    const std::int64_t together = few_ ? rows_.strips : 1;
    for (std::int64_t strip = 0; strip < rows_.strips; strip += together)
      run_strips(strip, strip + together);
  }

  // Strips [from, to), all their scores first, then all their outputs.
  void run_strips(std::int64_t from, std::int64_t to) {
    StripWork<T> all[kFewStrips];
    int count = 0;
    for (std::int64_t strip = from; strip < to; ++strip) count += look_at(strip, all[count]);
    if (count == 0) return;
    const std::span<StripWork<T>> works(all, static_cast<std::size_t>(count));

    if (few_) {
      values_.in_place() ? ahead_.look_at_values(values_.stored(), k_begin_, k_count_)
                         : ahead_.look_at_next_keys();
    }
    for (const StripWork<T>& w : works)
      std::fill_n(w.strip.top, w.strip.height * B::kLanes, kMinusInf);
    std::int64_t begin = B::kTile, end = 0;
    for (const StripWork<T>& w : works) {
      begin = std::min(begin, w.c.from / B::kPanel * B::kPanel);
      end = std::max(end, w.c.to);
    }
    for (std::int64_t j = begin; j < end; j += B::kPanel) {
      for (const StripWork<T>& w : works) {
        if (w.c.from < j + B::kPanel && w.c.to > j) multiply_keys(w, j);
      }
    }
    for (StripWork<T>& w : works) {
      const ScoreStrip<T>& s = w.strip;
      if (p_.k.dtype == DType::i8) softmax_.scale_scores(s, w.c);
      if (modified_) {
        modify_scores(
            Strip<T>{s.scores, s.visible, s.height, rows_.token + s.first, rows_.head + s.first,
                     &sequence_, p_.group, k_begin_, w.c.from, w.end},
            p_.score);
      }
      w.factor = softmax_.run(s, w.c, now_) ? s.factor : nullptr;
    }
    if (few_ && values_.in_place()) ahead_.look_at_next_keys();
    values_.add(works, now_.out, ahead_);
  }

  // Which columns of the tile a strip needs; returns whether any.
  bool look_at(std::int64_t strip, StripWork<T>& w) {
    const std::int64_t first = rows_.strip_begin(strip);
    const int height = static_cast<int>(rows_.strip_begin(strip + 1) - first);
    const std::int64_t at = few_ ? strip * B::kRows : 0;
    bool masked = visible_.partial || modified_ || k_count_ % B::kLanes != 0;
    if (visible_.partial && block_.schedule.interval_begin != nullptr) {
      const Span& span = spans_[strip];
      if (span.begin >= k_begin_ + k_count_ || span.end <= k_begin_) return false;
      const bool all = span.open <= k_begin_ && span.close >= k_begin_ + k_count_;
      if (all && !modified_ && k_count_ % B::kLanes == 0) masked = false;
    }
    w.strip = {scores_ + at * B::kStride,
               top_ + at * B::kLanes,
               visible_words_ + at * kWords,
               factor_ + at,
               first,
               height,
               masked};
    w.begin = 0;
    w.end = k_count_;
    std::int64_t open = 0, close = B::kTile;
    if (masked) {
      read_visible(w, open, close);
      if (w.begin >= w.end) return false;
      w.strip.masked = masked = modified_ || close - open < B::kTile;
    }
    // Keys past the last are zero and never looked at.
    w.c = {w.begin / B::kLanes * B::kLanes, round_up(w.end, B::kLanes), round_up(open, B::kPanel),
           close / B::kPanel * B::kPanel};
    if (!masked) w.c.close = w.c.to;
    if (modified_ || w.c.open >= w.c.close) w.c.open = w.c.close = w.c.to;
    if (now_.touch(strip, first, first + height, rows_.v_padded))
      softmax_.begin_strip(first, height);
    return true;
  }

  // What the rows of a strip see of the tile: columns [begin, end) by some row, [open, close) by
  // all.
  void read_visible(StripWork<T>& w, std::int64_t& open, std::int64_t& close) {
    std::uint64_t any[kWords] = {}, all[kWords];
    std::fill_n(all, kWords, ~std::uint64_t{0});
    for (int r = 0; r < w.strip.height; ++r) {
      std::uint64_t* words = w.strip.visible + r * kWords;
      visible_.read(rows_.token[w.strip.first + r] - block_.token_begin,
                    rows_.head[w.strip.first + r] - block_.kv_head * p_.group, words);
      for (int i = 0; i < kWords; ++i) {
        any[i] |= words[i];
        all[i] &= words[i];
      }
    }
    if (!VisibleTile<T>::span_of(any, w.begin, w.end)) w.begin = w.end = 0;
    VisibleTile<T>::first_run(all, open, close);
  }

  // Scores of the panel at column j.
  void multiply_keys(const StripWork<T>& w, std::int64_t j) {
    const auto index = static_cast<std::size_t>(w.strip.height - 1);
    const T* q = rows_.queries(w.strip.first);
    T* scores = w.strip.scores + j;
    T* top = j >= w.c.open && j < w.c.close ? w.strip.top : edge_top_;
    if (few_ && rows_.strips == 1) {
      const bool done = panels_.in_place(j, [&](const auto* keys, std::int64_t stride) {
        using S = std::remove_cvref_t<decltype(*keys)>;
        kKeysInPlace<S>[index](q, keys, stride, p_.width, scores, top, ahead_.fetches);
      });
      if (done) return;
    }
    const std::int64_t skip = j < w.c.from ? B::kLanes : 0;
    const bool one = skip > 0 || w.c.to < j + B::kPanel;
    const Kernels& kernels = kKernels[index];
    (one ? kernels.score_one : kernels.score)(q, panels_.at(j) + skip, p_.width, scores + skip, top,
                                              ahead_.key_pace, ahead_.fetches);
  }

  // Micro-kernels by height.
  struct Kernels {
    void (*score)(const T*, const T*, std::int64_t, T*, T*, std::int64_t, Ahead&);
    void (*score_one)(const T*, const T*, std::int64_t, T*, T*, std::int64_t, Ahead&);
  };
  template <class S>
  using KeysInPlace = void (*)(const T*, const S*, std::int64_t, std::int64_t, T*, T*, Ahead&);
  template <std::size_t... kIndex>
  static constexpr std::array<Kernels, sizeof...(kIndex)> make_kernels(
      std::index_sequence<kIndex...>) {
    return {{{&score_panel_ahead<static_cast<int>(kIndex) + 1, 2, T>,
              &score_panel_ahead<static_cast<int>(kIndex) + 1, 1, T>}...}};
  }
  template <class S, std::size_t... kIndex>
  static constexpr std::array<KeysInPlace<S>, sizeof...(kIndex)> make_keys_in_place(
      std::index_sequence<kIndex...>) {
    return {{&score_in_place<static_cast<int>(kIndex) + 1, S>...}};
  }
  static constexpr std::array<Kernels, B::kRows> kKernels =
      make_kernels(std::make_index_sequence<B::kRows>());
  template <class S>
  static constexpr std::array<KeysInPlace<S>, B::kRows> kKeysInPlace =
      make_keys_in_place<S>(std::make_index_sequence<B::kRows>());

  const ForwardParams& p_;
  const ForwardBlock& block_;
  const Sequence& sequence_;
  BlockRows<T> rows_;
  Softmax<T> softmax_;
  State<T> now_, before_;  // of this segment, of the segments before
  T* weights_;             // of a fold
  const bool few_;         // strips over many keys: all of a tile are computed together
  T *scores_, *top_, *edge_top_, *factor_;
  std::uint64_t* visible_words_;
  TileValues<T> values_;
  Span* spans_;  // [strips] when the schedule has intervals
  KeyPanels<T> panels_;
  const bool modified_;
  LookAhead<T> ahead_;
  const std::size_t bytes_;
  VisibleTile<T> visible_;
  // This tile.
  std::int64_t k_begin_ = 0, k_count_ = 0;
};

template <class T>
void run_forward(const ForwardParams& params, const ForwardBlock& block, void* workspace) {
  Forward<T>(params, block, Arena(workspace)).run();
}

template <class T>
void fold_states(const ForwardParams& params, const ForwardBlock& block, std::int64_t count,
                 void* workspace) {
  Forward<T>(params, block, Arena(workspace)).run_fold(count);
}

template <class T>
std::size_t workspace_bytes(std::int64_t rows, std::int64_t width, std::int64_t v_width) {
  ForwardParams params;
  params.width = width;
  params.v_width = v_width;
  ForwardBlock block;
  block.token_count = rows;
  return Forward<T>(params, block, Arena(nullptr)).bytes();
}

template <class T>
const ForwardKernel& kernel() {
  using B = Blocking<T>;
  static constexpr ForwardKernel kKernel{B::kRows,
                                         B::kTile,
                                         B::kSegment,
                                         B::kPanel,
                                         &workspace_bytes<T>,
                                         &Forward<T>::state_bytes,
                                         &run_forward<T>,
                                         &fold_states<T>};
  return kKernel;
}

const ForwardKernel& kernel_of(DType dtype) {
  return dtype == DType::f64 ? kernel<double>() : kernel<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const ForwardKernel& forward_kernel(Isa isa, DType dtype) {
  ATTN_RETURN_BY_ISA(isa, kernel_of(dtype));
}

}  // namespace attn::kernels
#endif
