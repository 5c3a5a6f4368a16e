// What scores and gradients of additive attention share: exponentials of queries and keys, and a
// tile of pairs. Included once a target.
#if defined(ATTN_KERNELS_ADDITIVE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_ADDITIVE_INL_H_
#undef ATTN_KERNELS_ADDITIVE_INL_H_
#else
#define ATTN_KERNELS_ADDITIVE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/additive.h"
#include "kernels/arena.h"
#include "kernels/exp2-inl.h"
#include "kernels/micro-inl.h"
#include "kernels/tanh-inl.h"

#ifndef ATTN_KERNELS_ADDITIVE_CONSTANTS
#define ATTN_KERNELS_ADDITIVE_CONSTANTS
namespace attn::kernels {

template <class T>
struct Exponentials;
template <>
struct Exponentials<float> {
  static constexpr float kNear = 43;  // |x| whose e^(2x) and e^(-2x) are normal numbers
  // ln(2) / 2 in two parts; a small integer times the first is exact.
  static constexpr float kHalfLn2 = 0x1.62ep-2f, kRest = 1.59730925e-05f;
  static constexpr float kMost = 0x1p30f;  // tanh is 1 there, and products of four are finite
};
template <>
struct Exponentials<double> {
  static constexpr double kNear = 353;
  static constexpr double kHalfLn2 = 0x1.62e42fefa2p-2, kRest = 3.6855012825838994e-13;
  static constexpr double kMost = 0x1p60;
};

constexpr std::int64_t kTogether = 4;

}  // namespace attn::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// e^(2x) for |x| <= kNear, to a unit or two in the last place: x = n ln(2)/2 + rest.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> exp_of_twice(D d, hn::Vec<D> x) {
  using E = Exponentials<T>;
  constexpr T kTwoLog2e = static_cast<T>(2.8853900817779268147);
  const auto n = hn::Round(hn::Mul(x, hn::Set(d, kTwoLog2e)));
  auto rest = hn::Sub(x, hn::Mul(n, hn::Set(d, E::kHalfLn2)));
  rest = hn::Sub(rest, hn::Mul(n, hn::Set(d, E::kRest)));
  return hn::Mul(exp2(d, hn::Mul(rest, hn::Set(d, kTwoLog2e))), exp2(d, n));
}

// Not within what exp_of_twice takes, NaN included.
template <class D>
HWY_INLINE hn::Mask<D> is_far(D d, hn::Vec<D> x) {
  return hn::Not(hn::Le(hn::Abs(x), hn::Set(d, Exponentials<hn::TFromD<D>>::kNear)));
}

template <class T>
bool prepare_keys(const AdditiveRows& keys, std::int64_t count, std::int64_t width,
                  void* exponentials, void* far_keys) {
  using B = Blocking<T>;
  const typename B::D d;
  T* panel = static_cast<T*>(exponentials);
  T* far_flags = static_cast<T*>(far_keys);
  pack_panel(static_cast<const T*>(keys.data), keys.stride, count, width, panel);
  std::fill(panel + width * B::kPanel, panel + round_up(width, kTogether) * B::kPanel, T(0));
  bool any = false;
  for (std::int64_t half = 0; half < B::kPanel; half += B::kLanes) {
    auto far = hn::MaskFromVec(hn::Zero(d));
    for (std::int64_t c = 0; c < width; ++c) {
      T* at = panel + c * B::kPanel + half;
      const auto x = hn::Load(d, at);
      far = hn::Or(far, is_far(d, x));
      hn::Store(exp_of_twice(d, x), d, at);
    }
    hn::Store(hn::IfThenElseZero(far, hn::Set(d, T(1))), d, far_flags + half);
    if (hn::AllFalse(d, far)) continue;
    any = true;
    for (std::int64_t c = 0; c < width; ++c) {
      T* at = panel + c * B::kPanel + half;
      hn::Store(hn::IfThenElse(far, hn::Set(d, T(1)), hn::Load(d, at)), d, at);
    }
  }
  return any;
}

// 1 / (1 + e^(2x)) without the exponential: (1 - tanh x) / 2.
template <class D>
HWY_INLINE hn::Vec<D> far_fraction(D d, hn::Vec<D> x) {
  const auto half = hn::Set(d, hn::TFromD<D>(0.5));
  return hn::NegMulAdd(half, tanh(d, x), half);
}

// Scratch that a thread keeps between calls; taken while in use.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : memory_(std::move(kept())) {
    if (memory_.size() < bytes + kAlign) memory_.resize(bytes + kAlign);
  }
  ~Scratch() { kept() = std::move(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() {
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.data());
    return reinterpret_cast<void*>((at + kAlign - 1) / kAlign * kAlign);
  }

 private:
  static constexpr std::size_t kAlign = 64;
  static std::vector<char>& kept() {
    thread_local std::vector<char> memory;
    return memory;
  }
  std::vector<char> memory_;
};

// A tile of pairs of one head: its queries, and the panels of its keys.
template <class T>
class Tile {
  using B = Blocking<T>;
  using D = typename B::D;

 public:
  Tile(const AdditiveHead& head, const ScoreTile& tile, Arena& arena)
      : head_(head),
        tile_(tile),
        rows_(static_cast<std::int64_t>(tile.q.size())),
        columns_(round_up(head.width, kTogether)),
        first_(tile.k_begin / B::kPanel),
        panels_((tile.k_begin + tile.k_count + B::kPanel - 1) / B::kPanel - first_),
        q_(arena.take<T>(rows_ * columns_)),
        q_far_(arena.take<bool>(rows_)),
        raw_(arena.take<T>(panels_ * columns_ * B::kPanel)) {}

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  std::int64_t panels() const { return panels_; }
  const T* weights() const { return static_cast<const T*>(head_.weights); }
  const T* q(std::int64_t row) const { return q_ + row * columns_; }
  bool q_far(std::int64_t row) const { return q_far_[row]; }
  const T* q_raw(std::int64_t row) const { return row_of(head_.q, tile_.q[at(row)]); }
  // Panels count from that of the tile's first key.
  const T* keys(std::int64_t panel) const {
    return static_cast<const T*>(head_.panels.exponentials) +
           (first_ + panel) * columns_ * B::kPanel;
  }
  const T* keys_raw(std::int64_t panel) const { return raw_ + panel * columns_ * B::kPanel; }
  bool any_far(std::int64_t panel) const { return head_.panels.any_far[first_ + panel] != 0; }
  hn::Mask<D> far(std::int64_t panel, int half) const {
    const D d;
    const T* flags = static_cast<const T*>(head_.panels.far) + (first_ + panel) * B::kPanel;
    return hn::Ne(hn::Load(d, flags + half * B::kLanes), hn::Zero(d));
  }
  // The tile's column of the first key of a half panel; what is not of the tile is below 0 or not
  // below its count.
  std::int64_t column(std::int64_t panel, int half) const {
    return (first_ + panel) * B::kPanel + half * B::kLanes - tile_.k_begin;
  }

  // e^(2q) of the tile's queries; then, if any pair is far, the keys as they are.
  void prepare() const {
    bool far = false;
    for (std::int64_t r = 0; r < rows_; ++r) far = prepare_query(r) || far;
    for (std::int64_t p = 0; p < panels_; ++p) far = far || any_far(p);
    if (!far) return;
    for (std::int64_t p = 0; p < panels_; ++p) {
      const std::int64_t key = (first_ + p) * B::kPanel;
      T* panel = raw_ + p * columns_ * B::kPanel;
      pack_panel(row_of(head_.k, key), head_.k.stride, std::min(B::kPanel, head_.k_len - key),
                 head_.width, panel);
      std::fill(panel + head_.width * B::kPanel, panel + columns_ * B::kPanel, T(0));
    }
  }

 private:
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  static const T* row_of(const AdditiveRows& rows, std::int64_t i) {
    return static_cast<const T*>(rows.data) + i * rows.stride;
  }

  bool prepare_query(std::int64_t r) const {
    const D d;
    const T* from = q_raw(r);
    T* to = q_ + r * columns_;
    auto far = hn::MaskFromVec(hn::Zero(d));
    HWY_ALIGN T lanes[B::kLanes];
    for (std::int64_t c = 0; c < head_.width; c += B::kLanes) {
      const std::int64_t count = std::min(B::kLanes, head_.width - c);
      std::fill(std::copy_n(from + c, count, lanes), lanes + B::kLanes, T(0));
      const auto x = hn::Load(d, lanes);
      far = hn::Or(far, is_far(d, x));
      hn::Store(exp_of_twice(d, x), d, lanes);
      std::copy_n(lanes, count, to + c);
    }
    std::fill(to + head_.width, to + columns_, T(0));
    return q_far_[r] = !hn::AllFalse(d, far);
  }

  const AdditiveHead& head_;
  const ScoreTile& tile_;
  const std::int64_t rows_, columns_, first_, panels_;
  T* q_;
  bool* q_far_;
  T* raw_;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
