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

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

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

// Rows of a triangular system within a strip, kV vectors of their columns: with x[r] the right side
// so far, kDelta: u[r] = beta[r] (u[r] - x[r]), else u[r] is x[r]; then x[s] += pairs[r][s] u[r]
// for s > r. All rows stay in registers meanwhile.
template <int kM, int kV, bool kDelta, class T>
HWY_NOINLINE void solve_panel(const T* HWY_RESTRICT pairs, const T* HWY_RESTRICT beta,
                              T* HWY_RESTRICT x, std::int64_t x_step, T* HWY_RESTRICT u,
                              std::int64_t u_step) {
  using B = Blocking<T>;
  const typename B::D d;
  hn::Vec<typename B::D> row[kV][kM];
#pragma GCC unroll 2
  for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) row[v][r] = hn::Load(d, x + r * x_step + v * B::kLanes);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kM; ++r) {
    hn::Vec<typename B::D> solved[kV];
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) {
      solved[v] = row[v][r];
      hn::Store(solved[v], d, x + r * x_step + v * B::kLanes);
      if constexpr (kDelta) {
        T* at = u + r * u_step + v * B::kLanes;
        solved[v] = hn::Mul(hn::Set(d, beta[r]), hn::Sub(hn::Load(d, at), solved[v]));
        hn::Store(solved[v], d, at);
      }
    }
#pragma GCC unroll 16
    for (int s = r + 1; s < kM; ++s) {
      const auto pair = hn::Set(d, pairs[r * kRecurrentChunk + s]);
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) row[v][s] = hn::MulAdd(pair, solved[v], row[v][s]);
    }
  }
}

// solve_panel for 1...kRows rows and any number of whole vectors of columns.
template <bool kDelta, class T>
void solve_strip(std::int64_t rows, const T* pairs, const T* beta, T* x, std::int64_t x_step, T* u,
                 std::int64_t u_step, std::int64_t columns) {
  using B = Blocking<T>;
  using Panel = void (*)(const T*, const T*, T*, std::int64_t, T*, std::int64_t);
  static constexpr auto kTable = []<int... kM>(std::integer_sequence<int, kM...>) {
    return std::array<std::array<Panel, 2>, B::kRows>{
        {{&solve_panel<kM + 1, 1, kDelta, T>, &solve_panel<kM + 1, 2, kDelta, T>}...}};
  }
  (std::make_integer_sequence<int, B::kRows>());
  const auto& panel = kTable[static_cast<std::size_t>(rows - 1)];
  std::int64_t at = 0;
  for (; at + B::kPanel <= columns; at += B::kPanel)
    panel[1](pairs, beta, x + at, x_step, u + at, u_step);
  if (at < columns) panel[0](pairs, beta, x + at, x_step, u + at, u_step);
}

// Makes `values`, V, the chunk's U; scratch.reads_across is packed. Keeps N, beta and what was
// held.
template <class T>
void correct_values(const RecurrentParams& p, const RecurrentUnit& u, std::int64_t token,
                    std::int64_t n, const T* k_across, const Rows<T>& state, const Rows<T>& values,
                    const DeltaScratch<T>& scratch) {
  using B = Blocking<T>;
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
    solve_strip<true>(height, scratch.pairs[t] + t, scratch.beta + t, held[t], held.step, values[t],
                      values.step, held.step);
  });
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
