#include "kernels/implied.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/implied.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <cmath>

#include "kernels/arena.h"
#include "kernels/by_isa.h"
#include "kernels/gates-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
const T* row_of(const TokenRows& rows, std::int64_t token) {
  return static_cast<const T*>(rows.data) + token * rows.stride;
}

// Takes m = q_i backwards through the gates: m . k_j is what token j gives to token i.
template <class T>
class ImpliedStateRows {
  using D = hn::ScalableTag<T>;

 public:
  ImpliedStateRows(const ImpliedState& head, Arena arena)
      : head_(head), m_(arena.take<T>(head.width)), bytes_(arena.used()) {}
  std::size_t bytes() const { return bytes_; }

  void row(std::int64_t query, T* out) {
    std::copy_n(row_of<T>(head_.q, query), head_.width, m_);
    std::int64_t last = query;
    if (head_.bonus.data != nullptr) {
      times(row_of<T>(head_.bonus, 0));
      out[last] = std::abs(dot(row_of<T>(head_.k, last)) * beta(last));
      std::copy_n(row_of<T>(head_.q, query), head_.width, m_);
      --last;
    }
    if (head_.decay.component == 0 && !head_.delta && head_.a.data == nullptr)
      return scaled_row(last, out);
    for (std::int64_t j = last; j >= 0; --j) {
      const T* const k = row_of<T>(head_.k, j);
      const T product = dot(k);
      out[j] = std::abs(product * beta(j));
      if (head_.delta) add(-beta(j) * product, k);
      const T through = head_.a.data == nullptr ? T(0) : dot(row_of<T>(head_.a, j));
      if (head_.decay.data != nullptr) decay(j);
      if (head_.a.data != nullptr) add(through, row_of<T>(head_.b, j));
      if (j % kLooks == 0 && is_zero()) return forget(out, j);
    }
  }

 private:
  static constexpr std::int64_t kLooks = 64;  // tokens between looks at whether all is forgotten

  // Where the gates are a number a token they need not touch m.
  void scaled_row(std::int64_t last, T* out) {
    T factor = 1;
    for (std::int64_t j = last; j >= 0; --j) {
      out[j] = std::abs(factor * dot(row_of<T>(head_.k, j)) * beta(j));
      if (head_.decay.data != nullptr) factor *= *row_of<T>(head_.decay, j);
      if (factor == 0) return forget(out, j);
    }
  }

  // Nothing of the first tokens is left.
  static void forget(T* out, std::int64_t tokens) { std::fill_n(out, tokens, T(0)); }

  T beta(std::int64_t j) const {
    return head_.beta.data == nullptr ? T(1) : *row_of<T>(head_.beta, j);
  }
  HWY_INLINE T dot(const T* x) const {
    const auto n = static_cast<std::int64_t>(hn::Lanes(d_));
    auto even = hn::Zero(d_), odd = hn::Zero(d_);
    std::int64_t c = 0;
    for (; c + 2 * n <= head_.width; c += 2 * n) {
      even = hn::MulAdd(hn::Load(d_, m_ + c), hn::LoadU(d_, x + c), even);
      odd = hn::MulAdd(hn::Load(d_, m_ + c + n), hn::LoadU(d_, x + c + n), odd);
    }
    for (; c < head_.width; c += n)
      even = hn::MulAdd(hn::Load(d_, m_ + c), hn::LoadU(d_, x + c), even);
    return hn::GetLane(hn::SumOfLanes(d_, hn::Add(even, odd)));
  }
  void add(T factor, const T* x) {
    const auto f = hn::Set(d_, factor);
    each([&](auto m, std::int64_t c) { return hn::MulAdd(f, hn::LoadU(d_, x + c), m); });
  }
  void times(const T* x) {
    each([&](auto m, std::int64_t c) { return hn::Mul(m, hn::LoadU(d_, x + c)); });
  }
  void decay(std::int64_t j) {
    const T* const w = row_of<T>(head_.decay, j);
    if (head_.decay.component != 0) return times(w);
    const auto factor = hn::Set(d_, *w);
    each([&](auto m, std::int64_t) { return hn::Mul(m, factor); });
  }
  template <class F>
  HWY_INLINE void each(const F& f) {
    const auto n = static_cast<std::int64_t>(hn::Lanes(d_));
    for (std::int64_t c = 0; c < head_.width; c += n)
      hn::Store(f(hn::Load(d_, m_ + c), c), d_, m_ + c);
  }
  bool is_zero() const {
    return std::all_of(m_, m_ + head_.width, [](T x) { return x == 0; });
  }

  static constexpr D d_{};
  const ImpliedState& head_;
  T* m_;
  std::size_t bytes_;
};

// A vector of channels at a time; stretches of tokens, from the last one; some states of a row in
// registers while a stretch passes. The gates of a stretch serve all rows.
template <class T>
class ImpliedScanRows {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  static constexpr std::int64_t kTokens = 128;
  static constexpr int kStates = 4;

 public:
  static std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(D())); }

  ImpliedScanRows(const ImpliedScan& scan, std::int64_t count, Arena arena)
      : scan_(scan), states_(round_up(scan.states, kStates)) {
    gates_ = arena.take<T>(kTokens * states_ * lanes());
    m_ = arena.take<T>(count * states_ * lanes());
    sums_ = arena.take<T>(kTokens * lanes());
    b_ = arena.take<T>(kTokens * states_);
    bytes_ = arena.used();
  }
  std::size_t bytes() const { return bytes_; }

  void rows(std::int64_t begin, std::int64_t count, T* out, std::int64_t stride) {
    for (std::int64_t channel = 0; channel < scan_.channels; channel += lanes()) {
      for (std::int64_t r = 0; r < count; ++r) start(begin + r, m_ + r * states_ * lanes());
      for (std::int64_t first = (begin + count - 1) / kTokens * kTokens; first >= 0;
           first -= kTokens) {
        const std::int64_t tokens = std::min(kTokens, begin + count - first);
        open(first, tokens, channel);
        for (std::int64_t r = std::max<std::int64_t>(0, first - begin); r < count; ++r) {
          pass(first, std::min(tokens, begin + r - first + 1), channel, m_ + r * states_ * lanes(),
               out + r * stride);
        }
      }
    }
  }

 private:
  void start(std::int64_t query, T* m) const {
    const T* const c = static_cast<const T*>(scan_.c) + query * scan_.states;
    for (std::int64_t s = 0; s < states_; ++s)
      hn::Store(hn::Set(d_, s < scan_.states ? c[s] : T(0)), d_, m + s * lanes());
  }

  // Gates [tokens][states] of a vector of channels, and b with its states filled up.
  void open(std::int64_t first, std::int64_t tokens, std::int64_t channel) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const auto step = steps(first + t, channel);
      const T* const b = static_cast<const T*>(scan_.b) + (first + t) * scan_.states;
      for (std::int64_t s = 0; s < states_; ++s) {
        const bool is_there = s < scan_.states;
        b_[t * states_ + s] = is_there ? b[s] : T(0);
        const auto a =
            is_there ? hn::LoadU(d_, static_cast<const T*>(scan_.a) + s * scan_.channels + channel)
                     : hn::Zero(d_);
        hn::Store(exp(d_, hn::Mul(step, a)), d_, gates_ + (t * states_ + s) * lanes());
      }
    }
  }

  // Tokens [first, first + tokens) of one row, from the last one.
  HWY_INLINE void pass(std::int64_t first, std::int64_t tokens, std::int64_t channel, T* m,
                       T* out) {
    for (std::int64_t s = 0; s < states_; s += kStates) {
      V state[kStates];
      for (int i = 0; i < kStates; ++i) state[i] = hn::Load(d_, m + (s + i) * lanes());
      for (std::int64_t t = tokens - 1; t >= 0; --t) {
        const T* const gates = gates_ + (t * states_ + s) * lanes();
        const T* const b = b_ + t * states_ + s;
        auto sum = s == 0 ? hn::Zero(d_) : hn::Load(d_, sums_ + t * lanes());
        for (int i = 0; i < kStates; ++i) {
          sum = hn::MulAdd(state[i], hn::Set(d_, b[i]), sum);
          state[i] = hn::Mul(state[i], hn::Load(d_, gates + i * lanes()));
        }
        hn::Store(sum, d_, sums_ + t * lanes());
      }
      for (int i = 0; i < kStates; ++i) hn::Store(state[i], d_, m + (s + i) * lanes());
    }
    for (std::int64_t t = 0; t < tokens; ++t) {
      const auto weight =
          hn::Abs(hn::Mul(hn::Load(d_, sums_ + t * lanes()), steps(first + t, channel)));
      out[first + t] += hn::GetLane(hn::SumOfLanes(d_, weight));
    }
  }

  V steps(std::int64_t token, std::int64_t channel) const {
    return hn::LoadU(d_, static_cast<const T*>(scan_.steps) + token * scan_.channels + channel);
  }

  static constexpr D d_{};
  const ImpliedScan& scan_;
  std::int64_t states_;
  T *gates_, *m_, *sums_, *b_;
  std::size_t bytes_;
};

template <class T>
std::size_t implied_state_bytes(std::int64_t width) {
  ImpliedState head;
  head.width = width;
  return ImpliedStateRows<T>(head, Arena(nullptr)).bytes();
}
template <class T>
void implied_state_rows(const ImpliedState& head, std::int64_t begin, std::int64_t count,
                        void* rows, std::int64_t stride, void* workspace) {
  ImpliedStateRows<T> walk(head, Arena(workspace));
  for (std::int64_t r = 0; r < count; ++r) walk.row(begin + r, static_cast<T*>(rows) + r * stride);
}
template <class T>
std::size_t implied_scan_bytes(std::int64_t states, std::int64_t count) {
  ImpliedScan scan;
  scan.states = states;
  return ImpliedScanRows<T>(scan, count, Arena(nullptr)).bytes();
}
template <class T>
void implied_scan_rows(const ImpliedScan& scan, std::int64_t begin, std::int64_t count, void* rows,
                       std::int64_t stride, void* workspace) {
  ImpliedScanRows<T>(scan, count, Arena(workspace))
      .rows(begin, count, static_cast<T*>(rows), stride);
}

template <class T>
const ImpliedKernel& implied_kernel_for() {
  static const ImpliedKernel kKernel{ImpliedScanRows<T>::lanes(), &implied_state_bytes<T>,
                                     &implied_state_rows<T>, &implied_scan_bytes<T>,
                                     &implied_scan_rows<T>};
  return kKernel;
}

const ImpliedKernel& implied_kernel_of(DType dtype) {
  return dtype == DType::f64 ? implied_kernel_for<double>() : implied_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const ImpliedKernel& implied_kernel(Isa isa, DType dtype) {
  ATTN_RETURN_BY_ISA(isa, implied_kernel_of(dtype));
}

}  // namespace attn::kernels
#endif
