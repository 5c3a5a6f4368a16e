// What happens to a strip of raw scores (in log2 units) before softmax: soft cap, bias, ALiBi, T5,
// custom. Included once a target.
#if defined(ATTN_KERNELS_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_SCORES_INL_H_
#undef ATTN_KERNELS_SCORES_INL_H_
#else
#define ATTN_KERNELS_SCORES_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "kernels/micro-inl.h"
#include "kernels/params.h"
#include "kernels/tanh-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr double kLog2e = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;

// Natural to log2 units; what is finite stays finite, because -infinity would hide its pair.
template <class T>
HWY_INLINE T to_log2(T x) {
  constexpr T kInf = std::numeric_limits<T>::infinity(), kMax = std::numeric_limits<T>::max();
  const T y = x * T(kLog2e);
  if (y == -kInf && x != y) return -kMax;
  if (y == kInf && x != y) return kMax;
  return y;
}

template <class D>
HWY_INLINE hn::Vec<D> to_log2(D d, hn::Vec<D> x) {
  using T = hn::TFromD<D>;
  const auto most = hn::Set(d, std::numeric_limits<T>::max());
  const auto y = hn::Mul(x, hn::Set(d, T(kLog2e)));
  const auto finite = hn::Lt(hn::Abs(x), hn::Set(d, std::numeric_limits<T>::infinity()));
  return hn::IfThenElse(finite, hn::Max(hn::Neg(most), hn::Min(most, y)), x);
}

// A strip of scores and where it stands.
template <class T>
struct Strip {
  T* scores = nullptr;               // [rows][kStride]
  std::uint64_t* visible = nullptr;  // [rows][kTile / 64]
  int rows = 0;
  const std::int64_t* token = nullptr;  // [rows] query index
  const std::int32_t* head = nullptr;   // [rows] query head
  const Sequence* sequence = nullptr;
  std::int64_t group = 1;           // query heads a key head
  std::int64_t k_begin = 0;         // key of column 0
  std::int64_t begin = 0, end = 0;  // columns in use, from a whole vector to the last key
  // What the derivative needs to know, laid out as the scores; null: not kept.
  T* capped = nullptr;  // scores as the soft cap left them
  T* given = nullptr;   // what the custom score was given, natural units
};

inline std::int64_t q_position(const ScoreParams& p, const Sequence& sequence, std::int64_t i) {
  return p.q_positions != nullptr ? p.q_positions[i] : sequence.query_start + i;
}
inline std::int64_t k_position(const ScoreParams& p, std::int64_t j) {
  return p.k_positions != nullptr ? p.k_positions[j] : j;
}

// cap * tanh(x / cap)
template <class D>
HWY_INLINE hn::Vec<D> capped(D d, hn::Vec<D> cap, hn::Vec<D> inverse, hn::Vec<D> x) {
  return hn::Mul(cap, tanh(d, hn::Mul(x, inverse)));
}

template <class T>
void soft_cap(const Strip<T>& strip, T cap) {
  using B = Blocking<T>;
  const typename B::D d;
  const auto c = hn::Set(d, cap), inverse = hn::Set(d, T(1) / cap);
  for (int r = 0; r < strip.rows; ++r) {
    T* s = strip.scores + r * B::kStride;
    for (std::int64_t j = strip.begin / B::kLanes * B::kLanes; j < strip.end; j += B::kLanes)
      hn::Store(capped(d, c, inverse, hn::Load(d, s + j)), d, s + j);
    if (strip.capped != nullptr)
      std::copy(s + strip.begin, s + strip.end, strip.capped + r * B::kStride + strip.begin);
  }
}

// Adds terms to a row and marks pairs that became -infinity as hidden.
template <class T>
void hide(T* s, std::uint64_t* visible, std::int64_t j) {
  visible[j / 64] &= ~(std::uint64_t{1} << (j % 64));
  s[j] = -std::numeric_limits<T>::infinity();
}

template <class T>
void add_bias(const Strip<T>& strip, const Bias& bias) {
  using B = Blocking<T>;
  constexpr T kHidden = -std::numeric_limits<T>::infinity();
  for (int r = 0; r < strip.rows; ++r) {
    T* s = strip.scores + r * B::kStride;
    std::uint64_t* visible = strip.visible + r * (B::kTile / 64);
    const T* row = static_cast<const T*>(bias.data) + strip.sequence->batch * bias.strides[0] +
                   strip.head[r] * bias.strides[1] + strip.token[r] * bias.strides[2];
    const std::int64_t step = bias.strides[3];
    bool hides = false;
    if (step == 1) {
      const T* from = row + strip.k_begin;
      for (std::int64_t j = strip.begin; j < strip.end; ++j) {
        hides |= from[j] == kHidden;
        s[j] += to_log2(from[j]);
      }
    } else {
      for (std::int64_t j = strip.begin; j < strip.end; ++j) {
        const T value = row[(strip.k_begin + j) * step];
        hides |= value == kHidden;
        s[j] += to_log2(value);
      }
    }
    if (!hides) continue;
    for (std::int64_t j = strip.begin; j < strip.end; ++j) {
      if (row[(strip.k_begin + j) * step] == kHidden) hide(s, visible, j);
    }
  }
}

// The same multiply-add as the softmax pass uses where distances are near, so with the same bits.
template <class T>
void add_alibi(const Strip<T>& strip, const ScoreParams& p) {
  using B = Blocking<T>;
  const typename B::D d;
  HWY_ALIGN T distance[B::kLanes];
  for (int r = 0; r < strip.rows; ++r) {
    T* s = strip.scores + r * B::kStride;
    const auto slope = hn::Set(d, T(p.alibi_slopes[strip.head[r]]) * T(kLog2e));
    const std::int64_t q = q_position(p, *strip.sequence, strip.token[r]);
    for (std::int64_t j = strip.begin; j < strip.end; j += B::kLanes) {
      for (std::int64_t lane = 0; lane < B::kLanes; ++lane) {
        const std::int64_t key = std::min(strip.k_begin + j + lane, strip.sequence->k_len - 1);
        distance[lane] = T(std::abs(q - k_position(p, key)));
      }
      hn::Store(hn::NegMulAdd(slope, hn::Load(d, distance), hn::Load(d, s + j)), d, s + j);
    }
  }
}

template <class T>
void add_t5(const Strip<T>& strip, const ScoreParams& p) {
  using B = Blocking<T>;
  const std::int64_t reach = p.t5_reach;
  for (int r = 0; r < strip.rows; ++r) {
    T* s = strip.scores + r * B::kStride;
    const float* table = p.t5 + strip.head[r] * (2 * reach + 1) + reach;
    const std::int64_t q = q_position(p, *strip.sequence, strip.token[r]);
    for (std::int64_t j = strip.begin; j < strip.end; ++j) {
      const std::int64_t relative = k_position(p, strip.k_begin + j) - q;
      s[j] += to_log2(T(table[std::clamp(relative, -reach, reach)]));
    }
  }
}

// One call a head: the rows of a head are `group` apart.
template <class T>
void call_custom(const Strip<T>& strip, const ScoreFunction& custom) {
  const std::int64_t group = strip.group;
  using B = Blocking<T>;
  constexpr T kHidden = -std::numeric_limits<T>::infinity();
  const typename B::D d;
  for (int first = 0; first < strip.rows && first < group; ++first) {
    std::int64_t tokens[B::kRows];
    int rows = 0;
    for (std::int64_t r = first; r < strip.rows; r += group) {
      tokens[rows++] = strip.token[r];
      T* s = strip.scores + r * B::kStride;
      for (std::int64_t j = strip.begin; j < strip.end; j += B::kLanes)
        hn::Store(hn::Mul(hn::Load(d, s + j), hn::Set(d, T(kLn2))), d, s + j);
      if (strip.given != nullptr)
        std::copy(s + strip.begin, s + strip.end, strip.given + r * B::kStride + strip.begin);
    }
    ScoreTile tile;
    tile.batch = strip.sequence->batch;
    tile.head = strip.head[first];
    tile.q = {tokens, static_cast<std::size_t>(rows)};
    tile.k_begin = strip.k_begin + strip.begin;
    tile.k_count = strip.end - strip.begin;
    tile.stride = group * B::kStride;
    T* scores = strip.scores + first * B::kStride + strip.begin;
    if constexpr (sizeof(T) == 4)
      tile.s32 = scores;
    else
      tile.s64 = scores;
    custom(tile);
    for (std::int64_t r = first; r < strip.rows; r += group) {
      T* s = strip.scores + r * B::kStride;
      std::uint64_t* visible = strip.visible + r * (B::kTile / 64);
      for (std::int64_t j = strip.begin; j < strip.end; j += B::kLanes) {
        const auto x = hn::Load(d, s + j);
        hn::Store(to_log2(d, x), d, s + j);
        if (hn::AllFalse(d, hn::Eq(x, hn::Set(d, kHidden)))) continue;
        for (std::int64_t i = j; i < std::min(strip.end, j + B::kLanes); ++i) {
          if (s[i] == kHidden) hide(s, visible, i);
        }
      }
    }
  }
}

// All of it; the forward kernel leaves a soft cap and near ALiBi, when there is
// nothing else, to its softmax pass, with the same bits.
template <class T>
void modify_scores(const Strip<T>& strip, const ScoreParams& p) {
  if (p.soft_cap > 0) soft_cap(strip, T(p.soft_cap * kLog2e));
  if (p.bias.data != nullptr) add_bias(strip, p.bias);
  if (p.alibi_slopes != nullptr) add_alibi(strip, p);
  if (p.t5 != nullptr) add_t5(strip, p);
  if (p.custom != nullptr) call_custom(strip, *p.custom);
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
