#include "kernels/additive.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/additive.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>

#include "kernels/additive-inl.h"
#include "kernels/arena.h"
#include "kernels/by_isa.h"
#include "kernels/micro-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

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
  ATTN_RETURN_BY_ISA(isa, additive_kernel_of(dtype));
}

}  // namespace attn::kernels
#endif
