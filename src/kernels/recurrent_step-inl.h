// One token of the matrix-state recurrence: the state is read, changed and written by whole rows,
// at the rate of memory. Included once a target.
#if defined(ATTN_KERNELS_RECURRENT_STEP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_RECURRENT_STEP_INL_H_
#undef ATTN_KERNELS_RECURRENT_STEP_INL_H_
#else
#define ATTN_KERNELS_RECURRENT_STEP_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "kernels/recurrent-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// How far ahead of the row that is read the state is fetched, where it is read once.
constexpr std::int64_t kRowsFetched = 16;

// One token of one head.
template <class T>
struct Token {
  const T *q, *k;
  const T *a, *b;       // of a rank-one term; null: none
  const T* reads;       // by the delta rule: keys times factors of the decay
  const T* w;           // factors of the decay
  std::int64_t w_step;  // 0: one for all
  const T* values;      // beta v, by the delta rule v; aligned, to whole vectors
  T beta;
  T bonus;  // (q . u k), where the token is read before the decay
  T* out;   // aligned, to whole vectors
  T* sum;   // what the query gives all keys
};

// kV vectors of a token's columns, or `count` columns of one vector: the state is read and written
// once, by the delta rule and with a rank-one term read twice. kSum: the sum of keys too, alone: a
// masked vector that ends with it would hold up the next row, which begins in what is masked.
template <int kV, bool kWhole, bool kSum, bool kDecay, bool kBonus, class T>
HWY_NOINLINE void step_columns(const RecurrentParams& p, const RecurrentUnit& u, const Token<T>& t,
                               std::int64_t column, std::int64_t count) {
  using B = Blocking<T>;
  const typename B::D d;
  const T* before = row_of<T>(p.before, u.sequence, u.head, 0) + column;
  T* after = mutable_row_of<T>(p.after, u.sequence, u.head, 0) + column;
  const std::int64_t before_step = p.before.length, after_step = p.after.length;
  const auto load = [&](std::int64_t r, int v) HWY_ATTR {
    const T* at = before + r * before_step + v * B::kLanes;
    return kWhole ? hn::LoadU(d, at) : load_some(d, at, count);
  };
  const auto decayed = [&](std::int64_t r, hn::Vec<typename B::D> s) HWY_ATTR {
    return kDecay ? hn::Mul(s, hn::Set(d, t.w[r * t.w_step])) : s;
  };
  // States follow each other. Of what is read twice, the first pass fetches the state's second
  // half, and the second pass the first half of the next one: neither waits for memory alone.
  const auto fetch = [&](std::int64_t row) HWY_ATTR {
    constexpr std::int64_t kLine = 64 / sizeof(T);
    for (std::int64_t c = 0; c < kV * B::kLanes; c += kLine)
      __builtin_prefetch(before + row * before_step + c, 1, 3);
  };
  const auto fetch_half = [&](std::int64_t r) HWY_ATTR {
    if (r < p.width / 2) fetch(r + p.width / 2);
  };
  const bool twice = p.delta || p.rank_one;
  hn::Vec<typename B::D> value[kV], y[kV], held[kV];
#pragma GCC unroll 16
  for (int v = 0; v < kV; ++v) {
    value[v] = hn::Load(d, t.values + column + v * B::kLanes);
    y[v] = held[v] = hn::Zero(d);
  }
  for (std::int64_t r = 0; r < p.width && p.rank_one; ++r) {
    const auto read = hn::Set(d, t.b[r]);
    fetch_half(r);
#pragma GCC unroll 16
    for (int v = 0; v < kV; ++v) held[v] = hn::MulAdd(read, load(r, v), held[v]);
  }
  if (p.delta) {
    for (std::int64_t r = 0; r < p.width; ++r) {
      const auto key = hn::Set(d, t.reads[r]);
      fetch_half(r);
#pragma GCC unroll 16
      for (int v = 0; v < kV; ++v) y[v] = hn::MulAdd(key, load(r, v), y[v]);
    }
#pragma GCC unroll 16
    for (int v = 0; v < kV; ++v) {
      value[v] = hn::Mul(hn::Set(d, t.beta), hn::Sub(value[v], y[v]));
      y[v] = hn::Zero(d);
    }
  }
  const std::int64_t sum_at = p.v_width - column;
  T sum = 0;
#pragma GCC unroll 2
  for (std::int64_t r = 0; r < p.width; ++r) {
    const auto key = hn::Set(d, t.k[r]);
    const auto query = hn::Set(d, t.q[r]);
    if (!twice)
      fetch(r + kRowsFetched);
    else if (r % 2 == 0)
      fetch(p.width + r / 2);
#pragma GCC unroll 16
    for (int v = 0; v < kV; ++v) {
      auto s = load(r, v);
      if constexpr (kBonus) y[v] = hn::MulAdd(query, s, y[v]);
      s = hn::MulAdd(key, value[v], decayed(r, s));
      if (p.rank_one) s = hn::MulAdd(hn::Set(d, t.a[r]), held[v], s);
      if constexpr (!kBonus) y[v] = hn::MulAdd(query, s, y[v]);
      T* to = after + r * after_step + v * B::kLanes;
      if constexpr (kWhole)
        hn::StoreU(s, d, to);
      else
        store_some(d, s, to, count);
    }
    if constexpr (kSum) {
      T s = before[r * before_step + sum_at];
      if constexpr (kBonus) sum += t.q[r] * s;
      s = (kDecay ? t.w[r * t.w_step] : T(1)) * s + t.k[r] * t.beta;
      if constexpr (!kBonus) sum += t.q[r] * s;
      after[r * after_step + sum_at] = s;
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < kV; ++v) {
    if constexpr (kBonus) y[v] = hn::MulAdd(hn::Set(d, t.bonus), value[v], y[v]);
    hn::Store(y[v], d, t.out + column + v * B::kLanes);
  }
  if constexpr (kSum) *t.sum = kBonus ? sum + t.bonus * t.beta : sum;
}

template <bool kDecay, bool kBonus, class T>
void step_all_columns(const RecurrentParams& p, const RecurrentUnit& u, const Token<T>& t) {
  using B = Blocking<T>;
  constexpr int kMost = static_cast<int>(std::clamp<std::int64_t>(64 / B::kLanes, 1, 8));
  const std::int64_t columns = p.v_width;
  std::int64_t c = 0;
  const auto step = [&]<int kV, bool kWhole>() {
    const std::int64_t count = std::min(kV * B::kLanes, columns - c);
    if (c == 0 && p.normalise)
      step_columns<kV, kWhole, true, kDecay, kBonus>(p, u, t, c, count);
    else
      step_columns<kV, kWhole, false, kDecay, kBonus>(p, u, t, c, count);
    c += count;
  };
  while (c + kMost * B::kLanes <= columns) step.template operator()<kMost, true>();
  while (c + B::kLanes <= columns) step.template operator()<1, true>();
  if (c < columns) step.template operator()<1, false>();
}

template <class T>
void step_recurrent(const RecurrentParams& p, const RecurrentUnit& u) {
  using B = Blocking<T>;
  constexpr std::int64_t kMost = 1024 + 64;
  HWY_ALIGN T values[kMost];
  HWY_ALIGN T out[kMost];
  HWY_ALIGN T w[kMost];
  HWY_ALIGN T q[kMost];
  HWY_ALIGN T k[kMost];
  const typename B::D d;
  const std::int64_t q_head = u.head / p.group;
  Token<T> t{};
  t.q = row_of<T>(p.q, u.batch, q_head, u.begin);
  t.k = row_of<T>(p.k, u.batch, q_head, u.begin);
  if (p.map != FeatureMap::identity) {
    with_map(p.map, [&]<FeatureMap kMap>() HWY_ATTR {
      for (std::int64_t c = 0; c < p.width; c += B::kLanes) {
        hn::Store(feature_of<kMap>(d, load_some(d, t.q + c, p.width - c)), d, q + c);
        hn::Store(feature_of<kMap>(d, load_some(d, t.k + c, p.width - c)), d, k + c);
      }
    });
    t.q = q;
    t.k = k;
  }
  if (p.rank_one) {
    t.a = row_of<T>(p.a, u.batch, q_head, u.begin);
    t.b = row_of<T>(p.b, u.batch, q_head, u.begin);
  }
  const bool made = p.gates != nullptr;
  T made_decay = 0, made_beta = 0;
  if (made) (*p.gates)(u, u.begin, 1, &made_decay, &made_beta);
  t.beta = made                     ? made_beta
           : p.beta.data != nullptr ? *element<T>(p.beta, u.batch, u.head, u.begin)
                                    : T(1);
  load_values(p, u, u.begin, 1, p.v_width, !p.delta && t.beta != 1, &t.beta,
              Rows<T>{values, kMost});
  T sum = 0;
  t.values = values;
  t.out = out;
  t.sum = &sum;
  if (p.log_decay.data != nullptr || made) {
    const auto log2e = hn::Set(d, T(1.4426950408889634));
    const std::int64_t width = p.log_decay.width, whole = whole_vectors<T>(width);
    const T* log = made ? &made_decay : element<T>(p.log_decay, u.batch, u.head, u.begin);
    for (std::int64_t c = 0; c < whole; c += B::kLanes)
      hn::Store(exp2(d, hn::Mul(load_some(d, log + c, width - c), log2e)), d, w + c);
    t.w = w;
    t.w_step = width > 1 ? 1 : 0;
  }
  t.reads = t.k;
  if (p.delta && t.w != nullptr) {
    for (std::int64_t r = 0; r < p.width; ++r) k[r] = t.k[r] * t.w[r * t.w_step];
    t.reads = k;
  }
  const bool bonus = p.bonus.data != nullptr;
  if (bonus) t.bonus = dot3(t.q, element<T>(p.bonus, 0, u.head, 0), t.k, p.width);
  if (t.w == nullptr)
    bonus ? step_all_columns<false, true>(p, u, t) : step_all_columns<false, false>(p, u, t);
  else
    bonus ? step_all_columns<true, true>(p, u, t) : step_all_columns<true, false>(p, u, t);
  if (p.out.data == nullptr) return;
  T* to = mutable_row_of<T>(p.out, u.batch, u.head, u.begin);
  const T inverse = p.normalise ? inverse_of(sum + static_cast<T>(p.epsilon)) : T(1);
  for (std::int64_t i = 0; i < p.v_width; ++i) to[i] = out[i] * inverse;
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
