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
#include "kernels/product-inl.h"
#include "kernels/recurrent.h"

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
  // The logarithms of a chunk's factors, to base 2, stay within half of this: e^40.
  static constexpr T kRange = T(115);

  Gates(const RecurrentParams& p, Arena& arena)
      : decay_(p.log_decay),
        any_(decay_.data != nullptr || p.gates != nullptr),
        q_before_(p.bonus.data != nullptr),
        reads_before_(q_before_ || p.rank_one) {
    if (!any_) return;
    step_ = whole_vectors<T>(decay_.width);
    to_q = {arena.take<T>(kRecurrentChunk * step_), step_};
    to_k = {arena.take<T>(kRecurrentChunk * step_), step_};
    to_before = to_q;
    if (p.rank_one) to_before = {arena.take<T>(kRecurrentChunk * step_), step_};
    sum_ = arena.take<T>(step_);
    middle_ = arena.take<T>(step_);
    at_start = arena.take<T>(step_);
    at_end = arena.take<T>(step_);
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
    using B = Blocking<T>;
    const typename B::D d;
    const auto log2e = hn::Set(d, T(1.4426950408889634));
    std::fill_n(sum_, step_, T(0));
    std::int64_t n = 0;
    for (; n < count; ++n) {
      const T* row = made != nullptr ? made + n : element<T>(decay_, batch, head, token + n);
      auto farthest = hn::Zero(d);
      for (std::int64_t c = 0; c < step_; c += B::kLanes) {
        auto log = hn::Mul(load(row, c), log2e);
        // A read before the decay needs its factor and its inverse. e^-80 of what was is nothing.
        log = at_least(d, reads_before_ ? -kRange : T(-16384), log);
        const auto sum = hn::Add(hn::Load(d, sum_ + c), log);
        hn::Store(sum, d, sum_ + c);
        hn::Store(sum, d, to_k[n] + c);
        // NaN, which comparisons hold for far too, is alone in its chunk.
        farthest = hn::Max(farthest, hn::IfThenElse(hn::Le(hn::Abs(sum), hn::Set(d, kRange)),
                                                    hn::Zero(d), hn::Set(d, T(1))));
      }
      if (!hn::AllTrue(d, hn::Eq(farthest, hn::Zero(d)))) break;
    }
    n = std::max<std::int64_t>(n, 1);
    filled_ = n;
    const auto half = hn::Set(d, T(0.5));
    for (std::int64_t c = 0; c < step_; c += B::kLanes) {
      // One token alone may decay to nothing: then its own sum is the reference.
      const auto last = hn::Load(d, to_k[n - 1] + c);
      const auto middle = n == 1 && !reads_before_ ? last : hn::Mul(half, last);
      hn::Store(middle, d, middle_ + c);
      hn::Store(exp2(d, middle), d, at_start + c);
      hn::Store(exp2(d, hn::Sub(last, middle)), d, at_end + c);
      auto before = hn::Zero(d);
      for (std::int64_t i = 0; i < n; ++i) {
        const auto sum = hn::Load(d, to_k[i] + c);
        if (reads_before_) hn::Store(exp2(d, hn::Sub(before, middle)), d, to_before[i] + c);
        if (!q_before_) hn::Store(exp2(d, hn::Sub(sum, middle)), d, to_q[i] + c);
        hn::Store(exp2(d, hn::Sub(middle, sum)), d, to_k[i] + c);
        before = sum;
      }
    }
    return n;
  }

  // x[i][...] times its token's factors, and each[i] unless that is null, for n rows.
  void scale(const Rows<T>& factors, std::int64_t n, const T* x, std::int64_t stride,
             std::int64_t width, const Rows<T>& out, const T* each = nullptr) const {
    using B = Blocking<T>;
    const typename B::D d;
    for (std::int64_t i = 0; i < n; ++i) {
      const T* from = x + i * stride;
      const T* factor = factors[i];
      const T more = each != nullptr ? each[i] : T(1);
      T* to = out[i];
      std::int64_t c = 0;
      const auto one = hn::Set(d, factor[0] * more), times = hn::Set(d, more);
      for (; c + B::kLanes <= width; c += B::kLanes) {
        const auto f = by_channel() ? hn::Mul(hn::Load(d, factor + c), times) : one;
        hn::Store(hn::Mul(hn::LoadU(d, from + c), f), d, to + c);
      }
      for (; c < width; ++c) to[c] = from[c] * (factor[by_channel() ? c : 0] * more);
    }
  }

  // Row c of m times factor[c].
  void scale_state(const T* factor, const Rows<T>& m, std::int64_t rows,
                   std::int64_t columns) const {
    using B = Blocking<T>;
    const typename B::D d;
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto f = hn::Set(d, factor[by_channel() ? r : 0]);
      for (std::int64_t c = 0; c < columns; c += B::kLanes)
        hn::Store(hn::Mul(hn::Load(d, m[r] + c), f), d, m[r] + c);
    }
  }

  Rows<T> to_q, to_k;     // e^(c_i - r) and e^(r - c_j); with a bonus e^(c_(i-1) - r)
  Rows<T> to_before;      // e^(c_(i-1) - r), where something reads before the decay
  T* at_start = nullptr;  // e^r
  T* at_end = nullptr;    // e^(c_n - r)

 private:
  HWY_INLINE hn::Vec<typename Blocking<T>::D> load(const T* row, std::int64_t c) const {
    const typename Blocking<T>::D d;
    if (c + Blocking<T>::kLanes <= decay_.width) return hn::LoadU(d, row + c);
    HWY_ALIGN T rest[Blocking<T>::kLanes] = {};
    std::copy(row + c, row + decay_.width, rest);
    return hn::Load(d, rest);
  }

  Spread decay_;
  bool any_, q_before_, reads_before_;
  std::int64_t step_ = 0, filled_ = -1;
  T *sum_ = nullptr, *middle_ = nullptr;
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

// Some columns of rows that lie anywhere, to whole vectors; what is past them is 0.
template <class T>
void copy_in(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t columns,
             const Rows<T>& to) {
  const std::int64_t whole = whole_vectors<T>(columns);
  for (std::int64_t r = 0; r < rows; ++r) {
    std::copy_n(from + r * stride, columns, to[r]);
    std::fill(to[r] + columns, to[r] + whole, T(0));
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

// The sum of a b c.
template <class T>
T dot3(const T* a, const T* b, const T* c, std::int64_t count) {
  T sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i] * c[i];
  return sum;
}

// The state of a unit's columns, with the sum of keys in the column after them.
template <class T>
void load_state(const RecurrentParams& p, const RecurrentUnit& u, const Rows<T>& s) {
  const std::int64_t columns = u.columns + (p.normalise ? 1 : 0), whole = whole_vectors<T>(columns);
  for (std::int64_t r = 0; r < p.width; ++r) {
    if (p.before.data == nullptr) {
      std::fill_n(s[r], whole, T(0));
      continue;
    }
    const T* from = row_of<T>(p.before, u.sequence, u.head, r);
    std::copy_n(from + u.column, u.columns, s[r]);
    if (p.normalise) s[r][u.columns] = from[p.v_width];
    std::fill(s[r] + columns, s[r] + whole, T(0));
  }
}

// What is written for `count` keys, before the delta rule: beta v, and beta for the sum of keys.
// `made`: their betas, where gates are made. `plain`: without betas.
template <class T>
void load_values(const RecurrentParams& p, const RecurrentUnit& u, std::int64_t token,
                 std::int64_t count, const T* made, bool plain, const Rows<T>& v) {
  const std::int64_t columns = u.columns + (p.normalise ? 1 : 0), whole = whole_vectors<T>(columns);
  for (std::int64_t i = 0; i < count; ++i) {
    T* to = v[i];
    std::copy_n(row_of<T>(p.v, u.batch, u.head, token + i) + u.column, u.columns, to);
    if (p.normalise) to[u.columns] = 1;
    std::fill(to + columns, to + whole, T(0));
    if ((p.beta.data == nullptr && made == nullptr) || p.delta || plain) continue;
    const T beta = made != nullptr ? made[i] : *element<T>(p.beta, u.batch, u.head, token + i);
    for (std::int64_t c = 0; c < columns; ++c) to[c] *= beta;
  }
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
