// What the delta rule writes: u_t = beta_t (v_t - k_tᵀ diag(w_t) S_(t-1)). In a chunk this is a
// triangular system, (1 + diag(beta) N) U = diag(beta) (V - K' S~), where K' are keys scaled as
// queries are and N_tj = K'_t . K~_j for j < t. Included once a target.
#if defined(ATTN_KERNELS_RECURRENT_DELTA_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_RECURRENT_DELTA_INL_H_
#undef ATTN_KERNELS_RECURRENT_DELTA_INL_H_
#else
#define ATTN_KERNELS_RECURRENT_DELTA_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "kernels/recurrent-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
struct DeltaScratch {
  T* reads_across = nullptr;  // [width][chunk]: K'
  Rows<T> pairs;              // [chunk j][chunk t]: N
  Rows<T> held;               // [chunk][columns]: what the state and earlier tokens hold
  T* beta = nullptr;          // [chunk]

  DeltaScratch() = default;
  DeltaScratch(const RecurrentParams& p, std::int64_t step, Arena& arena) {
    reads_across = arena.take<T>(p.width * kRecurrentChunk);
    pairs = {arena.take<T>(kRecurrentChunk * kRecurrentChunk), kRecurrentChunk};
    held = {arena.take<T>(kRecurrentChunk * step), step};
    beta = arena.take<T>(kRecurrentChunk);
  }
};

// y[...] += a x[...] over whole vectors.
template <class T>
HWY_INLINE void add_scaled(T a, const T* HWY_RESTRICT x, std::int64_t count, T* HWY_RESTRICT y) {
  using B = Blocking<T>;
  const typename B::D d;
  const auto factor = hn::Set(d, a);
  for (std::int64_t c = 0; c < count; c += B::kLanes)
    hn::Store(hn::MulAdd(factor, hn::Load(d, x + c), hn::Load(d, y + c)), d, y + c);
}

// Makes `values`, V, the chunk's U; scratch.reads_across is packed. Keeps N, beta and what was
// held.
template <class T>
void correct_values(const RecurrentParams& p, const RecurrentUnit& u, std::int64_t token,
                    std::int64_t n, const T* k_across, const Rows<T>& state, const Rows<T>& values,
                    const DeltaScratch<T>& scratch) {
  using B = Blocking<T>;
  const typename B::D d;
  constexpr std::int64_t kC = kRecurrentChunk;
  for (std::int64_t t = 0; t < n; ++t)
    scratch.beta[t] =
        p.beta.data == nullptr ? T(1) : *element<T>(p.beta, u.batch, u.head, token + t);
  for_strips<T>(n, [&](std::int64_t j, std::int64_t height) HWY_ATTR {
    const std::int64_t from = j / B::kPanel * B::kPanel;
    product_strip<false>(height, k_across + j, kC, scratch.reads_across + from, kC, p.width,
                         scratch.pairs[j] + from, kC, round_up(n, B::kLanes) - from);
  });
  for_strips<T>(n, [&](std::int64_t t, std::int64_t height) HWY_ATTR {
    const Rows<T>& held = scratch.held;
    product_strip<false>(height, scratch.reads_across + t, kC, state.data, state.step, p.width,
                         held[t], held.step, held.step);
    if (t > 0)
      product_strip<true>(height, scratch.pairs.data + t, kC, values.data, values.step, t, held[t],
                          held.step, held.step);
    for (std::int64_t r = t; r < t + height; ++r) {
      for (std::int64_t j = t; j < r; ++j)
        add_scaled(scratch.pairs[j][r], values[j], held.step, held[r]);
      const auto beta = hn::Set(d, scratch.beta[r]);
      for (std::int64_t c = 0; c < held.step; c += B::kLanes) {
        const auto left = hn::Sub(hn::Load(d, values[r] + c), hn::Load(d, held[r] + c));
        hn::Store(hn::Mul(beta, left), d, values[r] + c);
      }
    }
  });
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
