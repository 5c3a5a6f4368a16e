#include "kernels/wkv4.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/wkv4.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>

#include "attn/scan.h"
#include "kernels/arena.h"
#include "kernels/by_isa.h"
#include "kernels/scan_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Two numbers times e^a and e^b are the same numbers times `a` and `b` and the larger of e^a, e^b.
template <class V>
struct Weights {
  V a, b;  // one of them is 1
};
template <class D, class V = hn::Vec<D>>
HWY_INLINE Weights<V> weights_of(D d, V a, V b) {
  const auto difference = hn::Sub(a, b), one = hn::Set(d, hn::TFromD<D>(1));
  const auto smaller = exp(d, hn::Or(difference, hn::SignBit(d)));  // of the negative distance
  const auto a_leads = hn::Ge(difference, hn::Zero(d));
  return {hn::IfThenElse(a_leads, one, smaller), hn::IfThenElse(a_leads, smaller, one)};
}

// Sums p e^o over values and q e^o of weights.
template <class D>
struct WkvState {
  using V = hn::Vec<D>;
  V p, q, o;

  static HWY_INLINE WkvState fresh(D d) {
    return {hn::Zero(d), hn::Zero(d), hn::Set(d, static_cast<hn::TFromD<D>>(kWkv4Fresh))};
  }
  // After a token: everything decays, the token joins.
  HWY_INLINE WkvState after(D d, V k, V v, V decay) const {
    const auto past = hn::Add(o, decay);
    const auto w = weights_of(d, past, k);
    return {hn::MulAdd(w.a, p, hn::Mul(w.b, v)), hn::MulAdd(w.a, q, w.b), hn::Max(past, k)};
  }
};

template <class T>
class Wkv4 {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  using State = WkvState<D>;

 public:
  static std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(D())); }

  Wkv4(const Wkv4Params& params, const ChannelBlock& block, Arena arena)
      : p_(params), block_(block), rows_{block}, end_(block.channels) {
    for (T*& row : kept_) row = arena.take<T>(round_up(end_, lanes()));
    bytes_ = arena.used();
  }
  std::size_t bytes() const { return bytes_; }

  // Token by token along its row. The first reads the initial state, the last writes the final one.
  void run() const {
    const T* from[3];
    T* to[3];
    for (std::int64_t i = 0; i < 3; ++i) from[i] = rows_.state(p_.state, i);
    for (std::int64_t t = 0; t < block_.length; ++t) {
      const bool last = t + 1 == block_.length && p_.state_out.data != nullptr;
      for (std::int64_t i = 0; i < 3; ++i) to[i] = last ? rows_.state(p_.state_out, i) : kept_[i];
      run_token(t, from, to);
      for (std::int64_t i = 0; i < 3; ++i) from[i] = kept_[i];
    }
    if (block_.length > 0 || p_.state_out.data == nullptr) return;
    for (std::int64_t v = 0; v < end_; v += lanes()) {
      const State s = load(from, v);
      store(s, v, rows_.state(p_.state_out, 0), rows_.state(p_.state_out, 1),
            rows_.state(p_.state_out, 2));
    }
  }

 private:
  // Rows of a token; null where there are none.
  struct Token {
    const T *k, *v, *decay, *bonus;
    T* out;
  };

  State load(const T* const* rows, std::int64_t v) const {
    if (rows[0] == nullptr) return State::fresh(d_);
    return {load_row(d_, rows[0], v, end_), load_row(d_, rows[1], v, end_),
            load_row(d_, rows[2], v, end_)};
  }
  void store(const State& s, std::int64_t v, T* p, T* q, T* o) const {
    store_row(d_, s.p, p, v, end_);
    store_row(d_, s.q, q, v, end_);
    store_row(d_, s.o, o, v, end_);
  }

  // What a channel reads: (p e^o + e^(bonus + k) v) / (q e^o + e^(bonus + k)).
  HWY_INLINE V read(const State& s, V k, V v, V bonus) const {
    const auto w = weights_of(d_, s.o, hn::Add(bonus, k));
    return hn::Div(hn::MulAdd(w.a, s.p, hn::Mul(w.b, v)), hn::MulAdd(w.a, s.q, w.b));
  }

  void run_token(std::int64_t t, const T* const* from, T* const* to) const {
    const Token token{rows_.token(p_.k, t), rows_.token(p_.v, t), rows_.parameter(p_.decay),
                      rows_.parameter(p_.bonus), rows_.token(p_.out, t)};
    std::int64_t v = 0;
    if (from[0] != nullptr && token.out != nullptr)
      v = run_vectors(token, std::min(kTokensFetched, block_.length - 1 - t), from, to);
    for (; v < end_; v += lanes()) {
      const State s = load(from, v);
      const auto k = load_row(d_, token.k, v, end_), value = load_row(d_, token.v, v, end_);
      store_row(d_, read(s, k, value, load_row(d_, token.bonus, v, end_)), token.out, v, end_);
      store(s.after(d_, k, value, load_row(d_, token.decay, v, end_)), v, to[0], to[1], to[2]);
    }
  }

  // The whole vectors of a token, all of whose rows are there; how many channels those are. Fetches
  // the rows of the token `ahead` tokens later.
  std::int64_t run_vectors(const Token& token, std::int64_t ahead, const T* const* from,
                           T* const* to) const {
    const T *k_next = token.k + ahead * p_.k.length, *v_next = token.v + ahead * p_.v.length,
            *out_next = token.out + ahead * p_.out.length;
    const T *p = from[0], *q = from[1], *o = from[2];
    T *p_to = to[0], *q_to = to[1], *o_to = to[2];
    std::int64_t v = 0;
    for (; v + lanes() <= end_; v += lanes()) {
      const State s{hn::LoadU(d_, p + v), hn::LoadU(d_, q + v), hn::LoadU(d_, o + v)};
      const auto k = hn::LoadU(d_, token.k + v), value = hn::LoadU(d_, token.v + v);
      const auto y = read(s, k, value, hn::LoadU(d_, token.bonus + v));
      const State next = s.after(d_, k, value, hn::LoadU(d_, token.decay + v));
      hn::StoreU(y, d_, token.out + v);
      hn::StoreU(next.p, d_, p_to + v);
      hn::StoreU(next.q, d_, q_to + v);
      hn::StoreU(next.o, d_, o_to + v);
      __builtin_prefetch(k_next + v);
      __builtin_prefetch(v_next + v);
      __builtin_prefetch(out_next + v, 1);
    }
    return v;
  }

  // How far ahead rows are fetched; a row is too long for the CPU to see where the next one lies.
  static constexpr std::int64_t kTokensFetched = 2;

  static constexpr D d_{};
  const Wkv4Params& p_;
  const ChannelBlock& block_;
  const BlockChannels<T> rows_;
  const std::int64_t end_;
  T* kept_[3];  // the state between tokens
  std::size_t bytes_;
};

// Gradients with respect to the sums P = p e^o and Q = q e^o, as numbers times e^scale: they grow
// as the sums shrink.
//
//   Z = Q + e^(bonus + k),  y = (P + e^(bonus + k) v) / Z
//   dP = dy / Z + e^decay dP',   dQ = -dy y / Z + e^decay dQ'      of the token after it
//   dv = dy e^(bonus + k) / Z + e^k dP',   dk = dy e^(bonus + k) (v - y) / Z + e^k (v dP' + dQ')
//
// No exponent is above 0: o is at least that of every sum behind it.
template <class T>
class Wkv4Backward {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  using State = WkvState<D>;

 public:
  Wkv4Backward(const Wkv4Params& params, const ChannelBlock& block, Arena arena)
      : p_(params), block_(block), rows_{block}, end_(block.channels) {
    kept_ = arena.take<T>(pieces() * 3 * lanes());
    states_ = arena.take<T>(p_.tokens_kept * 3 * lanes());
    bytes_ = arena.used();
  }
  std::size_t bytes() const { return bytes_; }

  void run() {
    for (std::int64_t v = 0; v < end_; v += lanes()) run_column(v);
  }

 private:
  static std::int64_t lanes() { return Wkv4<T>::lanes(); }
  std::int64_t pieces() const { return (block_.length + p_.tokens_kept - 1) / p_.tokens_kept; }

  V token(const Matrix& m, std::int64_t t, std::int64_t v) const {
    return load_row(d_, rows_.token(m, t), v, end_);
  }
  void store(const State& s, T* to) const {
    hn::Store(s.p, d_, to);
    hn::Store(s.q, d_, to + lanes());
    hn::Store(s.o, d_, to + 2 * lanes());
  }
  State load(const T* from) const {
    return {hn::Load(d_, from), hn::Load(d_, from + lanes()), hn::Load(d_, from + 2 * lanes())};
  }
  V e(V x) const { return exp(d_, x); }

  void run_column(std::int64_t v) {
    const auto decay = load_row(d_, rows_.parameter(p_.decay), v, end_);
    const auto bonus = load_row(d_, rows_.parameter(p_.bonus), v, end_);
    State s = p_.state.data == nullptr ? State::fresh(d_)
                                       : State{load_row(d_, rows_.state(p_.state, 0), v, end_),
                                               load_row(d_, rows_.state(p_.state, 1), v, end_),
                                               load_row(d_, rows_.state(p_.state, 2), v, end_)};
    for (std::int64_t t = 0; t < block_.length; ++t) {
      if (t % p_.tokens_kept == 0) store(s, kept_ + t / p_.tokens_kept * 3 * lanes());
      s = s.after(d_, token(p_.k, t, v), token(p_.v, t, v), decay);
    }
    begin(s, v);
    for (std::int64_t piece = pieces() - 1; piece >= 0; --piece) {
      const std::int64_t first = piece * p_.tokens_kept;
      const std::int64_t count = std::min(p_.tokens_kept, block_.length - first);
      s = load(kept_ + piece * 3 * lanes());
      for (std::int64_t i = 0; i < count; ++i) {
        store(s, states_ + i * 3 * lanes());
        s = s.after(d_, token(p_.k, first + i, v), token(p_.v, first + i, v), decay);
      }
      for (std::int64_t i = count - 1; i >= 0; --i)
        step_back(first + i, v, load(states_ + i * 3 * lanes()), decay, bonus);
    }
    end(v);
  }

  // From the gradients of the final state: dP = dp e^-o, dQ = dq e^-o. What is left for o goes to
  // the key, or to the initial o, that it was the largest from.
  void begin(const State& last, std::int64_t v) {
    const auto dp = load_row(d_, rows_.state(p_.d_state_out, 0), v, end_);
    const auto dq = load_row(d_, rows_.state(p_.d_state_out, 1), v, end_);
    const auto d_o = load_row(d_, rows_.state(p_.d_state_out, 2), v, end_);
    dp_ = dp;
    dq_ = dq;
    scale_ = hn::Neg(last.o);
    top_ = hn::NegMulAdd(dp, last.p, hn::NegMulAdd(dq, last.q, d_o));
    last_ = last;
    d_decay_ = d_bonus_ = hn::Zero(d_);
  }

  void step_back(std::int64_t t, std::int64_t v, const State& s, V decay, V bonus) {
    const auto k = token(p_.k, t, v), value = token(p_.v, t, v), dy = token(p_.d_out, t, v);
    const auto own = hn::Add(bonus, k), past = hn::Add(s.o, decay);
    // What the state after the token got, weighted with the token and with what was before.
    const auto to_token = e(hn::Add(k, scale_)), to_past = e(hn::Add(past, scale_));
    auto dv = hn::Mul(to_token, dp_);
    auto dk = hn::Mul(to_token, hn::MulAdd(value, dp_, dq_));
    d_decay_ = hn::MulAdd(to_past, hn::MulAdd(s.p, dp_, hn::Mul(s.q, dq_)), d_decay_);
    // The largest of exponents.
    const auto from_past = hn::Ge(past, k);
    dk = hn::Add(dk, hn::IfThenZeroElse(from_past, top_));
    top_ = hn::IfThenElseZero(from_past, top_);
    d_decay_ = hn::Add(d_decay_, top_);
    // The output.
    const auto w = weights_of(d_, s.o, own);
    const auto rest = hn::Div(dy, hn::MulAdd(w.a, s.q, w.b));  // dy / Z, times e^-top
    const auto y = hn::Div(hn::MulAdd(w.a, s.p, hn::Mul(w.b, value)), hn::MulAdd(w.a, s.q, w.b));
    const auto share = hn::Mul(rest, w.b), d_own = hn::Mul(share, hn::Sub(value, y));
    dv = hn::Add(dv, share);
    dk = hn::Add(dk, d_own);
    d_bonus_ = hn::Add(d_bonus_, d_own);
    store_row(d_, dk, rows_.token(p_.dk, t), v, end_);
    store_row(d_, dv, rows_.token(p_.dv, t), v, end_);
    // The sums before the token, at the larger of both scales.
    const auto now = hn::Neg(hn::Max(s.o, own)), later = hn::Add(scale_, decay);
    const auto join = weights_of(d_, later, now);
    dp_ = hn::MulAdd(join.a, dp_, hn::Mul(join.b, rest));
    dq_ = hn::MulAdd(join.a, dq_, hn::Neg(hn::Mul(join.b, hn::Mul(rest, y))));
    scale_ = hn::Max(later, now);
    last_ = s;
  }

  void end(std::int64_t v) const {
    store_row(d_, d_decay_, rows_.state(p_.d_decay, 0), v, end_);
    store_row(d_, d_bonus_, rows_.state(p_.d_bonus, 0), v, end_);
    if (p_.d_state.data == nullptr) return;
    const auto weight = e(hn::Add(last_.o, scale_));
    const auto dp = hn::Mul(weight, dp_), dq = hn::Mul(weight, dq_);
    store_row(d_, dp, rows_.state(p_.d_state, 0), v, end_);
    store_row(d_, dq, rows_.state(p_.d_state, 1), v, end_);
    store_row(d_, hn::MulAdd(dp, last_.p, hn::MulAdd(dq, last_.q, top_)),
              rows_.state(p_.d_state, 2), v, end_);
  }

  static constexpr D d_{};
  const Wkv4Params& p_;
  const ChannelBlock& block_;
  const BlockChannels<T> rows_;
  const std::int64_t end_;
  T *kept_, *states_;  // [pieces][3][lanes], [tokens kept][3][lanes]
  std::size_t bytes_;
  V dp_, dq_, scale_, top_, d_decay_, d_bonus_;
  State last_;
};

template <class T>
std::size_t wkv4_workspace_bytes(std::int64_t channels) {
  const Wkv4Params params;
  ChannelBlock block;
  block.channels = channels;
  return Wkv4<T>(params, block, Arena(nullptr)).bytes();
}
template <class T>
void run_wkv4(const Wkv4Params& params, const ChannelBlock& block, void* workspace) {
  Wkv4<T>(params, block, Arena(workspace)).run();
}
template <class T>
std::size_t wkv4_backward_bytes(const Wkv4Params& params, std::int64_t length,
                                std::int64_t channels) {
  ChannelBlock block;
  block.length = length;
  block.channels = channels;
  return Wkv4Backward<T>(params, block, Arena(nullptr)).bytes();
}
template <class T>
void run_wkv4_backward(const Wkv4Params& params, const ChannelBlock& block, void* workspace) {
  Wkv4Backward<T>(params, block, Arena(workspace)).run();
}

template <class T>
const Wkv4Kernel& wkv4_kernel_for() {
  static const Wkv4Kernel kKernel{Wkv4<T>::lanes(), &wkv4_workspace_bytes<T>, &run_wkv4<T>,
                                  &wkv4_backward_bytes<T>, &run_wkv4_backward<T>};
  return kKernel;
}

const Wkv4Kernel& wkv4_kernel_of(DType dtype) {
  return dtype == DType::f64 ? wkv4_kernel_for<double>() : wkv4_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const Wkv4Kernel& wkv4_kernel(Isa isa, DType dtype) {
  ATTN_RETURN_BY_ISA(isa, wkv4_kernel_of(dtype));
}

}  // namespace attn::kernels
#endif
