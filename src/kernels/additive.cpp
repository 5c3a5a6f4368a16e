#include "kernels/additive.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/additive.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

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

// Sum over columns of weight / (1 + e^(2q) e^(2k)) for the two vectors of a panel.
template <class T>
struct PanelSums {
  hn::Vec<typename Blocking<T>::D> half[2];
};

template <class T>
HWY_INLINE PanelSums<T> near_sums(const T* HWY_RESTRICT q, const T* HWY_RESTRICT weights,
                                  const T* HWY_RESTRICT panel, std::int64_t columns) {
  using B = Blocking<T>;
  const typename B::D d;
  const auto one = hn::Set(d, T(1)), most = hn::Set(d, Exponentials<T>::kMost);
  PanelSums<T> sums{{hn::Zero(d), hn::Zero(d)}};
  for (std::int64_t c = 0; c < columns; c += kTogether, q += kTogether, weights += kTogether) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const T* k = panel + c * B::kPanel + v * B::kLanes;
      const auto below = [&](int i) HWY_ATTR {
        return hn::Min(hn::MulAdd(hn::Set(d, q[i]), hn::Load(d, k + i * B::kPanel), one), most);
      };
      const auto weight = [&](int i) HWY_ATTR { return hn::Set(d, weights[i]); };
      const auto b0 = below(0), b1 = below(1), b2 = below(2), b3 = below(3);
      const auto above01 = hn::MulAdd(weight(0), b1, hn::Mul(weight(1), b0));
      const auto above23 = hn::MulAdd(weight(2), b3, hn::Mul(weight(3), b2));
      const auto b01 = hn::Mul(b0, b1), b23 = hn::Mul(b2, b3);
      const auto above = hn::MulAdd(above01, b23, hn::Mul(above23, b01));
      sums.half[v] = hn::Add(sums.half[v], hn::Div(above, hn::Mul(b01, b23)));
    }
  }
  return sums;
}

// 1 / (1 + e^(2x)) without the exponential: (1 - tanh x) / 2.
template <class D>
HWY_INLINE hn::Vec<D> far_fraction(D d, hn::Vec<D> x) {
  const auto half = hn::Set(d, hn::TFromD<D>(0.5));
  return hn::NegMulAdd(half, tanh(d, x), half);
}

// The same sum for far pairs, from queries and packed keys as they are.
template <class T>
HWY_NOINLINE PanelSums<T> far_sums(const T* HWY_RESTRICT q, const T* HWY_RESTRICT weights,
                                   const T* HWY_RESTRICT panel, std::int64_t width) {
  using B = Blocking<T>;
  const typename B::D d;
  PanelSums<T> sums{{hn::Zero(d), hn::Zero(d)}};
  for (std::int64_t c = 0; c < width; ++c) {
    for (int v = 0; v < 2; ++v) {
      const auto x = hn::Add(hn::Set(d, q[c]), hn::Load(d, panel + c * B::kPanel + v * B::kLanes));
      sums.half[v] = hn::MulAdd(hn::Set(d, weights[c]), far_fraction(d, x), sums.half[v]);
    }
  }
  return sums;
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

// s[0, count) += x, for the lanes that lie there; lane 0 is s[column].
template <class T>
HWY_INLINE void add_lanes(hn::Vec<typename Blocking<T>::D> x, std::int64_t column,
                          std::int64_t count, T* HWY_RESTRICT s) {
  using B = Blocking<T>;
  const typename B::D d;
  if (column >= 0 && column + B::kLanes <= count) {
    hn::StoreU(hn::Add(hn::LoadU(d, s + column), x), d, s + column);
    return;
  }
  HWY_ALIGN T lanes[B::kLanes];
  hn::Store(x, d, lanes);
  const std::int64_t begin = std::max<std::int64_t>(0, column);
  for (std::int64_t j = begin; j < std::min(count, column + B::kLanes); ++j)
    s[j] += lanes[j - column];
}

template <class T>
void add_scores(const AdditiveHead& head, const ScoreTile& given) {
  using B = Blocking<T>;
  const typename B::D d;
  Arena measure(nullptr);
  Tile<T>(head, given, measure);
  Scratch scratch(measure.used());
  Arena arena(scratch.data());
  const Tile<T> tile(head, given, arena);
  tile.prepare();
  T* scores = sizeof(T) == 4 ? reinterpret_cast<T*>(given.s32) : reinterpret_cast<T*>(given.s64);
  const auto sum = hn::Set(d, static_cast<T>(head.sum)),
             scale = hn::Set(d, static_cast<T>(-2 * head.scale));
  for (std::int64_t p = 0; p < tile.panels(); ++p) {
    for (std::int64_t r = 0; r < tile.rows(); ++r) {
      PanelSums<T> sums{{sum, sum}};
      if (!tile.q_far(r)) sums = near_sums(tile.q(r), tile.weights(), tile.keys(p), tile.columns());
      if (tile.q_far(r) || tile.any_far(p)) {
        const PanelSums<T> far =
            far_sums(tile.q_raw(r), tile.weights(), tile.keys_raw(p), head.width);
        for (int v = 0; v < 2; ++v) {
          sums.half[v] = tile.q_far(r) ? far.half[v]
                                       : hn::IfThenElse(tile.far(p, v), far.half[v], sums.half[v]);
        }
      }
      for (int v = 0; v < 2; ++v) {
        add_lanes(hn::MulAdd(scale, sums.half[v], sum), tile.column(p, v), given.k_count,
                  scores + r * given.stride);
      }
    }
  }
}

// Gradients of a tile, four columns at a time: their keys, and the sums of these, stay in the first
// cache while all rows pass.
template <class T>
class Gradients {
  using B = Blocking<T>;
  using D = typename B::D;
  using V = hn::Vec<D>;

 public:
  Gradients(const AdditiveHead& head, const ScoreGradientTile& given, Arena& arena)
      : head_(head),
        given_(given),
        tile_(head, given.s, arena),
        ds_stride_(tile_.panels() * B::kPanel),
        ds_(arena.take<T>(tile_.rows() * ds_stride_)),
        ds_sum_(arena.take<T>(tile_.rows())),
        dv_a_(head.dv_a + given.s.k_begin / B::kTile * tile_.columns()) {}

  void run() const {
    tile_.prepare();
    for (std::int64_t r = 0; r < tile_.rows(); ++r) load_row(r);
    for (std::int64_t c = 0; c < tile_.columns(); c += kTogether) {
      for (std::int64_t r = 0; r < tile_.rows(); ++r) add_row(r, c);
    }
  }

 private:
  // dL/ds of a row by whole panels, 0 beside the tile.
  void load_row(std::int64_t r) const {
    const D d;
    const T* from = (sizeof(T) == 4 ? reinterpret_cast<const T*>(given_.d32)
                                    : reinterpret_cast<const T*>(given_.d64)) +
                    r * given_.s.stride;
    T* to = ds_ + r * ds_stride_;
    std::fill_n(to, ds_stride_, T(0));
    std::copy_n(from, given_.s.k_count, to - tile_.column(0, 0));
    auto sum = hn::Zero(d);
    for (std::int64_t j = 0; j < ds_stride_; j += B::kLanes)
      sum = hn::Add(sum, hn::Load(d, to + j));
    ds_sum_[r] = hn::GetLane(hn::SumOfLanes(d, sum));
  }

  struct Fractions {
    V f[kTogether];
  };

  // Columns [c, c + 4) of row r. With f = 1 / (1 + e^(2(q + k))): tanh is 1 - 2f, and its
  // derivative 4 (f - f^2).
  HWY_INLINE void add_row(std::int64_t r, std::int64_t c) const {
    const D d;
    const std::int64_t panel = tile_.columns() * B::kPanel;
    const T* HWY_RESTRICT q = tile_.q(r) + c;
    const T* HWY_RESTRICT ds_row = ds_ + r * ds_stride_;
    const T* HWY_RESTRICT k = tile_.keys(0) + c * B::kPanel;
    T* HWY_RESTRICT dk = static_cast<T*>(head_.dk) + (k - all_keys());
    const bool q_far = tile_.q_far(r);
    V slopes[kTogether], fractions[kTogether];
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < kTogether; ++i) slopes[i] = fractions[i] = hn::Zero(d);
    for (std::int64_t p = 0; p < tile_.panels(); ++p, k += panel, dk += panel) {
      const bool far = q_far || tile_.any_far(p);
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const auto ds = hn::Load(d, ds_row + p * B::kPanel + v * B::kLanes);
        Fractions of = near_fractions(q, k + v * B::kLanes);
        if (HWY_UNLIKELY(far)) of = with_far(r, c, p, v, ds, of);
#pragma GCC unroll 4
        for (std::int64_t i = 0; i < kTogether; ++i) {
          T* to = dk + i * B::kPanel + v * B::kLanes;
          const auto slope = hn::NegMulAdd(of.f[i], of.f[i], of.f[i]);
          hn::Store(hn::MulAdd(ds, slope, hn::Load(d, to)), d, to);
          slopes[i] = hn::MulAdd(ds, slope, slopes[i]);
          fractions[i] = hn::MulAdd(ds, of.f[i], fractions[i]);
        }
      }
    }
    T* dq = head_.dq.data == nullptr
                ? nullptr
                : static_cast<T*>(const_cast<void*>(head_.dq.data)) +
                      given_.s.q[static_cast<std::size_t>(r)] * head_.dq.stride;
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < kTogether; ++i) {
      const T slope = hn::GetLane(hn::SumOfLanes(d, slopes[i])),
              fraction = hn::GetLane(hn::SumOfLanes(d, fractions[i]));
      dv_a_[c + i] += static_cast<double>(ds_sum_[r] - 2 * fraction);
      if (dq != nullptr && c + i < head_.width) {
        dq[c + i] += static_cast<T>(4 * head_.scale) * tile_.weights()[c + i] * slope;
      }
    }
  }

  const T* all_keys() const { return static_cast<const T*>(head_.panels.exponentials); }

  // Four fractions by one division.
  static HWY_INLINE Fractions near_fractions(const T* HWY_RESTRICT q, const T* HWY_RESTRICT k) {
    const D d;
    const auto one = hn::Set(d, T(1)), most = hn::Set(d, Exponentials<T>::kMost);
    const auto below = [&](int i) HWY_ATTR {
      return hn::Min(hn::MulAdd(hn::Set(d, q[i]), hn::Load(d, k + i * B::kPanel), one), most);
    };
    const auto b0 = below(0), b1 = below(1), b2 = below(2), b3 = below(3);
    const auto b01 = hn::Mul(b0, b1), b23 = hn::Mul(b2, b3);
    const auto inverse = hn::Div(one, hn::Mul(b01, b23));
    const auto f01 = hn::Mul(inverse, b23), f23 = hn::Mul(inverse, b01);
    return {{hn::Mul(f01, b1), hn::Mul(f01, b0), hn::Mul(f23, b3), hn::Mul(f23, b2)}};
  }

  // With those of far pairs in their place; hidden keys may hold NaN.
  HWY_NOINLINE Fractions with_far(std::int64_t r, std::int64_t c, std::int64_t p, int v, V ds,
                                  Fractions near) const {
    const D d;
    const auto hidden = hn::Eq(ds, hn::Zero(d));
    const T* k = tile_.keys_raw(p) + c * B::kPanel + v * B::kLanes;
    for (std::int64_t i = 0; i < kTogether; ++i, k += B::kPanel) {
      const T q = c + i < head_.width ? tile_.q_raw(r)[c + i] : T(0);
      auto far = far_fraction(d, hn::Add(hn::Set(d, q), hn::Load(d, k)));
      far = hn::IfThenElse(hidden, hn::Zero(d), far);
      near.f[i] = tile_.q_far(r) ? far : hn::IfThenElse(tile_.far(p, v), far, near.f[i]);
    }
    return near;
  }

  const AdditiveHead& head_;
  const ScoreGradientTile& given_;
  const Tile<T> tile_;
  const std::int64_t ds_stride_;
  T *ds_, *ds_sum_;
  double* dv_a_;
};

template <class T>
void add_gradients(const AdditiveHead& head, const ScoreGradientTile& given) {
  Arena measure(nullptr);
  Gradients<T>(head, given, measure);
  Scratch scratch(measure.used());
  Arena arena(scratch.data());
  Gradients<T>(head, given, arena).run();
}

template <class T>
const AdditiveKernel& additive_kernel_for() {
  using B = Blocking<T>;
  static constexpr AdditiveKernel kKernel{B::kPanel,        kTogether,      B::kTile,
                                          &prepare_keys<T>, &add_scores<T>, &add_gradients<T>};
  return kKernel;
}

const AdditiveKernel& additive_kernel_of(DType dtype) {
  return dtype == DType::f64 ? additive_kernel_for<double>() : additive_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const AdditiveKernel& additive_kernel(Isa isa, DType dtype) {
  switch (isa) {
#if HWY_TARGETS & HWY_AVX3
    case Isa::avx512: return N_AVX3::additive_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_AVX2
    case Isa::avx2: return N_AVX2::additive_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_NEON
    case Isa::neon: return N_NEON::additive_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_SCALAR
    case Isa::scalar: return N_SCALAR::additive_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_EMU128
    case Isa::scalar: return N_EMU128::additive_kernel_of(dtype);
#endif
    default: throw std::invalid_argument("[kernels] this build has no " + std::string(name(isa)));
  }
}

}  // namespace attn::kernels
#endif
