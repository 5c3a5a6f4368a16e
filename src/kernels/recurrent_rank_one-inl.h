// What a rank-one term of the transition writes: a_t p_tᵀ with p_t = b_tᵀ S_(t-1), beside k_t v_tᵀ.
// In a chunk this is a triangular system, P = B~ S~ + M V + N P, where B~ is b scaled as what reads
// before the decay, A~ is a scaled as keys are, M_tj = B~_t . K~_j and N_tj = B~_t . A~_j for j <
// t. Included once a target.
#if defined(ATTN_KERNELS_RECURRENT_RANK_ONE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_RECURRENT_RANK_ONE_INL_H_
#undef ATTN_KERNELS_RECURRENT_RANK_ONE_INL_H_
#else
#define ATTN_KERNELS_RECURRENT_RANK_ONE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "kernels/recurrent_delta-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
struct RankOneScratch {
  Rows<T> a, b;              // [chunk][width]: A~, B~
  T *a_across, *b_across;    // [width][chunk]
  Rows<T> k_pairs, a_pairs;  // [chunk j][chunk t]: M and N
  Rows<T> values;            // [chunk][columns]: P

  RankOneScratch() = default;
  RankOneScratch(const RecurrentParams& p, std::int64_t step, Arena& arena) {
    constexpr std::int64_t kC = kRecurrentChunk;
    const std::int64_t width = whole_vectors<T>(p.width);
    a = {arena.take<T>(kC * width), width};
    b = {arena.take<T>(kC * width), width};
    a_across = arena.take<T>(p.width * kC);
    b_across = arena.take<T>(p.width * kC);
    k_pairs = {arena.take<T>(kC * kC), kC};
    a_pairs = {arena.take<T>(kC * kC), kC};
    values = {arena.take<T>(kC * step), step};
  }
};

// Makes the chunk's P, from `values`, V.
template <class T>
void solve_rank_one(std::int64_t width, std::int64_t n, const T* k_across, const Rows<T>& state,
                    const Rows<T>& values, const RankOneScratch<T>& scratch) {
  using B = Blocking<T>;
  constexpr std::int64_t kC = kRecurrentChunk;
  const auto pairs = [&](const T* keys, const Rows<T>& to) {
    for_strips<T>(n, [&](std::int64_t j, std::int64_t height) HWY_ATTR {
      const std::int64_t from = j / B::kPanel * B::kPanel;
      product_strip<false>(height, keys + j, kC, scratch.b_across + from, kC, width, to[j] + from,
                           kC, round_up(n, B::kLanes) - from);
      for (std::int64_t r = j; r < j + height; ++r) std::fill(to[r] + from, to[r] + r + 1, T(0));
    });
  };
  pairs(k_across, scratch.k_pairs);
  pairs(scratch.a_across, scratch.a_pairs);
  for_strips<T>(n, [&](std::int64_t t, std::int64_t height) HWY_ATTR {
    const Rows<T>& p = scratch.values;
    product_strip<false>(height, scratch.b_across + t, kC, state.data, state.step, width, p[t],
                         p.step, p.step);
    product_strip<true>(height, scratch.k_pairs.data + t, kC, values.data, values.step, t + height,
                        p[t], p.step, p.step);
    if (t > 0)
      product_strip<true>(height, scratch.a_pairs.data + t, kC, p.data, p.step, t, p[t], p.step,
                          p.step);
    solve_strip<false, T>(height, scratch.a_pairs[t] + t, nullptr, p[t], p.step, p[t], p.step,
                          p.step);
  });
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
