// What the forward and the backward pass of the matrix-state recurrence share: decays of a chunk,
// states, packing. Included once a target.
//
// With c_i the sum of the chunk's log decays up to token i and r any reference, put
//   Q~_i = q_i e^(c_i - r)    K~_j = k_j e^(r - c_j)    S~ = e^r S_0.
// Then y_i = Q~_i S~ + sum over j <= i of (Q~_i . K~_j) v_j and S_n = e^(c_n - r) (S~ + K~ᵀ V): the
// decays only scale, and one kernel of plain products runs all gates.
#if defined(ATTN_KERNELS_RECURRENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_RECURRENT_INL_H_
#undef ATTN_KERNELS_RECURRENT_INL_H_
#else
#define ATTN_KERNELS_RECURRENT_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/arena.h"
#include "kernels/exp2-inl.h"
#include "kernels/feature_map-inl.h"
#include "kernels/product-inl.h"
#include "kernels/recurrent.h"
#include "kernels/some_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
HWY_INLINE std::int64_t whole_vectors(std::int64_t count) {
  return round_up(count, Blocking<T>::kLanes);
}

template <class T>
const T* element(const Spread& x, std::int64_t batch, std::int64_t head, std::int64_t token) {
  return static_cast<const T*>(x.data) + batch * x.strides[0] + head * x.strides[1] +
         token * x.strides[2];
}
template <class T>
const T* row_of(const Matrix& m, std::int64_t batch, std::int64_t head, std::int64_t token) {
  return static_cast<const T*>(m.data) + batch * m.batch + head * m.head + token * m.length;
}
template <class T>
T* mutable_row_of(const Matrix& m, std::int64_t batch, std::int64_t head, std::int64_t token) {
  return const_cast<T*>(row_of<T>(m, batch, head, token));
}

// Decays of one chunk, as factors. With a number a token they have one column, else one a channel.
template <class T>
class Gates {
 public:
  using B = Blocking<T>;
  using Vec = hn::Vec<typename B::D>;

  // The logarithms of a chunk's factors, to base 2, stay within half of this: e^40.
  static constexpr T kRange = T(115);

  Gates(const RecurrentParams& p, Arena& arena)
      : decay_(p.log_decay),
        any_(decay_.data != nullptr || p.gates != nullptr),
        q_before_(p.bonus.data != nullptr),
        reads_before_(q_before_ || p.rank_one) {
    if (!any_) return;
    // Numbers a token lie together, so that a vector of them is made at once.
    const std::int64_t channels = whole_vectors<T>(decay_.width);
    step_ = by_channel() ? channels : 1;
    const auto factors = [&] { return Rows<T>{arena.take<T>(kRecurrentChunk * step_), step_}; };
    to_q = factors();
    to_k = factors();
    to_before = p.rank_one ? factors() : to_q;
    sums_ = {arena.take<T>((kRecurrentChunk + 1) * step_ + B::kLanes), step_};
    at_start = arena.take<T>(channels);
    at_end = arena.take<T>(channels);
  }

  bool any() const { return any_; }
  bool by_channel() const { return decay_.width > 1; }

  // Factors of the chunk that begins with `token`; how many of `count` tokens it has. `made`: the
  // logarithms, where gates are made.
  std::int64_t fill(std::int64_t batch, std::int64_t head, std::int64_t token, std::int64_t count,
                    const T* made) {
    if (!any()) return count;
    if (made == nullptr && decay_.strides[2] == 0 && filled_ == count)
      return count;  // the same as before
    filled_ = by_channel() ? sum_channels(batch, head, token, count)
                           : sum_tokens(batch, head, token, count, made);
    const typename B::D d;
    for (std::int64_t c = 0; c < step_; c += B::kLanes) {
      const T* last = sums_[filled_] + c;
      const auto middle = ends(by_channel() ? hn::Load(d, last) : hn::Set(d, *last), c);
      const std::int64_t tokens = by_channel() ? 1 : B::kLanes;  // of a vector
      for (std::int64_t i = 0; i < filled_; i += tokens)
        put(hn::LoadU(d, sums_[i] + c), hn::LoadU(d, sums_[i + 1] + c), middle, i * step_ + c);
    }
    return filled_;
  }

  // map(x[i][...]) times its token's factors, and each[i] unless that is null, for n rows.
  void scale(FeatureMap map, const Rows<T>& factors, std::int64_t n, const T* x,
             std::int64_t stride, std::int64_t width, const Rows<T>& out,
             const T* each = nullptr) const {
    with_map(map, [&]<FeatureMap kMap>() HWY_ATTR {
      if (any() && by_channel())
        scale_rows<kMap, true>(factors, n, x, stride, width, out, each);
      else
        scale_rows<kMap, false>(factors, n, x, stride, width, out, each);
    });
  }

  // Row c of m times factor[c].
  void scale_state(const T* factor, const Rows<T>& m, std::int64_t rows,
                   std::int64_t columns) const {
    const typename B::D d;
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto f = hn::Set(d, factor[by_channel() ? r : 0]);
      for (std::int64_t c = 0; c < columns; c += B::kLanes)
        hn::Store(hn::Mul(hn::Load(d, m[r] + c), f), d, m[r] + c);
    }
  }

  // x[c] times factor[c], whole vectors.
  void scale_channels(const T* factor, T* x, std::int64_t count) const {
    const typename B::D d;
    for (std::int64_t c = 0; c < count; c += B::kLanes) {
      const auto f = by_channel() ? hn::Load(d, factor + c) : hn::Set(d, factor[0]);
      hn::Store(hn::Mul(hn::Load(d, x + c), f), d, x + c);
    }
  }

  Rows<T> to_q, to_k;     // e^(c_i - r) and e^(r - c_j); with a bonus e^(c_(i-1) - r)
  Rows<T> to_before;      // e^(c_(i-1) - r), where something reads before the decay
  T* at_start = nullptr;  // e^r
  T* at_end = nullptr;    // e^(c_n - r)

 private:
  // A read before the decay needs its factor and its inverse. e^-80 of what was is nothing.
  T least_log() const { return reads_before_ ? -kRange : T(-16384); }

  // Sums of logarithms until one is out of range: how many tokens, at least 1. NaN, which
  // comparisons hold for out of range too, is alone in its chunk.
  std::int64_t sum_tokens(std::int64_t batch, std::int64_t head, std::int64_t token,
                          std::int64_t count, const T* made) const {
    T sum = sums_[0][0] = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const T log = made != nullptr ? made[i] : *element<T>(decay_, batch, head, token + i);
      const T log2 = log * kLog2E;
      sum += log2 < least_log() ? least_log() : log2;
      sums_[i + 1][0] = sum;
      if (!(std::abs(sum) <= kRange)) return std::max<std::int64_t>(i, 1);
    }
    return count;
  }
  std::int64_t sum_channels(std::int64_t batch, std::int64_t head, std::int64_t token,
                            std::int64_t count) const {
    const typename B::D d;
    std::fill_n(sums_[0], step_, T(0));
    for (std::int64_t i = 0; i < count; ++i) {
      const T* row = element<T>(decay_, batch, head, token + i);
      auto inside = hn::FirstN(d, B::kLanes);
      for (std::int64_t c = 0; c < step_; c += B::kLanes) {
        const auto log = hn::Mul(load_some(d, row + c, decay_.width - c), hn::Set(d, kLog2E));
        const auto sum = hn::Add(hn::Load(d, sums_[i] + c), at_least(d, least_log(), log));
        hn::Store(sum, d, sums_[i + 1] + c);
        inside = hn::And(inside, hn::Le(hn::Abs(sum), hn::Set(d, kRange)));
      }
      if (!hn::AllTrue(d, inside)) return std::max<std::int64_t>(i, 1);
    }
    return count;
  }

  // The reference of a chunk whose logarithms sum to `last`, and its ends.
  HWY_INLINE Vec ends(Vec last, std::int64_t c) const {
    const typename B::D d;
    // One token alone may decay to nothing: then its own sum is the reference.
    const Vec middle = filled_ == 1 && !reads_before_ ? last : hn::Mul(hn::Set(d, T(0.5)), last);
    hn::Store(exp2(d, middle), d, at_start + c);
    hn::Store(exp2(d, hn::Sub(last, middle)), d, at_end + c);
    return middle;
  }

  // Factors from the sums before and after a token.
  HWY_INLINE void put(Vec before, Vec sum, Vec middle, std::int64_t at) const {
    const typename B::D d;
    if (reads_before_) hn::Store(exp2(d, hn::Sub(before, middle)), d, to_before.data + at);
    if (!q_before_) hn::Store(exp2(d, hn::Sub(sum, middle)), d, to_q.data + at);
    hn::Store(exp2(d, hn::Sub(middle, sum)), d, to_k.data + at);
  }

  template <FeatureMap kMap, bool kByChannel>
  void scale_rows(const Rows<T>& factors, std::int64_t n, const T* x, std::int64_t stride,
                  std::int64_t width, const Rows<T>& out, const T* each) const {
    const typename B::D d;
    for (std::int64_t i = 0; i < n; ++i) {
      const T* from = x + i * stride;
      T* to = out[i];
      T more = each != nullptr ? each[i] : T(1);
      if (any_ && !kByChannel) more *= factors[i][0];
      const auto times = hn::Set(d, more);
      const auto scaled = [&](Vec v, std::int64_t c) HWY_ATTR {
        const Vec y = hn::Mul(feature_of<kMap>(d, v), times);
        return kByChannel ? hn::Mul(y, hn::Load(d, factors[i] + c)) : y;
      };
      std::int64_t c = 0;
      for (; c + B::kLanes <= width; c += B::kLanes)
        hn::Store(scaled(hn::LoadU(d, from + c), c), d, to + c);
      if (c < width) {
        const auto rest = hn::FirstN(d, static_cast<std::size_t>(width - c));
        hn::Store(hn::IfThenElseZero(rest, scaled(load_some(d, from + c, width - c), c)), d,
                  to + c);
      }
    }
  }

  static constexpr T kLog2E = T(1.4426950408889634);

  Spread decay_;
  bool any_, q_before_, reads_before_;
  std::int64_t step_ = 0, filled_ = -1;
  Rows<T> sums_;  // of logarithms before a chunk's first token, 0, and after each
};

// n rows to [width][kRecurrentChunk]; what is past them is 0.
template <class T>
void pack_transposed(const T* from, std::int64_t stride, std::int64_t n, std::int64_t width,
                     T* to) {
  constexpr std::int64_t kPanel = Blocking<T>::kPanel;
  for (std::int64_t p = 0; p < n; p += kPanel) {
    pack_panel<T, kRecurrentChunk>(from + p * stride, stride, std::min(kPanel, n - p), width,
                                   to + p);
  }
}

// How many of `count` rows come before the first that is not finite, at least 1.
template <class T>
std::int64_t rows_before_poison(const Rows<T>& x, std::int64_t count, std::int64_t columns) {
  if (x.step == whole_vectors<T>(columns) && all_finite(x.data, count * x.step)) return count;
  for (std::int64_t i = 0; i < count; ++i) {
    if (!all_finite(x[i], columns)) return std::max<std::int64_t>(i, 1);
  }
  return count;
}

// A query that meets no key, as ReLU makes them, reads 0.
template <class T>
T inverse_of(T sum) {
  return sum == 0 ? T(0) : T(1) / sum;
}

// y[...] += a x[...] over whole vectors.
template <class T>
HWY_INLINE void add_scaled(T a, const T* HWY_RESTRICT x, std::int64_t count, T* HWY_RESTRICT y) {
  using B = Blocking<T>;
  const typename B::D d;
  const auto factor = hn::Set(d, a);
  for (std::int64_t c = 0; c < count; c += B::kLanes)
    hn::Store(hn::MulAdd(factor, hn::Load(d, x + c), hn::Load(d, y + c)), d, y + c);
}

// The sum of a b c.
template <class T>
T dot3(const T* a, const T* b, const T* c, std::int64_t count) {
  using B = Blocking<T>;
  const typename B::D d;
  auto sum = hn::Zero(d);
  for (std::int64_t i = 0; i < count; i += B::kLanes) {
    const auto load = [&](const T* x) HWY_ATTR { return load_some(d, x + i, count - i); };
    sum = hn::MulAdd(hn::Mul(load(a), load(b)), load(c), sum);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// The state of a unit's columns, with `columns` the sum of keys in the column after them.
template <class T>
void load_state(const RecurrentParams& p, const RecurrentUnit& u, std::int64_t columns,
                const Rows<T>& s) {
  for (std::int64_t r = 0; r < p.width; ++r) {
    std::fill_n(s[r], s.step, T(0));
    if (p.before.data == nullptr) continue;
    const T* from = row_of<T>(p.before, u.sequence, u.head, r);
    std::copy_n(from + u.column, u.columns, s[r]);
    if (columns > u.columns) s[r][u.columns] = from[p.v_width];
  }
}

// What is written for `count` keys, before the delta rule: v, and 1 for the sum of keys where
// there is a column for it, times beta if `betas`. `made`: their betas, where gates are made.
template <class T>
void load_values(const RecurrentParams& p, const RecurrentUnit& u, std::int64_t token,
                 std::int64_t count, std::int64_t columns, bool betas, const T* made,
                 const Rows<T>& v) {
  const std::int64_t whole = whole_vectors<T>(columns);
  for (std::int64_t i = 0; i < count; ++i) {
    T* to = v[i];
    std::copy_n(row_of<T>(p.v, u.batch, u.head, token + i) + u.column, u.columns, to);
    if (columns > u.columns) to[u.columns] = 1;
    std::fill(to + columns, to + whole, T(0));
    if (!betas) continue;
    const T beta = made != nullptr ? made[i] : *element<T>(p.beta, u.batch, u.head, token + i);
    for (std::int64_t c = 0; c < columns; ++c) to[c] *= beta;
  }
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
