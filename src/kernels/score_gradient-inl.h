// The derivative of what scores-inl.h does to a strip, last step first: custom, then bias, T5 and
// ALiBi (whose gradients are sums), then soft cap. Included once a target.
#if defined(ATTN_KERNELS_SCORE_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_SCORE_GRADIENT_INL_H_
#undef ATTN_KERNELS_SCORE_GRADIENT_INL_H_
#else
#define ATTN_KERNELS_SCORE_GRADIENT_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "kernels/scores-inl.h"
#include "kernels/visible-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// d [rows][kStride]: the gradient with respect to the scores of a strip, 0 where a pair is hidden;
// strip.capped and strip.given are what modify_scores kept.
template <class T>
class ScoreGradients {
  using B = Blocking<T>;
  using D = typename B::D;

 public:
  // slopes [tiles][group], t5 [tiles][group][2 * t5_reach + 1]; null: not asked.
  ScoreGradients(const ScoreParams& score, const ScoreGradient* custom, const Bias& d_bias,
                 double* slopes, double* t5)
      : p_(score), custom_(custom), d_bias_(d_bias), slopes_(slopes), t5_(t5) {}

  bool any() const {
    return p_.soft_cap > 0 || custom_ != nullptr || d_bias_.data != nullptr || slopes_ != nullptr ||
           t5_ != nullptr;
  }

  // `tile` counts from the first of slopes and t5.
  void run(const Strip<T>& strip, std::int64_t tile, T* d) const {
    if (custom_ != nullptr) call_custom_gradient(strip, d);
    for (int r = 0; r < strip.rows; ++r) {
      T* row = d + r * B::kStride;
      const std::int64_t head = tile * strip.group + strip.head[r] % strip.group;
      if (d_bias_.data != nullptr) add_to_bias(strip, r, row);
      if (slopes_ != nullptr) slopes_[head] -= distance_sum(strip, r, row);
      if (t5_ != nullptr) add_to_t5(strip, r, row, t5_ + head * (2 * p_.t5_reach + 1));
      if (p_.soft_cap > 0) through_cap(strip, strip.capped + r * B::kStride, row);
    }
  }

 private:
  // One call a head, as call_custom.
  void call_custom_gradient(const Strip<T>& strip, T* d) const {
    for (int first = 0; first < strip.rows && first < strip.group; ++first) {
      std::int64_t tokens[B::kRows];
      int rows = 0;
      for (std::int64_t r = first; r < strip.rows; r += strip.group)
        tokens[rows++] = strip.token[r];
      ScoreGradientTile tile;
      tile.s.batch = strip.sequence->batch;
      tile.s.head = strip.head[first];
      tile.s.q = {tokens, static_cast<std::size_t>(rows)};
      tile.s.k_begin = strip.k_begin + strip.begin;
      tile.s.k_count = strip.end - strip.begin;
      tile.s.stride = strip.group * B::kStride;
      T* given = strip.given + first * B::kStride + strip.begin;
      T* to = d + first * B::kStride + strip.begin;
      if constexpr (sizeof(T) == 4) {
        tile.s.s32 = given;
        tile.d32 = to;
      } else {
        tile.s.s64 = given;
        tile.d64 = to;
      }
      (*custom_)(tile);
    }
    // Whatever it made of pairs that are hidden.
    for (int r = 0; r < strip.rows; ++r) {
      const std::uint64_t* visible = strip.visible + r * (B::kTile / 64);
      T* row = d + r * B::kStride;
      for (std::int64_t j = strip.begin; j < strip.end; j += B::kLanes) {
        const auto lanes = lanes_of(D(), visible, j);
        hn::Store(hn::IfThenElseZero(lanes, hn::Load(D(), row + j)), D(), row + j);
      }
    }
  }

  void add_to_bias(const Strip<T>& strip, int r, const T* row) const {
    const Strides& steps = d_bias_.strides;
    T* to = static_cast<T*>(const_cast<void*>(d_bias_.data)) + strip.sequence->batch * steps[0] +
            strip.head[r] * steps[1] + strip.token[r] * steps[2] + strip.k_begin * steps[3];
    for (std::int64_t j = strip.begin; j < strip.end; ++j) to[j * steps[3]] += row[j];
  }

  T distance_sum(const Strip<T>& strip, int r, const T* row) const {
    const std::int64_t q = q_position(p_, *strip.sequence, strip.token[r]);
    if (p_.k_positions != nullptr || p_.far_positions) {
      T sum = 0;
      for (std::int64_t j = strip.begin; j < strip.end; ++j)
        sum += T(std::abs(q - k_position(p_, strip.k_begin + j))) * row[j];
      return sum;
    }
    const D d;
    auto sum = hn::Zero(d);
    auto distance = hn::Iota(d, T(strip.k_begin + strip.begin - q));
    for (std::int64_t j = strip.begin; j < strip.end; j += B::kLanes) {
      sum = hn::MulAdd(hn::Abs(distance), load_to(strip, row, j), sum);
      distance = hn::Add(distance, hn::Set(d, T(B::kLanes)));
    }
    return hn::GetLane(hn::SumOfLanes(d, sum));
  }

  void add_to_t5(const Strip<T>& strip, int r, const T* row, double* sums) const {
    const std::int64_t reach = p_.t5_reach;
    const std::int64_t q = q_position(p_, *strip.sequence, strip.token[r]);
    std::int64_t begin = strip.begin, end = strip.end;
    if (p_.k_positions == nullptr) {
      // Keys beyond the reach on either side share one entry.
      begin = std::clamp(q - reach - strip.k_begin, strip.begin, strip.end);
      end = std::clamp(q + reach - strip.k_begin, begin, strip.end);
      for (std::int64_t j = strip.begin; j < begin; ++j) sums[0] += static_cast<double>(row[j]);
      for (std::int64_t j = end; j < strip.end; ++j) sums[2 * reach] += static_cast<double>(row[j]);
    }
    for (std::int64_t j = begin; j < end; ++j) {
      const std::int64_t relative = k_position(p_, strip.k_begin + j) - q;
      sums[std::clamp(relative, -reach, reach) + reach] += static_cast<double>(row[j]);
    }
  }

  // d tanh(x)/dx = 1 - tanh(x)^2.
  void through_cap(const Strip<T>& strip, const T* capped, T* row) const {
    const D d;
    const auto inverse = hn::Set(d, T(1 / (p_.soft_cap * kLog2e)));
    for (std::int64_t j = strip.begin; j < strip.end; j += B::kLanes) {
      const auto x = hn::Load(d, row + j);
      const auto t = hn::Mul(hn::Load(d, capped + j), inverse);
      const auto y = hn::NegMulAdd(hn::Mul(t, t), x, x);
      // A hidden pair's cap may be NaN.
      hn::Store(hn::IfThenElse(hn::Eq(x, hn::Zero(d)), x, y), d, row + j);
    }
  }

  // Columns past the last are not part of a sum.
  HWY_INLINE hn::Vec<D> load_to(const Strip<T>& strip, const T* row, std::int64_t j) const {
    const D d;
    const auto left = static_cast<std::size_t>(strip.end - j);
    const auto x = hn::Load(d, row + j);
    return strip.end - j >= B::kLanes ? x : hn::IfThenElseZero(hn::FirstN(d, left), x);
  }

  const ScoreParams& p_;
  const ScoreGradient* custom_;
  const Bias& d_bias_;
  double *slopes_, *t5_;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
