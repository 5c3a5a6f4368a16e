// The observers' sums over queries: mass of each key, by distance and at offsets, and the cells of
// a picture. Included once a target.
#if defined(ATTN_KERNELS_OBSERVE_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_OBSERVE_SUMS_INL_H_
#undef ATTN_KERNELS_OBSERVE_SUMS_INL_H_
#else
#define ATTN_KERNELS_OBSERVE_SUMS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

#include "kernels/arena.h"
#include "kernels/micro-inl.h"
#include "kernels/observe.h"
#include "kernels/observe_block-inl.h"
#include "kernels/scores-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Adding 1.5 * 2^(52 - kFixedBits) to a double rounds it to the fixed point, which is then in its
// low bits: the bits of the sum minus those of the constant.
constexpr double kFixedMagic = 1.5 * static_cast<double>(std::int64_t{1} << (52 - kFixedBits));

inline std::uint64_t to_fixed(double x) {
  return std::bit_cast<std::uint64_t>(x + kFixedMagic) - std::bit_cast<std::uint64_t>(kFixedMagic);
}

inline void add_shared(std::uint64_t& to, std::uint64_t x) {
  if (x != 0) std::atomic_ref(to).fetch_add(x, std::memory_order_relaxed);
}
inline void spoil_shared(std::uint64_t& to) {
  std::atomic_ref(to).fetch_or(kNotFinite, std::memory_order_relaxed);
}
// NaN is the largest.
template <class T>
void raise_shared(T& to, T x) {
  const std::atomic_ref shared(to);
  T now = shared.load(std::memory_order_relaxed);
  while ((x > now || x != x) && now == now) {
    if (shared.compare_exchange_weak(now, x, std::memory_order_relaxed)) break;
  }
}

// Rows of a block are summed in scratch; a tile, or the block, then adds to what threads share.
template <class T>
class QuerySums {
  using B = Blocking<T>;
  using D = typename B::D;
  using DD = hn::ScalableTag<double>;

 public:
  QuerySums(const ObservedBlock<T>& block, Arena& arena)
      : block_(block),
        asked_(block.asked),
        group_(block.params.group),
        diagonal_count_(block.token_count + B::kTile),
        regular_(block.params.score.q_positions == nullptr &&
                 block.params.score.k_positions == nullptr),
        every_tile_(asked_.columns != nullptr || asked_.bins.count > 0 ||
                    (asked_.offsets.count > 0 && !regular_)),
        columns_(arena.take<std::uint64_t>(group_ * B::kTile)),
        largest_(arena.take<T>(group_ * B::kTile)),
        diagonals_(arena.take<std::uint64_t>(asked_.bins.count > 0 ? group_ * diagonal_count_ : 0)),
        offset_mass_(arena.take<std::uint64_t>(group_ * asked_.offsets.count)),
        offset_queries_(arena.take<std::uint64_t>(group_ * asked_.offsets.count)) {
    const auto& cells = asked_.cells;
    in_cells_ = cells.asked() && block.first_query() < cells.q_end &&
                block.end_query() > cells.q_begin && cells.k_begin < cells.k_end;
  }

  void clear() {
    std::fill_n(columns_, group_ * B::kTile, std::uint64_t{0});
    std::fill_n(largest_, group_ * B::kTile, T(0));
    std::fill_n(offset_mass_, group_ * asked_.offsets.count, std::uint64_t{0});
    std::fill_n(offset_queries_, group_ * asked_.offsets.count, std::uint64_t{0});
    if (asked_.bins.count > 0) std::fill_n(diagonals_, group_ * diagonal_count_, std::uint64_t{0});
  }

  bool wants_tile() const {
    if (every_tile_ || cells_touch_tile()) return true;
    const std::int64_t first = block_.sequence.query_start + block_.token_begin,
                       end = block_.k_begin + block_.k_count;
    return first_offset(first - end + 1) !=
           first_offset(first + block_.token_count - block_.k_begin);
  }

  void begin_tile() {
    tile_in_cells_ = cells_touch_tile();
    sums_columns_ = asked_.columns != nullptr || (tile_in_cells_ && asked_.cells.mass != nullptr);
    band_ = kNoBand;
  }

  // Of a tile that is looked at, these rows of the block?
  bool wants_rows(std::int64_t first, std::int64_t last) const {
    if (every_tile_ || asked_.offsets.count > 0) return true;
    return tile_in_cells_ && block_.query_of(first) < asked_.cells.q_end &&
           block_.query_of(last) >= asked_.cells.q_begin;
  }

  void add(const ObservedRow<T>& row) {
    move_to_band(block_.query_of(row.at));
    if (!row.finite) return spoil(row);
    const std::int64_t head = block_.head_in_group(row.at);
    std::uint64_t *columns = columns_ + head * B::kTile, *diagonals = nullptr;
    if (asked_.bins.count > 0) {
      if (regular_)
        diagonals = diagonals_ + head * diagonal_count_ + last_token() - block_.rows.token[row.at];
      else
        add_to_bins(row);
    }
    if (sums_columns_ && diagonals != nullptr)
      add_fixed<true, true>(row, columns, diagonals);
    else if (sums_columns_)
      add_fixed<true, false>(row, columns, diagonals);
    else if (diagonals != nullptr)
      add_fixed<false, true>(row, columns, diagonals);
    if (tile_in_cells_ && band_ >= 0 && asked_.cells.largest.data != nullptr) {
      const D d;
      T* largest = largest_ + head * B::kTile;
      for (std::int64_t j = row.from; j < row.to; j += B::kLanes) {
        hn::Store(hn::Max(hn::Load(d, largest + j), hn::Load(d, row.p + j)), d, largest + j);
      }
    }
    if (asked_.offsets.count > 0) add_to_offsets(row);
  }

  void end_tile() {
    end_band();
    end_diagonals();
  }

  void write() const {
    for (std::int64_t head = 0; head < group_; ++head) {
      for (std::int64_t i = 0; i < asked_.offsets.count; ++i) {
        const std::int64_t from = head * asked_.offsets.count + i,
                           to = block_.head_index(head) * asked_.offsets.count + i;
        add_shared(asked_.offsets.mass[to], offset_mass_[from]);
        add_shared(asked_.offsets.queries[to], offset_queries_[from]);
      }
    }
  }

 private:
  static constexpr std::int64_t kNoBand = -2, kOutside = -1;

  bool cells_touch_tile() const {
    return in_cells_ && block_.first_key() < asked_.cells.k_end &&
           block_.end_key() > asked_.cells.k_begin;
  }

  // A row that is not finite: so are all sums that it is part of.
  void spoil(const ObservedRow<T>& row) {
    const std::int64_t head = block_.head_in_group(row.at), index = block_.head_index(head);
    for (std::int64_t j = row.from; j < row.end; ++j) {
      if (!row.sees(j)) continue;
      const std::int64_t key = block_.first_key() + j;
      if (asked_.columns != nullptr) spoil_shared(asked_.columns[index * asked_.k_len + key]);
      if (asked_.bins.count > 0) {
        spoil_shared(asked_.bins.mass[index * asked_.bins.count + bin_of(distance(row.at, j))]);
      }
      const auto& cells = asked_.cells;
      if (tile_in_cells_ && band_ >= 0 && key >= cells.k_begin && key < cells.k_end) {
        const std::int64_t cell =
            cell_of(key - cells.k_begin, cells.k_end - cells.k_begin, cells.columns);
        if (cells.mass != nullptr) spoil_shared(*cell_mass(head, cell));
        if (cells.largest.data != nullptr) raise_shared(*cell_largest(head, cell), row.p[j]);
      }
    }
    if (asked_.offsets.count == 0) return;
    for_offsets(row, [&](std::int64_t, std::int64_t place) {
      spoil_shared(asked_.offsets.mass[index * asked_.offsets.count + place]);
      ++offset_queries_[head * asked_.offsets.count + place];
    });
  }

  template <bool kColumns, bool kDiagonals>
  HWY_INLINE void add_fixed(const ObservedRow<T>& row, std::uint64_t* HWY_RESTRICT columns,
                            std::uint64_t* HWY_RESTRICT diagonals) {
    const DD d;
    const hn::RebindToUnsigned<DD> du;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const auto magic = hn::Set(d, kFixedMagic);
    for (std::int64_t j = row.from; j < row.to; j += lanes) {
      const auto sum = hn::Add(load_wide(row.p + j), magic);
      const auto fixed = hn::Sub(hn::BitCast(du, sum), hn::BitCast(du, magic));
      if constexpr (kColumns) hn::Store(hn::Add(hn::Load(du, columns + j), fixed), du, columns + j);
      if constexpr (kDiagonals)
        hn::StoreU(hn::Add(hn::LoadU(du, diagonals + j), fixed), du, diagonals + j);
    }
  }

  // Bands are rows of the picture; column sums are gathered over the rows of one.
  void move_to_band(std::int64_t query) {
    if (!sums_columns_ && !tile_in_cells_) return;
    const auto& cells = asked_.cells;
    std::int64_t band = kOutside;
    if (tile_in_cells_ && query >= cells.q_begin && query < cells.q_end) {
      band = cell_of(query - cells.q_begin, cells.q_end - cells.q_begin, cells.rows);
    }
    if (band == band_) return;
    end_band();
    band_ = band;
  }

  // Of `count` things in `cells` equal shares, cell i has [i * count / cells, (i + 1) * count /
  // cells).
  static std::int64_t cell_of(std::int64_t thing, std::int64_t count, std::int64_t cells) {
    return ((thing + 1) * cells - 1) / count;
  }

  void end_band() {
    if (band_ == kNoBand) return;
    for (std::int64_t head = 0; head < group_; ++head) {
      std::uint64_t* sums = columns_ + head * B::kTile;
      T* largest = largest_ + head * B::kTile;
      if (band_ != kOutside) add_to_cells(head, sums, largest);
      if (asked_.columns != nullptr) {
        std::uint64_t* to =
            asked_.columns + block_.head_index(head) * asked_.k_len + block_.first_key();
        for (std::int64_t j = 0; j < block_.k_count; ++j) add_shared(to[j], sums[j]);
      }
      std::fill_n(sums, B::kTile, std::uint64_t{0});
      std::fill_n(largest, B::kTile, T(0));
    }
    band_ = kNoBand;
  }

  void add_to_cells(std::int64_t head, const std::uint64_t* sums, const T* largest) {
    const auto& cells = asked_.cells;
    const std::int64_t keys = cells.k_end - cells.k_begin, key = block_.first_key() - cells.k_begin;
    const std::int64_t end = std::min(block_.k_count, keys - key);
    for (std::int64_t j = std::max<std::int64_t>(0, -key); j < end;) {
      const std::int64_t cell = cell_of(key + j, keys, cells.columns);
      const std::int64_t cell_end = std::min(end, (cell + 1) * keys / cells.columns - key);
      std::uint64_t mass = 0;
      T top = 0;
      for (; j < cell_end; ++j) {
        mass += sums[j];
        top = std::max(top, largest[j]);
      }
      if (cells.mass != nullptr) add_shared(*cell_mass(head, cell), mass);
      if (cells.largest.data != nullptr) raise_shared(*cell_largest(head, cell), top);
    }
  }
  std::uint64_t* cell_mass(std::int64_t head, std::int64_t cell) const {
    const auto& cells = asked_.cells;
    return cells.mass + (block_.head_index(head) * cells.rows + band_) * cells.columns + cell;
  }
  T* cell_largest(std::int64_t head, std::int64_t cell) const {
    return block_.answers(asked_.cells.largest, head, band_) + cell;
  }

  std::int64_t last_token() const { return block_.token_begin + block_.token_count - 1; }
  std::int64_t distance(std::int64_t at, std::int64_t j) const {
    const ScoreParams& score = block_.params.score;
    return q_position(score, block_.sequence, block_.rows.token[at]) -
           k_position(score, block_.k_begin + j);
  }
  std::int64_t bin_of(std::int64_t distance) const {
    const auto& bins = asked_.bins;
    if (distance < bins.first) return 0;
    return std::min(bins.count - 1, (distance - bins.first) / bins.step + 1);
  }

  // Diagonal x of the tile has distance q - k of its last token and key 0, less x.
  void end_diagonals() {
    if (asked_.bins.count == 0 || !regular_) return;
    const std::int64_t farthest = block_.sequence.query_start + last_token() - block_.k_begin;
    for (std::int64_t head = 0; head < group_; ++head) {
      std::uint64_t* diagonals = diagonals_ + head * diagonal_count_;
      std::uint64_t* bins = asked_.bins.mass + block_.head_index(head) * asked_.bins.count;
      for (std::int64_t x = 0; x < diagonal_count_;) {
        const std::int64_t bin = bin_of(farthest - x);
        // The bin's smallest distance is the last diagonal in it.
        const std::int64_t least = bin == 0 ? farthest - diagonal_count_
                                            : asked_.bins.first + (bin - 1) * asked_.bins.step;
        const std::int64_t end = std::min(diagonal_count_, farthest - least + 1);
        std::uint64_t mass = 0;
        for (; x < end; ++x) mass += diagonals[x];
        add_shared(bins[bin], mass);
      }
      std::fill_n(diagonals, diagonal_count_, std::uint64_t{0});
    }
  }

  // Positions in any order: pair by pair.
  void add_to_bins(const ObservedRow<T>& row) {
    std::uint64_t* bins =
        asked_.bins.mass + block_.head_index(block_.head_in_group(row.at)) * asked_.bins.count;
    for (std::int64_t j = row.from; j < row.end; ++j) {
      add_shared(bins[bin_of(distance(row.at, j))], to_fixed(static_cast<double>(row.p[j])));
    }
  }

  const std::int64_t* first_offset(std::int64_t distance) const {
    const auto& offsets = asked_.offsets;
    return std::lower_bound(offsets.values, offsets.values + offsets.count, distance);
  }

  // Calls f(column, place of its offset) for the visible keys at an offset.
  template <class F>
  HWY_INLINE void for_offsets(const ObservedRow<T>& row, F&& f) const {
    const std::int64_t* values = asked_.offsets.values;
    if (regular_) {
      const std::int64_t farthest = distance(row.at, 0);
      const std::int64_t* end = first_offset(farthest + 1);
      for (const std::int64_t* x = first_offset(farthest - block_.k_count + 1); x != end; ++x) {
        if (row.sees(farthest - *x)) f(farthest - *x, x - values);
      }
      return;
    }
    for (std::int64_t j = row.from; j < row.end; ++j) {
      if (!row.sees(j)) continue;
      const std::int64_t its_distance = distance(row.at, j);
      const std::int64_t* x = first_offset(its_distance);
      if (x != values + asked_.offsets.count && *x == its_distance) f(j, x - values);
    }
  }

  void add_to_offsets(const ObservedRow<T>& row) {
    const std::int64_t base = block_.head_in_group(row.at) * asked_.offsets.count;
    for_offsets(row, [&](std::int64_t j, std::int64_t place) {
      offset_mass_[base + place] += to_fixed(static_cast<double>(row.p[j]));
      ++offset_queries_[base + place];
    });
  }

  const ObservedBlock<T>& block_;
  const ObserveParams& asked_;
  const std::int64_t group_, diagonal_count_;
  const bool regular_;  // positions are consecutive
  const bool every_tile_;
  std::uint64_t* columns_;                        // [group][kTile] over the rows of a band
  T* largest_;                                    // [group][kTile] of the rows of a band
  std::uint64_t* diagonals_;                      // [group][diagonal_count_] of a tile
  std::uint64_t *offset_mass_, *offset_queries_;  // [group][offsets]
  bool in_cells_ = false, tile_in_cells_ = false, sums_columns_ = false;
  std::int64_t band_ = kNoBand;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
