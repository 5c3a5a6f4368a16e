// Micro-kernels: the two products of a strip of rows with a panel of keys or of value columns, and
// packing into the layouts that they read. Included once a target.
//
// Every score is one chain of fused multiply-adds over the width, every output one chain over
// ascending keys, whatever the strip height; so the height (1...kRows) moves no bit.
#if defined(ATTN_KERNELS_MICRO_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_MICRO_INL_H_
#undef ATTN_KERNELS_MICRO_INL_H_
#else
#define ATTN_KERNELS_MICRO_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "kernels/stored-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Sizes by register count: accumulators, two panel vectors and a broadcast fill the registers.
template <class T>
struct Blocking {
  using D = hn::ScalableTag<T>;
  static constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
#if HWY_TARGET == HWY_AVX3
  static constexpr int kRows = 14;
#elif HWY_TARGET == HWY_NEON
  static constexpr int kRows = 12;
#elif HWY_TARGET == HWY_AVX2
  static constexpr int kRows = 6;
#else
  static constexpr int kRows = 4;
#endif
  static constexpr std::int64_t kPanel = 2 * kLanes;
  static constexpr std::int64_t kTile = 256;
  static constexpr std::int64_t kSegment = 1024;
  // Elements between the rows of a score strip: padded, lest rows meet in the same cache sets.
  static constexpr std::int64_t kStride = kTile + (kLanes < 4 ? 4 : kLanes);
};

// A panel is two vectors wide; where only one of them is needed, kV is 1 and pointers start at it.

// scores[r][...] = sum over d of q[d][r] * k[d][...], for kV vectors of keys. While they are in
// registers, top[r][lane] becomes the largest score so far. Calls each_step(i) for each d.
template <int kM, int kV, class T, class EachStep>
HWY_INLINE void score_panel_with(const T* HWY_RESTRICT q, const T* HWY_RESTRICT k,
                                 std::int64_t width, T* HWY_RESTRICT scores, T* HWY_RESTRICT top,
                                 const EachStep& each_step) {
  using B = Blocking<T>;
  const typename B::D d;
  hn::Vec<typename B::D> sum[kV][kM];
#pragma GCC unroll 2
  for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) sum[v][r] = hn::Zero(d);
  }
#pragma GCC unroll 2
  for (std::int64_t i = 0; i < width; ++i) {
    each_step(i);
    hn::Vec<typename B::D> key[kV];
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) key[v] = hn::Load(d, k + v * B::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) {
      const auto element = hn::Set(d, q[r]);
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) sum[v][r] = hn::MulAdd(element, key[v], sum[v][r]);
    }
    q += kM;
    k += B::kPanel;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kM; ++r) {
    auto largest = hn::Load(d, top + r * B::kLanes);
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) {
      hn::Store(sum[v][r], d, scores + r * B::kStride + v * B::kLanes);
      largest = hn::Max(largest, sum[v][r]);
    }
    hn::Store(largest, d, top + r * B::kLanes);
  }
}

template <int kM, int kV, class T>
HWY_NOINLINE void score_panel(const T* HWY_RESTRICT q, const T* HWY_RESTRICT k, std::int64_t width,
                              T* HWY_RESTRICT scores, T* HWY_RESTRICT top) {
  score_panel_with<kM, kV>(q, k, width, scores, top, [](std::int64_t) HWY_ATTR {});
}

// The same, fetching something in every `pace`th step (a power of two).
template <int kM, int kV, class T>
HWY_NOINLINE void score_panel_ahead(const T* HWY_RESTRICT q, const T* HWY_RESTRICT k,
                                    std::int64_t width, T* HWY_RESTRICT scores, T* HWY_RESTRICT top,
                                    std::int64_t pace, Ahead& ahead) {
  score_panel_with<kM, kV>(q, k, width, scores, top, [&](std::int64_t i) HWY_ATTR {
    if ((i & (pace - 1)) == 0) ahead.fetch_step();
  });
}

// out[r][...] = out * factor[r] + sum over keys of p[r][key] * v[key][...], for kV vectors of
// columns; keys are v_stride elements apart, in whatever type they are stored. A null factor is
// one. Calls each_step(i) for each key.
template <int kM, int kV, class T, class S, class EachStep>
HWY_INLINE void value_panel_with(const T* HWY_RESTRICT p, const S* HWY_RESTRICT values,
                                 std::int64_t v_stride, std::int64_t keys,
                                 const T* HWY_RESTRICT factor, T* HWY_RESTRICT out,
                                 const EachStep& each_step) {
  using B = Blocking<T>;
  const typename B::D d;
  hn::Vec<typename B::D> sum[kV][kM];
#pragma GCC unroll 2
  for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) sum[v][r] = hn::Load(d, out + r * B::kPanel + v * B::kLanes);
  }
  if (factor != nullptr) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) {
      const auto f = hn::Set(d, factor[r]);
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) sum[v][r] = hn::Mul(sum[v][r], f);
    }
  }
#pragma GCC unroll 2
  for (std::int64_t i = 0; i < keys; ++i) {
    each_step(i);
    hn::Vec<typename B::D> value[kV];
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) value[v] = load_stored(d, values + v * B::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) {
      const auto element = hn::Set(d, p[r * B::kStride]);
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) sum[v][r] = hn::MulAdd(element, value[v], sum[v][r]);
    }
    ++p;
    values += v_stride;
  }
#pragma GCC unroll 2
  for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) {
      hn::Store(sum[v][r], d, out + r * B::kPanel + v * B::kLanes);
    }
  }
}

template <int kM, int kV, class T, class S>
HWY_NOINLINE void value_panel(const T* HWY_RESTRICT p, const S* HWY_RESTRICT values,
                              std::int64_t v_stride, std::int64_t keys,
                              const T* HWY_RESTRICT factor, T* HWY_RESTRICT out) {
  value_panel_with<kM, kV>(p, values, v_stride, keys, factor, out, [](std::int64_t) HWY_ATTR {});
}

// The same, fetching something for every `pace`th key (a power of two).
template <int kM, int kV, class T, class S>
HWY_NOINLINE void value_panel_ahead(const T* HWY_RESTRICT p, const S* HWY_RESTRICT values,
                                    std::int64_t v_stride, std::int64_t keys,
                                    const T* HWY_RESTRICT factor, T* HWY_RESTRICT out,
                                    std::int64_t pace, Ahead& ahead) {
  value_panel_with<kM, kV>(p, values, v_stride, keys, factor, out, [&](std::int64_t i) HWY_ATTR {
    if ((i & (pace - 1)) == 0) ahead.fetch_step();
  });
}

// One row of packed values, only its visible keys: the same chain as value_panel without the terms
// 0 * v, which a non-finite v would turn into NaN.
template <class T>
void value_row(const T* HWY_RESTRICT p, const T* HWY_RESTRICT v, const std::uint64_t* visible,
               std::int64_t begin, std::int64_t end, T factor, T* HWY_RESTRICT out) {
  using B = Blocking<T>;
  const typename B::D d;
  auto low = hn::Mul(hn::Load(d, out), hn::Set(d, factor));
  auto high = hn::Mul(hn::Load(d, out + B::kLanes), hn::Set(d, factor));
  for (std::int64_t i = begin; i < end; ++i) {
    if ((visible[i / 64] >> (i % 64) & 1) == 0) continue;
    const auto element = hn::Set(d, p[i]);
    low = hn::MulAdd(element, hn::Load(d, v + i * B::kPanel), low);
    high = hn::MulAdd(element, hn::Load(d, v + i * B::kPanel + B::kLanes), high);
  }
  hn::Store(low, d, out);
  hn::Store(high, d, out + B::kLanes);
}

// out[c][r] = factor * in[r][c] for 4 rows and 4 columns.
template <class T>
HWY_INLINE void transpose_4x4(const T* HWY_RESTRICT in, std::int64_t in_stride, T factor,
                              T* HWY_RESTRICT out, std::int64_t out_stride) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (sizeof(T) == 4) {
    const hn::FixedTag<T, 4> d;
    const auto f = hn::Set(d, factor);
    const auto a = hn::Mul(hn::LoadU(d, in), f);
    const auto b = hn::Mul(hn::LoadU(d, in + in_stride), f);
    const auto c = hn::Mul(hn::LoadU(d, in + 2 * in_stride), f);
    const auto e = hn::Mul(hn::LoadU(d, in + 3 * in_stride), f);
    const auto ac_low = hn::InterleaveLower(d, a, c), ac_high = hn::InterleaveUpper(d, a, c);
    const auto be_low = hn::InterleaveLower(d, b, e), be_high = hn::InterleaveUpper(d, b, e);
    hn::StoreU(hn::InterleaveLower(d, ac_low, be_low), d, out);
    hn::StoreU(hn::InterleaveUpper(d, ac_low, be_low), d, out + out_stride);
    hn::StoreU(hn::InterleaveLower(d, ac_high, be_high), d, out + 2 * out_stride);
    hn::StoreU(hn::InterleaveUpper(d, ac_high, be_high), d, out + 3 * out_stride);
    return;
  }
#endif
  for (int r = 0; r < 4; ++r) {
    for (int c = 0; c < 4; ++c) out[c * out_stride + r] = factor * in[r * in_stride + c];
  }
}

// out[c][r] = factor * in[r][c], rows x columns; out rows are out_stride apart.
template <class T>
void transpose(const T* HWY_RESTRICT in, std::int64_t in_stride, std::int64_t rows,
               std::int64_t columns, T factor, T* HWY_RESTRICT out, std::int64_t out_stride) {
  std::int64_t r = 0;
  while (r < rows && rows >= 4) {
    if (r > rows - 4) r = rows - 4;  // the last four overlap the ones before
    std::int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      transpose_4x4(in + r * in_stride + c, in_stride, factor, out + c * out_stride + r,
                    out_stride);
    }
    for (; c < columns; ++c) {
      for (std::int64_t i = r; i < r + 4; ++i)
        out[c * out_stride + i] = factor * in[i * in_stride + c];
    }
    r += 4;
  }
  for (; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c)
      out[c * out_stride + r] = factor * in[r * in_stride + c];
  }
}

#if HWY_TARGET != HWY_SCALAR
// Four floats from `row(i)` for each i = 0, 4, 8, ..., one row a 128-bit block.
template <class D, class Row>
HWY_INLINE hn::Vec<D> load_blocks(D d, const Row& row) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(d, row(0));
  } else {
#if HWY_TARGET == HWY_AVX3
    if constexpr (hn::MaxLanes(D()) == 16) {
      // Broadcasts under a mask take any port; inserting halves takes the one that shuffles need.
      auto v = _mm512_broadcast_f32x4(_mm_loadu_ps(row(0)));
      v = _mm512_mask_broadcast_f32x4(v, 0x00f0, _mm_loadu_ps(row(4)));
      v = _mm512_mask_broadcast_f32x4(v, 0x0f00, _mm_loadu_ps(row(8)));
      v = _mm512_mask_broadcast_f32x4(v, 0xf000, _mm_loadu_ps(row(12)));
      return hn::VFromD<D>{v};
    }
#endif
    const hn::Half<D> half;
    constexpr auto kRows = static_cast<std::int64_t>(hn::MaxLanes(half));
    return hn::Combine(d,
                       load_blocks(half, [&](std::int64_t i) HWY_ATTR { return row(i + kRows); }),
                       load_blocks(half, row));
  }
}
#endif

// transpose() with rows of the output side by side; may write kLanes elements past the end.
template <class T>
void transpose_strip(const T* HWY_RESTRICT in, std::int64_t in_stride, std::int64_t rows,
                     std::int64_t columns, T factor, T* HWY_RESTRICT out) {
  std::int64_t c = 0;
#if HWY_TARGET != HWY_SCALAR
  using B = Blocking<T>;
  if constexpr (sizeof(T) == 4 && B::kRows <= B::kLanes) {
    // Vectors of rows; what is past the last row is overwritten by the next column.
    const typename B::D d;
    const T* from[B::kLanes];
    for (std::int64_t r = 0; r < B::kLanes; ++r)
      from[r] = in + (r < rows ? r : rows - 1) * in_stride;
    const auto f = hn::Set(d, factor);
    for (; c + 4 <= columns; c += 4) {
      const auto rows_from = [&](std::int64_t first) HWY_ATTR {
        return load_blocks(d, [&](std::int64_t i) HWY_ATTR { return from[first + i] + c; });
      };
      const auto r0 = rows_from(0), r1 = rows_from(1), r2 = rows_from(2), r3 = rows_from(3);
      const auto low02 = hn::InterleaveLower(d, r0, r2), high02 = hn::InterleaveUpper(d, r0, r2);
      const auto low13 = hn::InterleaveLower(d, r1, r3), high13 = hn::InterleaveUpper(d, r1, r3);
      T* to = out + c * rows;
      hn::StoreU(hn::Mul(f, hn::InterleaveLower(d, low02, low13)), d, to);
      hn::StoreU(hn::Mul(f, hn::InterleaveUpper(d, low02, low13)), d, to + rows);
      hn::StoreU(hn::Mul(f, hn::InterleaveLower(d, high02, high13)), d, to + 2 * rows);
      hn::StoreU(hn::Mul(f, hn::InterleaveUpper(d, high02, high13)), d, to + 3 * rows);
    }
  }
#endif
  transpose(in + c, in_stride, rows, columns - c, factor, out + c * rows, rows);
}

// `keys` rows of a strided matrix, at most kPanel, to one panel [width][kPanel], its rows kStep
// apart; missing keys are 0.
template <class T, std::int64_t kStep = Blocking<T>::kPanel>
void pack_panel(const T* HWY_RESTRICT from, std::int64_t stride, std::int64_t keys,
                std::int64_t width, T* HWY_RESTRICT panel) {
  using B = Blocking<T>;
  if (keys < B::kPanel) {
    for (std::int64_t c = 0; c < width; ++c) {
      for (std::int64_t i = 0; i < B::kPanel; ++i) panel[c * kStep + i] = 0;
    }
    transpose(from, stride, keys, width, T(1), panel, kStep);
    return;
  }
  std::int64_t c = 0;
#if HWY_TARGET != HWY_SCALAR
  if constexpr (sizeof(T) == 4) {
    // Whole vectors of keys, four columns at a time, transposed within 128-bit blocks.
    const typename B::D d;
    for (; c + 4 <= width; c += 4) {
      for (std::int64_t half = 0; half < B::kPanel; half += B::kLanes) {
        const T* corner = from + half * stride + c;
        const auto keys_from = [&](std::int64_t first) HWY_ATTR {
          return load_blocks(
              d, [&](std::int64_t i) HWY_ATTR { return corner + (first + i) * stride; });
        };
        const auto k0 = keys_from(0), k1 = keys_from(1), k2 = keys_from(2), k3 = keys_from(3);
        const auto low02 = hn::InterleaveLower(d, k0, k2), high02 = hn::InterleaveUpper(d, k0, k2);
        const auto low13 = hn::InterleaveLower(d, k1, k3), high13 = hn::InterleaveUpper(d, k1, k3);
        T* to = panel + c * kStep + half;
        hn::Store(hn::InterleaveLower(d, low02, low13), d, to);
        hn::Store(hn::InterleaveUpper(d, low02, low13), d, to + kStep);
        hn::Store(hn::InterleaveLower(d, high02, high13), d, to + 2 * kStep);
        hn::Store(hn::InterleaveUpper(d, high02, high13), d, to + 3 * kStep);
      }
    }
  }
#endif
  transpose(from + c, stride, keys, width - c, T(1), panel + c * kStep, kStep);
}

// Keys [count][width] -> panels [kTile / kPanel][width][kPanel]; keys past `count` are zero.
template <class T>
void pack_keys(const T* HWY_RESTRICT k, std::int64_t stride, std::int64_t count, std::int64_t width,
               T* HWY_RESTRICT out) {
  using B = Blocking<T>;
  for (std::int64_t j = 0; j < count; j += B::kPanel)
    pack_panel(k + j * stride, stride, count - j < B::kPanel ? count - j : B::kPanel, width,
               out + j * width);
}

// Values [count][width] -> panels [width / kPanel][kTile][kPanel], columns past `width` zero.
// Returns whether all are finite.
template <class T, class S>
bool pack_values(const S* HWY_RESTRICT v, std::int64_t stride, std::int64_t count,
                 std::int64_t width, T* HWY_RESTRICT out) {
  using B = Blocking<T>;
  const typename B::D d;
  const auto zero = hn::Zero(d);
  auto poison = zero, poison_high = zero;  // 0 * x sums to NaN when any x is not finite
  for (std::int64_t c = 0; c < width; c += B::kPanel, out += B::kTile * B::kPanel) {
    const std::int64_t columns = width - c < B::kPanel ? width - c : B::kPanel;
    for (std::int64_t i = 0; i < count; ++i) {
      const S* from = v + i * stride + c;
      T* to = out + i * B::kPanel;
      if (columns == B::kPanel) {
        const auto low = load_stored(d, from), high = load_stored(d, from + B::kLanes);
        poison = hn::MulAdd(zero, low, poison);
        poison_high = hn::MulAdd(zero, high, poison_high);
        hn::Store(low, d, to);
        hn::Store(high, d, to + B::kLanes);
      } else {
        for (std::int64_t j = 0; j < B::kPanel; ++j)
          to[j] = j < columns ? static_cast<T>(element_of(from[j])) : T(0);
        poison = hn::MulAdd(zero, hn::Load(d, to), poison);
        poison_high = hn::MulAdd(zero, hn::Load(d, to + B::kLanes), poison_high);
      }
    }
  }
  poison = hn::Add(poison, poison_high);
  return hn::AllTrue(d, hn::Eq(poison, poison));
}

// Whether `count` numbers are finite.
template <class T>
bool all_finite(const T* HWY_RESTRICT x, std::int64_t count) {
  using B = Blocking<T>;
  const typename B::D d;
  const auto zero = hn::Zero(d);
  auto poison = zero, poison_high = zero;
  std::int64_t i = 0;
  for (; i + B::kPanel <= count; i += B::kPanel) {
    poison = hn::MulAdd(zero, hn::LoadU(d, x + i), poison);
    poison_high = hn::MulAdd(zero, hn::LoadU(d, x + i + B::kLanes), poison_high);
  }
  T rest = 0;
  for (; i < count; ++i) rest += T(0) * x[i];
  poison = hn::Add(hn::Add(poison, poison_high), hn::Set(d, rest));
  return hn::AllTrue(d, hn::Eq(poison, poison));
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
