#include "kernels/observe.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/observe.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/arena.h"
#include "kernels/by_isa.h"
#include "kernels/exp2-inl.h"
#include "kernels/micro-inl.h"
#include "kernels/observe_block-inl.h"
#include "kernels/observe_rows-inl.h"
#include "kernels/observe_sums-inl.h"
#include "kernels/panels-inl.h"
#include "kernels/rows-inl.h"
#include "kernels/scores-inl.h"
#include "kernels/visible-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The probabilities of a block, tile by tile, handed to those who answer.
template <class T>
class Observe {
  using B = Blocking<T>;
  using D = typename B::D;
  static constexpr std::int64_t kWords = B::kTile / 64;

 public:
  Observe(const ForwardParams& params, const ObserveParams& asked, const ForwardBlock& block,
          Arena arena)
      : p_(params),
        forward_(block),
        sequence_(block.sequence),
        rows_(params, block, arena),
        block_(params, asked, block, rows_),
        sums_(block_, arena),
        answers_(block_, block.kv_head, arena),
        scores_(arena.take<T>(B::kRows * B::kStride)),
        top_(arena.take<T>(B::kRows * B::kLanes)),
        k_offset_(arena.take<T>(B::kTile)),
        k_scale_(arena.take<T>(B::kTile)),
        reference_(arena.take<T>(rows_.count)),
        factor_(arena.take<T>(rows_.count)),
        visible_words_(arena.take<std::uint64_t>(B::kRows * kWords)),
        panels_(params, block.sequence, block.kv_head, arena.take<T>(B::kTile * params.width),
                arena.take<T>(B::kPanel * params.width), rows_.strips == 1),
        modified_(params.score.modified()),
        alibi_(params.score.alibi_slopes != nullptr && !modified_),
        bytes_(arena.used()) {
    visible_.schedule = &block.schedule;
  }

  std::size_t bytes() const { return bytes_; }

  void run() {
    rows_.place(forward_);
    read_softmax();
    std::fill_n(top_, B::kRows * B::kLanes, T(0));
    sums_.clear();
    answers_.clear();
    bool packed = false;
    const Schedule& schedule = forward_.schedule;
    for (std::int64_t i = 0; i < schedule.run_count; ++i) {
      const TileRun& tiles = schedule.runs[i];
      for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
        block_.begin_tile(tile);
        if (!sums_.wants_tile() && !answers_.wants_tile()) continue;
        if (!packed) rows_.pack_queries();
        packed = true;
        visible_.partial = tiles.partial;
        if (tiles.partial && schedule.bits != nullptr) {
          visible_.bits = schedule.bits + tiles.bits_offset +
                          (tile - tiles.begin) * schedule.slots * schedule.block_tokens * kWords;
        }
        run_tile();
      }
    }
    sums_.write();
    answers_.write();
  }

 private:
  // As the forward kernel left it.
  void read_softmax() {
    for (std::int64_t r = 0; r < rows_.count; ++r) {
      const T* softmax = block_.answer(block_.asked.softmax, r);
      reference_[r] = softmax[0];
      factor_[r] = softmax[1];
    }
  }

  void run_tile() {
    visible_.k_begin = block_.k_begin;
    visible_.k_count = block_.k_count;
    panels_.begin_tile(block_.k_begin, block_.k_count);
    if (p_.k.dtype == DType::i8) panels_.read_scales(k_scale_);
    if (alibi_) {
      origin_ = q_position(p_.score, sequence_, block_.token_begin);
      for (std::int64_t j = 0; j < B::kTile; ++j) {
        k_offset_[j] = j < block_.k_count
                           ? static_cast<T>(k_position(p_.score, block_.k_begin + j) - origin_)
                           : T(0);
      }
    }
    sums_.begin_tile();
    answers_.begin_tile();
    for (std::int64_t strip = 0; strip < rows_.strips; ++strip) run_strip(strip);
    sums_.end_tile();
  }

  void run_strip(std::int64_t strip) {
    const std::int64_t first = rows_.strip_begin(strip), last = rows_.strip_begin(strip + 1) - 1;
    if (!sums_.wants_rows(first, last) && !answers_.wants_rows(first, last)) return;
    const int height = static_cast<int>(last + 1 - first);
    bool masked = visible_.partial || modified_ || block_.k_count % B::kLanes != 0;
    std::int64_t begin = 0, end = block_.k_count;  // columns that some row of the strip sees
    std::uint64_t any[kWords] = {}, all[kWords];
    std::fill_n(all, kWords, ~std::uint64_t{0});
    for (int r = 0; r < height; ++r) {
      std::uint64_t* words = visible_words_ + r * kWords;
      visible_.read(rows_.token[first + r] - block_.token_begin, block_.head_in_group(first + r),
                    words);
      for (int w = 0; w < kWords; ++w) {
        any[w] |= words[w];
        all[w] &= words[w];
      }
    }
    if (!VisibleTile<T>::span_of(any, begin, end)) return;
    if (masked) {
      bool whole = end == B::kTile;
      for (int w = 0; w < kWords; ++w) whole = whole && all[w] == ~std::uint64_t{0};
      masked = modified_ || !whole;
    }
    const std::int64_t from = begin / B::kLanes * B::kLanes, to = round_up(end, B::kLanes);
    multiply_keys(first, height, from, to);
    if (modified_) {
      modify_scores(Strip<T>{scores_, visible_words_, height, rows_.token + first,
                             rows_.head + first, &sequence_, p_.group, block_.k_begin, from, end},
                    p_.score);
    }
    for (int r = 0; r < height; ++r) {
      T largest;
      if (masked)
        largest = alibi_ ? probabilities<true, true>(first, r, from, to)
                         : probabilities<true, false>(first, r, from, to);
      else
        largest = alibi_ ? probabilities<false, true>(first, r, from, to)
                         : probabilities<false, false>(first, r, from, to);
      const T factor = factor_[first + r];
      const ObservedRow<T> row{first + r,
                               scores_ + r * B::kStride,
                               visible_words_ + r * kWords,
                               from,
                               to,
                               std::min(to, block_.k_count),
                               largest,
                               factor == factor};
      sums_.add(row);
      answers_.add(row);
    }
    answers_.add_to_sets(first, height, scores_, visible_words_);
  }

  // Scores of the strip at columns [from, to), as the forward kernel has them.
  void multiply_keys(std::int64_t first, int height, std::int64_t from, std::int64_t to) {
    const Kernels& kernels = kKernels[static_cast<std::size_t>(height - 1)];
    for (std::int64_t j = from / B::kPanel * B::kPanel; j < to; j += B::kPanel) {
      const std::int64_t skip = j < from ? B::kLanes : 0;
      const bool one = skip > 0 || to < j + B::kPanel;
      (one ? kernels.one : kernels.two)(rows_.queries(first), panels_.at(j) + skip, p_.width,
                                        scores_ + j + skip, top_);
    }
    if (p_.k.dtype == DType::i8) scale_scores(height, from, to);
  }

  void scale_scores(int height, std::int64_t from, std::int64_t to) {
    const D d;
    for (int r = 0; r < height; ++r) {
      T* s = scores_ + r * B::kStride;
      for (std::int64_t j = from; j < to; j += B::kLanes)
        hn::Store(hn::Mul(hn::Load(d, s + j), hn::Load(d, k_scale_ + j)), d, s + j);
    }
  }

  // Scores of row r to probabilities, in place; returns the largest.
  template <bool kMasked, bool kAlibi>
  HWY_INLINE T probabilities(std::int64_t first, int r, std::int64_t from, std::int64_t to) {
    const D d;
    T* HWY_RESTRICT s = scores_ + r * B::kStride;
    [[maybe_unused]] const std::uint64_t* visible = visible_words_ + r * kWords;
    const std::int64_t at = first + r;
    const auto shift = hn::Set(d, reference_[at]), factor = hn::Set(d, factor_[at]);
    auto top = hn::Zero(d);
    [[maybe_unused]] hn::Vec<D> slope, q;
    if constexpr (kAlibi) {
      slope = hn::Set(
          d, static_cast<T>(p_.score.alibi_slopes[rows_.head[at]]) * static_cast<T>(kLog2e));
      q = hn::Set(d, static_cast<T>(q_position(p_.score, sequence_, rows_.token[at]) - origin_));
    }
    for (std::int64_t j = from; j < to; j += B::kLanes) {
      auto x = hn::Load(d, s + j);
      if constexpr (kAlibi) {
        x = hn::NegMulAdd(slope, hn::Abs(hn::Sub(hn::Load(d, k_offset_ + j), q)), x);
      }
      auto p = hn::Mul(exp2(d, hn::Sub(x, shift)), factor);
      if constexpr (kMasked) p = hn::IfThenElseZero(lanes_of(d, visible, j), p);
      hn::Store(p, d, s + j);
      top = hn::Max(top, p);
    }
    return hn::GetLane(hn::MaxOfLanes(d, top));
  }

  // Micro-kernels by height, for two vectors of keys and for one.
  struct Kernels {
    void (*two)(const T*, const T*, std::int64_t, T*, T*);
    void (*one)(const T*, const T*, std::int64_t, T*, T*);
  };
  template <std::size_t... kIndex>
  static constexpr std::array<Kernels, sizeof...(kIndex)> make_kernels(
      std::index_sequence<kIndex...>) {
    return {{{&score_panel<static_cast<int>(kIndex) + 1, 2, T>,
              &score_panel<static_cast<int>(kIndex) + 1, 1, T>}...}};
  }
  static constexpr std::array<Kernels, B::kRows> kKernels =
      make_kernels(std::make_index_sequence<B::kRows>());

  const ForwardParams& p_;
  const ForwardBlock& forward_;
  const Sequence& sequence_;
  BlockRows<T> rows_;
  ObservedBlock<T> block_;
  QuerySums<T> sums_;
  RowAnswers<T> answers_;
  T *scores_, *top_;              // [kRows][kStride], [kRows][kLanes]
  T *k_offset_, *k_scale_;        // [kTile]
  T *reference_, *factor_;        // [rows] of the softmax
  std::uint64_t* visible_words_;  // [kRows][kTile / 64]
  KeyPanels<T> panels_;
  const bool modified_, alibi_;
  const std::size_t bytes_;
  VisibleTile<T> visible_;
  std::int64_t origin_ = 0;
};

template <class T>
void run_observe(const ForwardParams& params, const ObserveParams& asked, const ForwardBlock& block,
                 void* workspace) {
  Observe<T>(params, asked, block, Arena(workspace)).run();
}

template <class T>
std::size_t workspace_bytes(const ForwardParams& params, const ObserveParams& asked,
                            std::int64_t tokens) {
  ForwardParams sizes;
  sizes.group = params.group;
  sizes.width = params.width;
  sizes.v_width = params.v_width;
  ForwardBlock block;
  block.token_count = tokens;
  return Observe<T>(sizes, asked, block, Arena(nullptr)).bytes();
}

const ObserveKernel& observe_kernel_of(DType dtype) {
  static constexpr ObserveKernel kFloat{&workspace_bytes<float>, &run_observe<float>},
      kDouble{&workspace_bytes<double>, &run_observe<double>};
  return dtype == DType::f64 ? kDouble : kFloat;
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const ObserveKernel& observe_kernel(Isa isa, DType dtype) {
  ATTN_RETURN_BY_ISA(isa, observe_kernel_of(dtype));
}

}  // namespace attn::kernels
#endif
