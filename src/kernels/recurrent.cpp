#include "kernels/recurrent.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/recurrent.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/recurrent_chunk-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
class RecurrentForward {
 public:
  using B = Blocking<T>;

  RecurrentForward(const RecurrentParams& p, const RecurrentUnit& u, Arena arena)
      : p_(p), u_(u), chunk_(p, u, false, arena) {
    scratch_ = {arena.take<T>(kRecurrentChunk * chunk_.values.step), chunk_.values.step};
    pairs_ = {arena.take<T>(kRecurrentChunk * kRecurrentChunk), kRecurrentChunk};
    bytes_ = arena.used();
  }

  std::size_t bytes() const { return bytes_; }

  void run() {
    chunk_.load_first();
    for (std::int64_t token = u_.begin; token < u_.end;) {
      const std::int64_t n = chunk_.begin(token);
      look_ahead(token + n);
      if (p_.out.data != nullptr) read(token, n);
      chunk_.end(n, &ahead_);
      token += n;
    }
    store_state();
  }

 private:
  // The rows of the next chunk come while this one is computed.
  void look_ahead(std::int64_t token) {
    ahead_.clear();
    const std::int64_t rows = std::min(kRecurrentChunk, u_.end - token);
    const auto add = [&](const Matrix& m, std::int64_t head, std::int64_t width) {
      constexpr auto kSize = static_cast<std::int64_t>(sizeof(T));
      if (m.data != nullptr)
        ahead_.add(row_of<T>(m, u_.batch, head, token), m.length * kSize, rows, width * kSize);
    };
    const std::int64_t q_head = u_.head / p_.group;
    add(p_.v, u_.head, p_.v_width);
    add(p_.k, q_head, p_.width);
    add(p_.q, q_head, p_.width);
    add(p_.out, u_.head, p_.v_width);
  }

  void read(std::int64_t token, std::int64_t n) {
    chunk_.load_queries(token, n);
    // Tokens are read before the decay with a bonus, which then stands on the diagonal.
    const bool before = p_.bonus.data != nullptr;
    find_pairs(chunk_.k_across, n);
    for (std::int64_t i = 0; before && i < n; ++i) pairs_[i][i] = chunk_.bonus_of(token + i);
    const Rows<T>& state = chunk_.state;
    // Straight to where it goes, where that is whole vectors.
    const bool direct = !p_.normalise && u_.columns == scratch_.step;
    out_ = scratch_;
    if (direct)
      out_ = {mutable_row_of<T>(p_.out, u_.batch, u_.head, token) + u_.column, p_.out.length};
    for_strips<T>(n, [&](std::int64_t i, std::int64_t height) HWY_ATTR {
      product_strip<false>(height, chunk_.q_across + i, kRecurrentChunk, state.data, state.step,
                           p_.width, out_[i], out_.step, scratch_.step, &ahead_);
    });
    add_pairs(chunk_.values, n);
    if (p_.rank_one) {
      find_pairs(chunk_.rank_one.a_across, n);
      add_pairs(chunk_.rank_one.values, n);
    }
    if (!direct) store_out(token, n);
  }

  // pairs[j][i] = keys_j . Q~_i for j <= i, from the first panel that has any.
  void find_pairs(const T* keys_across, std::int64_t n) {
    for_strips<T>(n, [&](std::int64_t j, std::int64_t height) HWY_ATTR {
      const std::int64_t from = j / B::kPanel * B::kPanel;
      product_strip<false>(height, keys_across + j, kRecurrentChunk, chunk_.q_across + from,
                           kRecurrentChunk, p_.width, pairs_[j] + from, kRecurrentChunk,
                           round_up(n, B::kLanes) - from, &ahead_);
      for (std::int64_t r = j; r < j + height; ++r)
        std::fill(pairs_[r] + from, pairs_[r] + r, T(0));
    });
  }

  // out[i] += sum over j <= i of pairs[j][i] values[j]
  void add_pairs(const Rows<T>& values, std::int64_t n) {
    for_strips<T>(n, [&](std::int64_t i, std::int64_t height) HWY_ATTR {
      product_strip<true>(height, pairs_.data + i, kRecurrentChunk, values.data, values.step,
                          i + height, out_[i], out_.step, scratch_.step, &ahead_);
    });
  }

  void store_out(std::int64_t token, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      T* to = mutable_row_of<T>(p_.out, u_.batch, u_.head, token + i) + u_.column;
      if (!p_.normalise) {
        std::copy_n(out_[i], u_.columns, to);
        continue;
      }
      const T inverse = inverse_of(out_[i][u_.columns] + static_cast<T>(p_.epsilon));
      for (std::int64_t c = 0; c < u_.columns; ++c) to[c] = out_[i][c] * inverse;
    }
  }

  void store_state() {
    if (p_.after.data == nullptr) return;
    for (std::int64_t r = 0; r < p_.width; ++r) {
      T* to = mutable_row_of<T>(p_.after, u_.sequence, u_.head, r);
      std::copy_n(chunk_.state[r], u_.columns, to + u_.column);
      if (p_.normalise && u_.column == 0) to[p_.v_width] = chunk_.state[r][u_.columns];
    }
  }

  const RecurrentParams& p_;
  const RecurrentUnit& u_;
  RecurrentChunk<T> chunk_;
  Rows<T> scratch_;  // [chunk][columns], of outputs
  Rows<T> out_;      // outputs, there or in place
  Rows<T> pairs_;    // [chunk keys][chunk queries]
  Ahead ahead_;
  std::size_t bytes_ = 0;
};

template <class T>
void run_recurrent(const RecurrentParams& params, const RecurrentUnit& unit, void* workspace) {
  RecurrentForward<T>(params, unit, Arena(workspace)).run();
}

template <class T>
std::size_t recurrent_bytes(const RecurrentParams& params, std::int64_t columns) {
  RecurrentUnit unit;
  unit.columns = columns;
  return RecurrentForward<T>(params, unit, Arena(nullptr)).bytes();
}

// The first `count` lanes, 0 in the others; what lies behind them is neither read nor written,
// which masked accesses promise on AVX alone.
template <class D>
HWY_INLINE hn::Vec<D> load_some(D d, const hn::TFromD<D>* from, std::int64_t count) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  return hn::MaskedLoad(hn::FirstN(d, static_cast<std::size_t>(count)), d, from);
#else
  HWY_ALIGN hn::TFromD<D> lanes[hn::MaxLanes(D())] = {};
  std::copy_n(from, count, lanes);
  return hn::Load(d, lanes);
#endif
}
template <class D>
HWY_INLINE void store_some(hn::Vec<D> x, D d, std::int64_t count, hn::TFromD<D>* to) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  hn::BlendedStore(x, hn::FirstN(d, static_cast<std::size_t>(count)), d, to);
#else
  HWY_ALIGN hn::TFromD<D> lanes[hn::MaxLanes(D())];
  hn::Store(x, d, lanes);
  std::copy_n(lanes, count, to);
#endif
}

// One token of one head.
template <class T>
struct Token {
  const T *q, *k, *bonus;
  const T *a, *b;       // of a rank-one term; null: none
  const T* w;           // factors of the decay
  std::int64_t w_step;  // 0: one for all
  const T* values;      // beta v, by the delta rule v; aligned, to whole vectors
  T beta;
  T* out;  // aligned, to whole vectors
};

// kV vectors of a token's columns: the state is read and written once, by the delta rule read
// twice.
template <int kV, bool kWhole, bool kDecay, bool kBonus, class T>
HWY_NOINLINE void step_columns(const RecurrentParams& p, const RecurrentUnit& u, const Token<T>& t,
                               std::int64_t column) {
  using B = Blocking<T>;
  const typename B::D d;
  const std::int64_t left = p.state_width() - column;  // less than a vector, unless kWhole
  const T* before = row_of<T>(p.before, u.sequence, u.head, 0) + column;
  T* after = mutable_row_of<T>(p.after, u.sequence, u.head, 0) + column;
  const std::int64_t before_step = p.before.length, after_step = p.after.length;
  const auto load = [&](std::int64_t r, int v) HWY_ATTR {
    const T* at = before + r * before_step + v * B::kLanes;
    return kWhole ? hn::LoadU(d, at) : load_some(d, at, left);
  };
  const auto decayed = [&](std::int64_t r, hn::Vec<typename B::D> s) HWY_ATTR {
    return kDecay ? hn::Mul(s, hn::Set(d, t.w[r * t.w_step])) : s;
  };
  hn::Vec<typename B::D> value[kV], y[kV], held[kV];
#pragma GCC unroll 4
  for (int v = 0; v < kV; ++v) {
    value[v] = hn::Load(d, t.values + column + v * B::kLanes);
    y[v] = held[v] = hn::Zero(d);
  }
  for (std::int64_t r = 0; r < p.width && p.rank_one; ++r) {
    const auto read = hn::Set(d, t.b[r]);
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) held[v] = hn::MulAdd(read, load(r, v), held[v]);
  }
  if (p.delta) {
    for (std::int64_t r = 0; r < p.width; ++r) {
      const auto key = hn::Set(d, t.k[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) y[v] = hn::MulAdd(key, decayed(r, load(r, v)), y[v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      value[v] = hn::Mul(hn::Set(d, t.beta), hn::Sub(value[v], y[v]));
      y[v] = hn::Zero(d);
    }
  }
#pragma GCC unroll 2
  for (std::int64_t r = 0; r < p.width; ++r) {
    const auto key = hn::Set(d, t.k[r]);
    const auto query = hn::Set(d, t.q[r]);
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      auto s = load(r, v);
      if constexpr (kBonus)
        y[v] = hn::MulAdd(query, hn::MulAdd(hn::Set(d, t.k[r] * t.bonus[r]), value[v], s), y[v]);
      s = hn::MulAdd(key, value[v], decayed(r, s));
      if (p.rank_one) s = hn::MulAdd(hn::Set(d, t.a[r]), held[v], s);
      if constexpr (!kBonus) y[v] = hn::MulAdd(query, s, y[v]);
      T* to = after + r * after_step + v * B::kLanes;
      if constexpr (kWhole) {
        hn::StoreU(s, d, to);
      } else {
        store_some(s, d, left, to);
      }
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kV; ++v) hn::Store(y[v], d, t.out + column + v * B::kLanes);
}

template <bool kDecay, bool kBonus, class T>
void step_all_columns(const RecurrentParams& p, const RecurrentUnit& u, const Token<T>& t) {
  using B = Blocking<T>;
  const std::int64_t columns = p.state_width();
  std::int64_t c = 0;
  for (; c + 4 * B::kLanes <= columns; c += 4 * B::kLanes)
    step_columns<4, true, kDecay, kBonus>(p, u, t, c);
  for (; c + B::kLanes <= columns; c += B::kLanes)
    step_columns<1, true, kDecay, kBonus>(p, u, t, c);
  if (c < columns) step_columns<1, false, kDecay, kBonus>(p, u, t, c);
}

template <class T>
void step_recurrent(const RecurrentParams& p, const RecurrentUnit& u) {
  using B = Blocking<T>;
  constexpr std::int64_t kMost = 1024 + 64;
  HWY_ALIGN T values[kMost];
  HWY_ALIGN T out[kMost];
  HWY_ALIGN T w[kMost];
  const std::int64_t q_head = u.head / p.group;
  Token<T> t{};
  t.q = row_of<T>(p.q, u.batch, q_head, u.begin);
  t.k = row_of<T>(p.k, u.batch, q_head, u.begin);
  if (p.rank_one) {
    t.a = row_of<T>(p.a, u.batch, q_head, u.begin);
    t.b = row_of<T>(p.b, u.batch, q_head, u.begin);
  }
  const bool made = p.gates != nullptr;
  T made_decay = 0, made_beta = 0;
  if (made) (*p.gates)(u, u.begin, 1, &made_decay, &made_beta);
  t.beta = p.beta.data == nullptr ? T(1) : *element<T>(p.beta, u.batch, u.head, u.begin);
  load_values(p, u, u.begin, 1, made ? &made_beta : nullptr, false, Rows<T>{values, kMost});
  t.values = values;
  t.out = out;
  if (p.log_decay.data != nullptr || made) {
    const typename B::D d;
    const auto log2e = hn::Set(d, T(1.4426950408889634));
    const std::int64_t width = p.log_decay.width, whole = whole_vectors<T>(width);
    const T* log = made ? &made_decay : element<T>(p.log_decay, u.batch, u.head, u.begin);
    std::copy_n(log, width, w);
    std::fill(w + width, w + whole, T(0));
    for (std::int64_t c = 0; c < whole; c += B::kLanes)
      hn::Store(exp2(d, hn::Mul(hn::Load(d, w + c), log2e)), d, w + c);
    t.w = w;
    t.w_step = width > 1 ? 1 : 0;
  }
  const bool bonus = p.bonus.data != nullptr;
  if (bonus) t.bonus = element<T>(p.bonus, 0, u.head, 0);
  if (t.w == nullptr)
    bonus ? step_all_columns<false, true>(p, u, t) : step_all_columns<false, false>(p, u, t);
  else
    bonus ? step_all_columns<true, true>(p, u, t) : step_all_columns<true, false>(p, u, t);
  if (p.out.data == nullptr) return;
  T* to = mutable_row_of<T>(p.out, u.batch, u.head, u.begin);
  const T inverse = p.normalise ? inverse_of(out[p.v_width] + static_cast<T>(p.epsilon)) : T(1);
  for (std::int64_t i = 0; i < p.v_width; ++i) to[i] = out[i] * inverse;
}

template <class T>
const RecurrentKernel& recurrent_kernel_for() {
  static constexpr RecurrentKernel kKernel{Blocking<T>::kPanel, &recurrent_bytes<T>,
                                           &run_recurrent<T>, &step_recurrent<T>};
  return kKernel;
}

const RecurrentKernel& recurrent_kernel_of(DType dtype) {
  return dtype == DType::f64 ? recurrent_kernel_for<double>() : recurrent_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const RecurrentKernel& recurrent_kernel(Isa isa, DType dtype) {
  switch (isa) {
#if HWY_TARGETS & HWY_AVX3
    case Isa::avx512: return N_AVX3::recurrent_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_AVX2
    case Isa::avx2: return N_AVX2::recurrent_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_NEON
    case Isa::neon: return N_NEON::recurrent_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_SCALAR
    case Isa::scalar: return N_SCALAR::recurrent_kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_EMU128
    case Isa::scalar: return N_EMU128::recurrent_kernel_of(dtype);
#endif
    default: throw std::invalid_argument("[kernels] this build has no " + std::string(name(isa)));
  }
}

}  // namespace attn::kernels
#endif
