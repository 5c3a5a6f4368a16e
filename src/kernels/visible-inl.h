// Which keys of a tile a row sees, as bits. Included once a target (for the tile size).
#if defined(ATTN_KERNELS_VISIBLE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_VISIBLE_INL_H_
#undef ATTN_KERNELS_VISIBLE_INL_H_
#else
#define ATTN_KERNELS_VISIBLE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/micro-inl.h"
#include "kernels/params.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

// The tile [k_begin, k_begin + k_count) of one block of rows.
template <class T>
struct VisibleTile {
  using B = Blocking<T>;
  static constexpr std::int64_t kWords = B::kTile / 64;

  const Schedule* schedule = nullptr;
  bool partial = false;                 // else every row sees every key
  const std::uint64_t* bits = nullptr;  // of this tile, when the schedule has bits
  std::int64_t k_begin = 0, k_count = 0;

  // Words of the row of `token` (in its block) for head `head` (in its group).
  void read(std::int64_t token, std::int64_t head, std::uint64_t* words) const {
    for (int w = 0; w < kWords; ++w) {
      const std::int64_t left = k_count - w * 64;
      words[w] = left >= 64 ? ~std::uint64_t{0} : left <= 0 ? 0 : (std::uint64_t{1} << left) - 1;
    }
    if (!partial) return;
    const std::int64_t slot = schedule->slot_of_head[head];
    if (schedule->bits != nullptr) {
      const std::uint64_t* row = bits + (slot * schedule->block_tokens + token) * kWords;
      for (int w = 0; w < kWords; ++w) words[w] &= row[w];
      return;
    }
    const std::int64_t* bounds = schedule->interval_begin + slot * (schedule->block_tokens + 1);
    if (bounds[0] < 0) return;
    const Interval* last = schedule->intervals + bounds[token + 1];
    const Interval* i =
        std::partition_point(schedule->intervals + bounds[token], last,
                             [this](const Interval& interval) { return interval.end <= k_begin; });
    std::uint64_t seen[kWords] = {};
    for (; i != last && i->begin < k_begin + k_count; ++i) set_bits(*i, seen);
    for (int w = 0; w < kWords; ++w) words[w] &= seen[w];
  }

  // First and one past the last bit; false when none is set.
  static bool span_of(const std::uint64_t* words, std::int64_t& begin, std::int64_t& end) {
    int lo = 0, hi = kWords - 1;
    while (lo < kWords && words[lo] == 0) ++lo;
    if (lo == kWords) return false;
    while (words[hi] == 0) --hi;
    begin = lo * 64 + std::countr_zero(words[lo]);
    end = hi * 64 + 64 - std::countl_zero(words[hi]);
    return true;
  }

  // The first run of set bits, [begin, end); empty when none is set.
  static void first_run(const std::uint64_t* words, std::int64_t& begin, std::int64_t& end) {
    begin = end = 0;
    int w = 0;
    while (w < kWords && words[w] == 0) ++w;
    if (w == kWords) return;
    const int first = std::countr_zero(words[w]);
    begin = w * 64 + first;
    end = begin + std::countr_one(words[w] >> first);
    while (end == (w + 1) * 64 && ++w < kWords) end += std::countr_one(words[w]);
  }

 private:
  void set_bits(const Interval& interval, std::uint64_t* words) const {
    std::int64_t begin = interval.begin - k_begin;
    const std::int64_t end = std::min(interval.end - k_begin, k_count);
    if (interval.step == 1) {
      begin = std::max<std::int64_t>(begin, 0);
      for (int w = 0; w < kWords; ++w) {
        const std::int64_t lo = std::clamp<std::int64_t>(begin - w * 64, 0, 64);
        const std::int64_t hi = std::clamp<std::int64_t>(end - w * 64, 0, 64);
        if (lo >= hi) continue;
        const std::uint64_t below_hi = hi == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << hi) - 1;
        words[w] |= below_hi & ~((std::uint64_t{1} << lo) - 1);
      }
      return;
    }
    if (begin < 0) begin += (-begin + interval.step - 1) / interval.step * interval.step;
    for (; begin < end; begin += interval.step)
      words[begin / 64] |= std::uint64_t{1} << (begin % 64);
  }
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
