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
#include <cstring>

#include "kernels/micro-inl.h"
#include "kernels/params.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Keys [begin, end) that some of a few rows sees, and keys [open, close) that all of them see, if
// rows see one interval each.
struct Span {
  std::int64_t begin, end, open, close;
};

// Of rows [first, last) of a block whose first token is `token_begin` and first head `head_begin`;
// all keys when the schedule has no intervals.
inline Span span_of_rows(const Schedule& schedule, std::int64_t k_len, const std::int64_t* token,
                         std::int64_t token_begin, const std::int32_t* head,
                         std::int64_t head_begin, std::int64_t first, std::int64_t last) {
  Span span{k_len, 0, 0, k_len};
  for (std::int64_t r = first; r < last; ++r) {
    Interval seen{0, k_len, 1};
    if (schedule.interval_begin != nullptr) {
      const std::int64_t slot = schedule.slot_of_head[head[r] - head_begin];
      const std::int64_t* bounds = schedule.interval_begin + slot * (schedule.block_tokens + 1);
      if (bounds[0] >= 0) {
        const std::int64_t* at = bounds + token[r] - token_begin;
        if (at[0] == at[1]) {
          span.close = 0;
          continue;
        }
        const Interval &one = schedule.intervals[at[0]], &other = schedule.intervals[at[1] - 1];
        seen = {one.begin, other.end, 1};
        if (at[1] - at[0] > 1 || one.step > 1) span.close = 0;
      }
    }
    span.begin = std::min(span.begin, seen.begin);
    span.end = std::max(span.end, seen.end);
    span.open = std::max(span.open, seen.begin);
    span.close = std::min(span.close, seen.end);
  }
  return span;
}

// Of the keys that a vector at column j holds, those whose bits are set.
template <class D>
HWY_INLINE hn::Mask<D> lanes_of(D d, const std::uint64_t* words, std::int64_t j) {
  const std::uint64_t bits = words[j / 64] >> (j % 64);
  std::uint8_t bytes[8];
  std::memcpy(bytes, &bits, sizeof bytes);
  return hn::LoadMaskBits(d, bytes);
}

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
    if (!partial) return set_range(0, k_count, words);
    const std::int64_t slot = schedule->slot_of_head[head];
    if (schedule->bits != nullptr) {
      const std::uint64_t* row = bits + (slot * schedule->block_tokens + token) * kWords;
      set_range(0, k_count, words);
      for (int w = 0; w < kWords; ++w) words[w] &= row[w];
      return;
    }
    const std::int64_t* bounds = schedule->interval_begin + slot * (schedule->block_tokens + 1);
    if (bounds[0] < 0) return set_range(0, k_count, words);
    const Interval* i = schedule->intervals + bounds[token];
    const Interval* last = schedule->intervals + bounds[token + 1];
    if (last - i == 1 && i->step == 1)  // most masks
      return set_range(i->begin - k_begin, std::min(i->end - k_begin, k_count), words);
    i = std::partition_point(i, last,
                             [this](const Interval& interval) { return interval.end <= k_begin; });
    set_range(0, k_count, words);
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
  // Bits below n of a word.
  static std::uint64_t below(std::int64_t n) {
    return n >= 64 ? ~std::uint64_t{0} : n <= 0 ? 0 : (std::uint64_t{1} << n) - 1;
  }

  // words = bits [begin, end), of which only those of the tile are kept.
  static void set_range(std::int64_t begin, std::int64_t end, std::uint64_t* words) {
    for (int w = 0; w < kWords; ++w) words[w] = below(end - w * 64) & ~below(begin - w * 64);
  }

  void set_bits(const Interval& interval, std::uint64_t* words) const {
    std::int64_t begin = interval.begin - k_begin;
    const std::int64_t end = std::min(interval.end - k_begin, k_count);
    if (interval.step == 1) {
      for (int w = 0; w < kWords; ++w) words[w] |= below(end - w * 64) & ~below(begin - w * 64);
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
