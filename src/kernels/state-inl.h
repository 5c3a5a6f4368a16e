// The state of softmax rows over some keys, and its fold with the state over later keys. Included
// once a target.
#if defined(ATTN_KERNELS_STATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_STATE_INL_H_
#undef ATTN_KERNELS_STATE_INL_H_
#else
#define ATTN_KERNELS_STATE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/arena.h"
#include "kernels/exp2-inl.h"
#include "kernels/micro-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

// Rows of a block over the keys of a segment, or of all segments so far. With m = max (log2 units;
// -infinity: nothing seen) and s a score in log2 units:
template <class T>
struct State {
  using B = Blocking<T>;
  T* out;       // sum of 2^(s - m) v, laid out [strip][value panel][row of strip][kPanel]
  T* max;       // [rows] m, up to the rescaling threshold below the largest score
  T* sum;       // [rows] sum of 2^(s - m)
  T* weighted;  // [rows] sum of 2^(s - m) (s - m); this and the next three only when asked for
  T* squares;   // [rows] sum of 4^(s - m)
  T* seen;      // [rows] visible keys
  T* top;       // [rows] largest score
  std::uint8_t* touched;  // [strips] whether `out` was written; else it stands for zeros

  State() = default;
  State(Arena& arena, std::int64_t rows, std::int64_t v_padded) {
    const std::int64_t padded = round_up(rows, B::kLanes);  // folds go by whole vectors
    out = arena.take<T>(rows * v_padded);
    for (T** row : {&max, &sum, &weighted, &squares, &seen, &top}) *row = arena.take<T>(padded);
    touched = arena.take<std::uint8_t>(rows);
  }

  void clear(std::int64_t rows) const {
    const std::int64_t padded = round_up(rows, B::kLanes);
    std::fill_n(touched, rows, std::uint8_t{0});
    for (T* row : {sum, weighted, squares, seen}) std::fill_n(row, padded, T(0));
    for (T* row : {max, top}) std::fill_n(row, padded, -std::numeric_limits<T>::infinity());
  }

  // Makes the outputs of a strip, rows [begin, end), zeros if nothing has written them; returns
  // whether that was so.
  bool touch(std::int64_t strip, std::int64_t begin, std::int64_t end,
             std::int64_t v_padded) const {
    if (touched[strip] != 0) return false;
    touched[strip] = 1;
    std::fill(out + begin * v_padded, out + end * v_padded, T(0));
    return true;
  }
};

// What a row's weights become when its maximum moves; the difference of maxima is clamped so that
// an empty side's weight 0 does not meet an infinity.
template <class D>
HWY_INLINE hn::Vec<D> clamped_difference(D d, hn::Vec<D> difference) {
  return hn::Max(difference, hn::Set(d, hn::TFromD<D>(-10000)));
}

// Folds `later` into `before`, in key order. Where a row saw nothing on one side, its outputs are
// those of the other. `weights` is scratch of two padded rows.
template <class T, class StripBegin>
void fold(const State<T>& before, const State<T>& later, std::int64_t rows, std::int64_t strips,
          std::int64_t v_padded, bool statistics, const StripBegin& strip_begin, T* weights) {
  using B = Blocking<T>;
  const typename B::D d;
  constexpr T kNothing = -1;  // as a weight
  T *weight_before = weights, *weight_later = weights + round_up(rows, B::kLanes);
  for (std::int64_t r = 0; r < rows; r += B::kLanes) {
    const auto a = hn::Load(d, before.max + r), b = hn::Load(d, later.max + r);
    const auto top = hn::Max(a, b);
    const auto nothing = hn::Eq(top, hn::Set(d, -std::numeric_limits<T>::infinity()));
    const auto reference = hn::IfThenElse(nothing, hn::Zero(d), top);
    const auto move_a = hn::Sub(a, reference), move_b = hn::Sub(b, reference);
    const auto wa = exp2(d, move_a), wb = exp2(d, move_b);
    hn::Store(top, d, before.max + r);
    const auto sum_a = hn::Load(d, before.sum + r), sum_b = hn::Load(d, later.sum + r);
    const auto weight = [&](hn::Vec<typename B::D> max, hn::Vec<typename B::D> sum,
                            hn::Vec<typename B::D> w) {
      const auto none = hn::And(hn::Eq(max, hn::Set(d, -std::numeric_limits<T>::infinity())),
                                hn::Eq(sum, hn::Zero(d)));
      return hn::IfThenElse(none, hn::Set(d, kNothing), w);
    };
    hn::Store(weight(a, sum_a, wa), d, weight_before + r);
    hn::Store(weight(b, sum_b, wb), d, weight_later + r);
    hn::Store(hn::MulAdd(sum_b, wb, hn::Mul(sum_a, wa)), d, before.sum + r);
    if (!statistics) continue;
    const auto moved = [&](const State<T>& s, hn::Vec<typename B::D> move,
                           hn::Vec<typename B::D> sum, hn::Vec<typename B::D> w) {
      return hn::Mul(w, hn::MulAdd(clamped_difference(d, move), sum, hn::Load(d, s.weighted + r)));
    };
    hn::Store(hn::Add(moved(before, move_a, sum_a, wa), moved(later, move_b, sum_b, wb)), d,
              before.weighted + r);
    const auto squares_a = hn::Mul(hn::Load(d, before.squares + r), hn::Mul(wa, wa));
    const auto squares_b = hn::Mul(hn::Load(d, later.squares + r), hn::Mul(wb, wb));
    hn::Store(hn::Add(squares_a, squares_b), d, before.squares + r);
    hn::Store(hn::Add(hn::Load(d, before.seen + r), hn::Load(d, later.seen + r)), d,
              before.seen + r);
    hn::Store(hn::Max(hn::Load(d, before.top + r), hn::Load(d, later.top + r)), d, before.top + r);
  }
  for (std::int64_t strip = 0; strip < strips; ++strip) {
    if (later.touched[strip] == 0) continue;
    const std::int64_t begin = strip_begin(strip), end_row = strip_begin(strip + 1);
    before.touch(strip, begin, end_row, v_padded);
    std::int64_t at = begin * v_padded;
    for (std::int64_t c = 0; c < v_padded; c += B::kPanel) {
      for (std::int64_t r = begin; r < end_row; ++r, at += B::kPanel) {
        if (weight_later[r] == kNothing) continue;
        const bool copy = weight_before[r] == kNothing;
        const auto wa = hn::Set(d, weight_before[r]), wb = hn::Set(d, weight_later[r]);
        for (std::int64_t i = at; i < at + B::kPanel; i += B::kLanes) {
          const auto added = hn::Load(d, later.out + i);
          const auto kept = hn::Mul(hn::Load(d, before.out + i), wa);
          hn::Store(copy ? added : hn::MulAdd(added, wb, kept), d, before.out + i);
        }
      }
    }
  }
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
