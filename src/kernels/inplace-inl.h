// Micro-kernels for few rows, as in decoding: keys and values are read once, where they lie and as
// they are stored, and what comes next is fetched while this is computed. The chains of
// multiply-adds are those of micro-inl.h. Included once a target.
#if defined(ATTN_KERNELS_INPLACE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_INPLACE_INL_H_
#undef ATTN_KERNELS_INPLACE_INL_H_
#else
#define ATTN_KERNELS_INPLACE_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <type_traits>

#include "kernels/micro-inl.h"
#include "kernels/stored-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Keys of type S are transposed in registers, by words of 32 bits.
template <class T, class S>
constexpr bool kTransposesInRegisters = HWY_TARGET != HWY_SCALAR && sizeof(T) == 4 &&
                                        !std::is_same_v<S, Float16>;
// Columns of a key that are transposed together: their number must divide the width.
template <class S>
constexpr std::int64_t kColumnsTogether = 16 / static_cast<std::int64_t>(sizeof(S));

#if HWY_TARGET != HWY_SCALAR
// Column i of the sizeof(float) / sizeof(S) columns in a word, as floats.
template <int kI, class DU>
HWY_INLINE hn::Vec<hn::RebindToFloat<DU>> column_of(DU /*du*/, const float* /*type*/,
                                                    hn::Vec<DU> words) {
  return hn::BitCast(hn::RebindToFloat<DU>(), words);
}
template <int kI, class DU>
HWY_INLINE hn::Vec<hn::RebindToFloat<DU>> column_of(DU du, const BFloat16* /*type*/,
                                                    hn::Vec<DU> words) {
  const auto bits = kI == 0 ? hn::ShiftLeft<16>(words) : hn::And(words, hn::Set(du, 0xffff0000u));
  return hn::BitCast(hn::RebindToFloat<DU>(), bits);
}
// A byte u = x + 128 in the mantissa of a power of two that makes its last bit worth 1; taking the
// power away leaves x, exactly. Cheaper than widening and converting, which need more steps here.
template <int kI, class DU>
HWY_INLINE hn::Vec<hn::RebindToFloat<DU>> column_of(DU du, const std::int8_t* /*type*/,
                                                    hn::Vec<DU> words) {
  const hn::RebindToFloat<DU> d;
  if constexpr (kI >= 2) words = hn::ShiftRight<16>(words);
  constexpr std::uint32_t kByte = kI % 2 == 0 ? 0xffu : 0xff00u;
  constexpr std::uint32_t kPower = kI % 2 == 0 ? 0x4b000000u : 0x47000000u;  // 2^23, 2^15
  constexpr float kOffset = (kI % 2 == 0 ? 8388608.0f : 32768.0f) + 128.0f;
  const auto x = hn::OrAnd(hn::Set(du, kPower), words, hn::Set(du, kByte));
  return hn::Sub(hn::BitCast(d, x), hn::Set(d, kOffset));
}

// score_panel for kV * kLanes keys of type S that lie `stride` elements apart.
template <int kM, int kV, class S>
HWY_INLINE void score_vectors(const float* HWY_RESTRICT q, const S* HWY_RESTRICT keys,
                              std::int64_t stride, std::int64_t width, float* HWY_RESTRICT scores,
                              float* HWY_RESTRICT top, Ahead& ahead) {
  using B = Blocking<float>;
  using D = typename B::D;
  constexpr int kColumns = static_cast<int>(kColumnsTogether<S>), kInWord = kColumns / 4;
  const D d;
  const hn::RebindToUnsigned<D> du;
  const auto* from = reinterpret_cast<const char*>(keys);
  const std::int64_t step = stride * static_cast<std::int64_t>(sizeof(S));
  hn::Vec<D> sum[kV][kM];
#pragma GCC unroll 2
  for (int v = 0; v < kV; ++v) {
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) sum[v][r] = hn::Zero(d);
  }
#pragma GCC unroll 1
  for (std::int64_t i = 0; i < width; i += kColumns, from += 16) {
    hn::Vec<decltype(du)> words[kV][4];
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) {
      const char* corner = from + v * B::kLanes * step;
      const auto words_from = [&](std::int64_t first) HWY_ATTR {
        return hn::BitCast(du, load_blocks(d, [&](std::int64_t i) HWY_ATTR {
                             return reinterpret_cast<const float*>(corner + (first + i) * step);
                           }));
      };
      const auto k0 = words_from(0), k1 = words_from(1), k2 = words_from(2), k3 = words_from(3);
      const auto low02 = hn::InterleaveLower(du, k0, k2), high02 = hn::InterleaveUpper(du, k0, k2);
      const auto low13 = hn::InterleaveLower(du, k1, k3), high13 = hn::InterleaveUpper(du, k1, k3);
      words[v][0] = hn::InterleaveLower(du, low02, low13);
      words[v][1] = hn::InterleaveUpper(du, low02, low13);
      words[v][2] = hn::InterleaveLower(du, high02, high13);
      words[v][3] = hn::InterleaveUpper(du, high02, high13);
      if constexpr (sizeof(S) == 1) {
#pragma GCC unroll 4
        for (int w = 0; w < 4; ++w) words[v][w] = hn::Xor(words[v][w], hn::Set(du, 0x80808080u));
      }
    }
    constexpr std::int64_t kBytes = kV * B::kLanes * 16;
    constexpr std::int64_t kPace = kBytes < Ahead::kStepBytes ? Ahead::kStepBytes / kBytes : 1;
    if (kPace == 1 || i / kColumns % kPace == 0) {
#pragma GCC unroll 2
      for (std::int64_t at = 0; at < kBytes; at += Ahead::kStepBytes) ahead.fetch_step();
    }
    const auto multiply = [&](const auto& key) HWY_ATTR {
#pragma GCC unroll 16
      for (int r = 0; r < kM; ++r) {
        const auto element = hn::Set(d, *q++);
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) sum[v][r] = hn::MulAdd(element, key[v], sum[v][r]);
      }
    };
    const S* type = nullptr;
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w) {
      hn::Vec<D> key[kV];
#define ATTN_COLUMN(i)                                                         \
  if constexpr (i < kInWord) {                                                 \
    for (int v = 0; v < kV; ++v) key[v] = column_of<i>(du, type, words[v][w]); \
    multiply(key);                                                             \
  }
      ATTN_COLUMN(0)
      ATTN_COLUMN(1)
      ATTN_COLUMN(2)
      ATTN_COLUMN(3)
#undef ATTN_COLUMN
    }
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
#endif

// score_panel for the kPanel keys of a panel. Two vectors of keys side by side where registers
// allow.
template <int kM, class S>
HWY_NOINLINE void score_in_place([[maybe_unused]] const float* HWY_RESTRICT q,
                                 [[maybe_unused]] const S* HWY_RESTRICT keys,
                                 [[maybe_unused]] std::int64_t stride,
                                 [[maybe_unused]] std::int64_t width,
                                 [[maybe_unused]] float* HWY_RESTRICT scores,
                                 [[maybe_unused]] float* HWY_RESTRICT top,
                                 [[maybe_unused]] Ahead& ahead) {
#if HWY_TARGET != HWY_SCALAR
  using B = Blocking<float>;
  constexpr int kV = kM <= (HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON ? 8 : 4) ? 2 : 1;
  for (std::int64_t j = 0; j < B::kPanel; j += kV * B::kLanes)
    score_vectors<kM, kV>(q, keys + j * stride, stride, width, scores + j, top, ahead);
#endif
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
