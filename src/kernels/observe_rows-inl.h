// The observers' answers about rows of their own: exact rows, top keys, mass into sets of keys, and
// value norms under the probabilities. Included once a target.
#if defined(ATTN_KERNELS_OBSERVE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_OBSERVE_ROWS_INL_H_
#undef ATTN_KERNELS_OBSERVE_ROWS_INL_H_
#else
#define ATTN_KERNELS_OBSERVE_ROWS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/arena.h"
#include "kernels/micro-inl.h"
#include "kernels/observe.h"
#include "kernels/observe_block-inl.h"
#include "kernels/stored-inl.h"
#include "kernels/visible-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
class RowAnswers {
  using B = Blocking<T>;
  using D = typename B::D;

 public:
  RowAnswers(const ObservedBlock<T>& block, std::int64_t kv_head, Arena& arena)
      : block_(block),
        asked_(block.asked),
        values_(block.params.v, block.sequence, kv_head),
        v_width_(block.params.v_width),
        weighs_(asked_.value_weighted.data != nullptr),
        every_tile_(asked_.top.k > 0 || weighs_),
        v_(arena.take<T>(weighs_ ? B::kTile * round_up(v_width_, B::kPanel) : 0)),
        v_scale_(arena.take<T>(B::kTile)),
        norm_(arena.take<T>(B::kTile)),
        weighted_(arena.take<double>(weighs_ ? block.rows.count : 0)),
        in_set_(arena.take<double>(block.rows.count * asked_.key_sets.sets)),
        top_count_(arena.take<std::int64_t>(asked_.top.k > 0 ? block.rows.count : 0)) {
    exact_begin_ = first_exact(block.first_query());
    exact_end_ = first_exact(block.end_query());
  }

  void clear() {
    if (weighs_) std::fill_n(weighted_, block_.rows.count, 0.0);
    std::fill_n(in_set_, block_.rows.count * asked_.key_sets.sets, 0.0);
    for (std::int64_t r = 0; r < block_.rows.count && asked_.top.k > 0; ++r) {
      top_count_[r] = 0;
      std::fill_n(block_.answer(asked_.top.weights, r), asked_.top.k, T(0));
      std::fill_n(top_keys(r), asked_.top.k, -1);
    }
    for (const auto* row = exact_begin_; row != exact_end_; ++row) {
      for (std::int64_t head = 0; head < block_.params.group; ++head)
        std::fill_n(exact_row(*row, head), asked_.k_len, T(0));
    }
  }

  bool wants_tile() const { return every_tile_ || exact_begin_ != exact_end_ || sets_touch_tile(); }

  void begin_tile() {
    tile_in_sets_ = sets_touch_tile();
    if (weighs_) measure_values();
  }

  // Of a tile that is looked at, these rows of the block?
  bool wants_rows(std::int64_t first, std::int64_t last) const {
    return every_tile_ || tile_in_sets_ ||
           first_exact(block_.query_of(first)) != first_exact(block_.query_of(last) + 1);
  }

  void add(const ObservedRow<T>& row) {
    if (asked_.top.k > 0) row.finite ? insert_top(row) : fill_top(row);
    if (weighs_) weigh_values(row);
    if (exact_begin_ != exact_end_) copy_exact(row);
  }

  // A strip of rows at once, with probabilities and visible keys laid out for the whole tile.
  void add_to_sets(std::int64_t first, int height, const T* p, const std::uint64_t* visible) {
    if (!tile_in_sets_) return;
    const std::int64_t sets = asked_.key_sets.sets;
    const auto* end = first_in_sets(block_.end_key());
    for (const auto* entry = first_in_sets(block_.first_key()); entry != end; ++entry) {
      const std::int64_t j = entry->key - block_.first_key();
      for (int r = 0; r < height; ++r) {
        // Columns that no row of the strip sees were not computed.
        if ((visible[r * (B::kTile / 64) + j / 64] >> (j % 64) & 1) == 0) continue;
        in_set_[(first + r) * sets + entry->set] += static_cast<double>(p[r * B::kStride + j]);
      }
    }
  }

  void write() const {
    for (std::int64_t r = 0; r < block_.rows.count; ++r) {
      if (weighs_) *block_.answer(asked_.value_weighted, r) = static_cast<T>(weighted_[r]);
      for (std::int64_t set = 0; set < asked_.key_sets.sets; ++set) {
        block_.answer(asked_.key_sets.mass, r)[set] =
            static_cast<T>(in_set_[r * asked_.key_sets.sets + set]);
      }
    }
  }

 private:
  const ObserveParams::KeyOfSet* first_in_sets(std::int64_t key) const {
    return std::lower_bound(
        asked_.key_sets.keys, asked_.key_sets.keys + asked_.key_sets.count, key,
        [](const ObserveParams::KeyOfSet& entry, std::int64_t k) { return entry.key < k; });
  }
  bool sets_touch_tile() const {
    return first_in_sets(block_.first_key()) != first_in_sets(block_.end_key());
  }

  const ObserveParams::ExactRow* first_exact(std::int64_t query) const {
    return std::lower_bound(
        asked_.exact.rows, asked_.exact.rows + asked_.exact.count, query,
        [](const ObserveParams::ExactRow& row, std::int64_t q) { return row.query < q; });
  }
  T* exact_row(const ObserveParams::ExactRow& row, std::int64_t head) const {
    return block_.answers(asked_.exact.probabilities, head, row.place);
  }
  void copy_exact(const ObservedRow<T>& row) {
    const std::int64_t query = block_.query_of(row.at), head = block_.head_in_group(row.at);
    for (const auto* to = first_exact(query); to != exact_end_ && to->query == query; ++to) {
      std::copy(row.p + row.from, row.p + row.end,
                exact_row(*to, head) + block_.first_key() + row.from);
    }
  }

  std::int32_t* top_keys(std::int64_t at) const {
    const std::int64_t head = block_.head_index(block_.head_in_group(at));
    return asked_.top.keys + (head * asked_.q_len + block_.query_of(at)) * asked_.top.k;
  }
  std::int32_t key_of(std::int64_t j) const {
    return static_cast<std::int32_t>(block_.first_key() + j);
  }

  // All weights of a row that is not finite are equally unknown: the first keys that it sees stand
  // in the list.
  void fill_top(const ObservedRow<T>& row) {
    std::int64_t& count = top_count_[row.at];
    for (std::int64_t j = row.from; j < row.end && count < asked_.top.k; ++j) {
      if (!row.sees(j)) continue;
      block_.answer(asked_.top.weights, row.at)[count] = row.p[j];
      top_keys(row.at)[count++] = key_of(j);
    }
  }

  void insert_top(const ObservedRow<T>& row) {
    T* weights = block_.answer(asked_.top.weights, row.at);
    std::int32_t* keys = top_keys(row.at);
    std::int64_t& count = top_count_[row.at];
    const std::int64_t k = asked_.top.k;
    std::int64_t j = row.from;
    // Until the list is full, every visible key enters, weight 0 or not.
    for (; j < row.end && count < k; ++j) {
      if (row.sees(j)) insert(weights, keys, count++, row.p[j], key_of(j));
    }
    if (j >= row.end || !(row.largest > weights[k - 1])) return;
    const std::int64_t filled = j;
    const D d;
    for (j = j / B::kLanes * B::kLanes; j < row.to; j += B::kLanes) {
      std::uint8_t bytes[8] = {};
      hn::StoreMaskBits(d, hn::Gt(hn::Load(d, row.p + j), hn::Set(d, weights[k - 1])), bytes);
      std::uint64_t bits;
      std::memcpy(&bits, bytes, sizeof bits);
      for (; bits != 0; bits &= bits - 1) {
        const std::int64_t column = j + std::countr_zero(bits);
        if (column < filled || !(row.p[column] > weights[k - 1])) continue;
        insert(weights, keys, k - 1, row.p[column], key_of(column));
      }
    }
  }

  // Into a list of `count`, behind those at least as large; the place after the last is free or
  // falls out.
  static void insert(T* weights, std::int32_t* keys, std::int64_t count, T weight,
                     std::int32_t key) {
    const std::int64_t place =
        std::partition_point(weights, weights + count, [&](T w) { return w >= weight; }) - weights;
    std::copy_backward(weights + place, weights + count, weights + count + 1);
    std::copy_backward(keys + place, keys + count, keys + count + 1);
    weights[place] = weight;
    keys[place] = key;
  }

  // |v| of each key, summed in double: squares of large floats overflow. Missing keys have 0.
  void measure_values() {
    const Stored& stored = block_.params.v;
    const std::int64_t k_count = block_.k_count;
    values_.for_stretches(block_.k_begin, k_count,
                          [&](std::int64_t at, std::int64_t i, std::int64_t n) {
                            with_type<T>(stored.dtype, [&](auto* type) {
                              const auto* from = static_cast<decltype(type)>(values_.at(at));
                              pack_values(from, values_.stride(), n, v_width_, v_ + i * B::kPanel);
                            });
                          });
    if constexpr (sizeof(T) == 4) {
      if (stored.dtype == DType::i8) values_.read_scales(block_.k_begin, k_count, v_scale_);
    }
    const hn::ScalableTag<double> d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    for (std::int64_t j = 0; j < B::kTile; ++j) {
      norm_[j] = 0;
      if (j >= k_count) continue;
      auto sum = hn::Zero(d);
      for (std::int64_t c = 0; c < v_width_; c += B::kPanel) {
        const T* panel = v_ + c * B::kTile + j * B::kPanel;
        for (std::int64_t i = 0; i < B::kPanel; i += lanes) {
          const auto x = load_wide(panel + i);
          sum = hn::MulAdd(x, x, sum);
        }
      }
      norm_[j] = static_cast<T>(std::sqrt(sum_of_lanes(d, sum)));
      if (stored.dtype == DType::i8) norm_[j] *= std::abs(v_scale_[j]);
    }
  }

  void weigh_values(const ObservedRow<T>& row) {
    const D d;
    auto sum = hn::Zero(d);
    for (std::int64_t j = row.from; j < row.to; j += B::kLanes) {
      // A hidden value may be anything.
      const auto norm = hn::IfThenElseZero(lanes_of(d, row.visible, j), hn::Load(d, norm_ + j));
      sum = hn::MulAdd(hn::Load(d, row.p + j), norm, sum);
    }
    weighted_[row.at] += static_cast<double>(sum_of_lanes(d, sum));
  }

  // In one order, whatever the compiler.
  template <class Tag>
  static hn::TFromD<Tag> sum_of_lanes(Tag d, hn::Vec<Tag> x) {
    HWY_ALIGN hn::TFromD<Tag> lanes[hn::MaxLanes(d)];
    hn::Store(x, d, lanes);
    hn::TFromD<Tag> sum = 0;
    for (std::size_t i = 0; i < hn::Lanes(d); ++i) sum += lanes[i];
    return sum;
  }

  const ObservedBlock<T>& block_;
  const ObserveParams& asked_;
  const StoredRows values_;
  const std::int64_t v_width_;
  const bool weighs_;
  const bool every_tile_;
  T *v_, *v_scale_, *norm_;     // panels of a tile's values; [kTile] scales, norms
  double *weighted_, *in_set_;  // [rows], [rows][sets]
  std::int64_t* top_count_;     // [rows]
  const ObserveParams::ExactRow *exact_begin_, *exact_end_;
  bool tile_in_sets_ = false;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
