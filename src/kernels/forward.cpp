#include "kernels/forward.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/arena.h"
#include "kernels/exp2-inl.h"
#include "kernels/micro-inl.h"
#include "kernels/scores-inl.h"
#include "kernels/visible-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Growth of the row maximum, in log2 units, that is tolerated before the output is rescaled:
// probabilities then stay below 2^8, far from overflow.
constexpr int kRescaleThreshold = 8;

// Scratch of one block. Outputs are laid out [strip][value panel][row of strip][kPanel].
template <class T>
struct Scratch {
  using B = Blocking<T>;
  T *q, *k, *v;
  T *out, *run_out;        // of this segment; of the segments before
  T* sums;                 // [rows][kLanes] partial sums, one a lane
  T *sum, *run_sum;        // [rows]
  T *max, *run_max;        // [rows] log2 units
  T *weight, *run_weight;  // [rows] of a fold
  T *scores, *top, *staging, *factor, *k_offset;
  std::uint64_t* visible;
  std::int64_t* token;
  std::int32_t* head;
  std::size_t bytes;

  Scratch(void* base, std::int64_t rows, std::int64_t width, std::int64_t v_width) {
    Arena arena(base);
    const std::int64_t v_padded = round_up(v_width, B::kPanel);
    const std::int64_t padded = round_up(rows, B::kLanes);  // folds go by whole vectors
    q = arena.take<T>(rows * width);
    k = arena.take<T>(B::kTile * width);
    v = arena.take<T>(B::kTile * v_padded);
    out = arena.take<T>(rows * v_padded);
    run_out = arena.take<T>(rows * v_padded);
    sums = arena.take<T>(rows * B::kLanes);
    for (T** row : {&sum, &run_sum, &max, &run_max, &weight, &run_weight})
      *row = arena.take<T>(padded);
    scores = arena.take<T>(B::kRows * B::kStride);
    top = arena.take<T>(B::kRows * B::kLanes);
    staging = arena.take<T>(B::kRows * width);
    factor = arena.take<T>(B::kRows);
    k_offset = arena.take<T>(B::kTile);
    visible = arena.take<std::uint64_t>(B::kRows * (B::kTile / 64));
    token = arena.take<std::int64_t>(rows);
    head = arena.take<std::int32_t>(rows);
    bytes = arena.used();
  }
};

template <class T>
class Forward {
  using B = Blocking<T>;
  using D = typename B::D;
  static constexpr std::int64_t kWords = B::kTile / 64;
  static constexpr T kMinusInf = -std::numeric_limits<T>::infinity();

 public:
  Forward(const ForwardParams& params, const ForwardBlock& block, void* workspace)
      : p_(params),
        block_(block),
        sequence_(block.sequence),
        rows_(block.token_count * params.group),
        strips_((rows_ + B::kRows - 1) / B::kRows),
        v_padded_(round_up(params.v_width, B::kPanel)),
        s_(workspace, rows_, params.width, params.v_width) {
    visible_.schedule = &block.schedule;
    modified_ = p_.score.modified();
    alibi_ = p_.score.alibi_slopes != nullptr && !modified_;
  }

  void run() {
    place_rows();
    pack_queries();
    std::int64_t segment = -1;
    bool folded = false;  // a segment has been finished
    const Schedule& schedule = block_.schedule;
    for (std::int64_t i = 0; i < schedule.run_count; ++i) {
      const TileRun& tiles = schedule.runs[i];
      for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
        const std::int64_t its_segment = tile * B::kTile / B::kSegment;
        if (its_segment != segment) {
          if (segment >= 0) end_segment(folded);
          begin_segment();
          segment = its_segment;
        }
        visible_.partial = tiles.partial;
        if (tiles.partial && schedule.bits != nullptr) {
          visible_.bits = schedule.bits + tiles.bits_offset +
                          (tile - tiles.begin) * schedule.slots * schedule.block_tokens * kWords;
        }
        run_tile(tile);
      }
    }
    if (segment < 0) begin_segment();
    end_segment(folded);
    write();
  }

 private:
  // Strips are as even as they come, so that no strip is nearly empty.
  std::int64_t strip_begin(std::int64_t strip) const { return rows_ * strip / strips_; }

  void place_rows() {
    for (std::int64_t r = 0; r < rows_; ++r) {
      s_.token[r] = block_.token_begin + r / p_.group;
      s_.head[r] = static_cast<std::int32_t>(block_.kv_head * p_.group + r % p_.group);
    }
  }

  static const T* row(const Matrix& m, std::int64_t b, std::int64_t h, std::int64_t l) {
    return static_cast<const T*>(m.data) + b * m.batch + h * m.head + l * m.length;
  }

  // scale * log2(e) is folded in here, so that softmax is exp2(s - max).
  void pack_queries() {
    const T factor = static_cast<T>(p_.score.scale * kLog2e);
    for (std::int64_t strip = 0; strip < strips_; ++strip) {
      const std::int64_t begin = strip_begin(strip), height = strip_begin(strip + 1) - begin;
      const T* from;
      std::int64_t stride;
      if (p_.group == 1) {
        from = row(p_.q, sequence_.tensor, s_.head[begin], sequence_.q_begin + s_.token[begin]);
        stride = p_.q.length;
      } else {
        for (std::int64_t r = 0; r < height; ++r) {
          std::memcpy(s_.staging + r * p_.width,
                      row(p_.q, sequence_.tensor, s_.head[begin + r],
                          sequence_.q_begin + s_.token[begin + r]),
                      static_cast<std::size_t>(p_.width) * sizeof(T));
        }
        from = s_.staging;
        stride = p_.width;
      }
      transpose(from, stride, height, p_.width, factor, s_.q + begin * p_.width, height);
    }
  }

  void begin_segment() {
    std::fill_n(s_.out, rows_ * v_padded_, T(0));
    std::fill_n(s_.sums, rows_ * B::kLanes, T(0));
    std::fill_n(s_.max, round_up(rows_, B::kLanes), kMinusInf);
  }

  // Folds the segment into the ones before it, in key order. Rows that saw nothing on one side are
  // multiplied by exactly 1 and added to exactly 0.
  void end_segment(bool& folded) {
    const D d;
    std::fill_n(s_.sum, round_up(rows_, B::kLanes), T(0));
    for (std::int64_t r = 0; r < rows_; ++r) {
      T total = 0;
      for (std::int64_t lane = 0; lane < B::kLanes; ++lane) total += s_.sums[r * B::kLanes + lane];
      s_.sum[r] = total;
    }
    if (!folded) {
      std::swap(s_.out, s_.run_out);
      std::swap(s_.sum, s_.run_sum);
      std::swap(s_.max, s_.run_max);
      folded = true;
      return;
    }
    for (std::int64_t r = 0; r < rows_; r += B::kLanes) {
      const auto a = hn::Load(d, s_.run_max + r), b = hn::Load(d, s_.max + r);
      const auto top = hn::Max(a, b);
      const auto reference = hn::IfThenElse(hn::Eq(top, hn::Set(d, kMinusInf)), hn::Zero(d), top);
      const auto wa = exp2(d, hn::Sub(a, reference)), wb = exp2(d, hn::Sub(b, reference));
      hn::Store(top, d, s_.run_max + r);
      hn::Store(wa, d, s_.run_weight + r);
      hn::Store(wb, d, s_.weight + r);
      const auto sum = hn::Mul(hn::Load(d, s_.run_sum + r), wa);
      hn::Store(hn::MulAdd(hn::Load(d, s_.sum + r), wb, sum), d, s_.run_sum + r);
    }
    for (std::int64_t strip = 0; strip < strips_; ++strip) {
      const std::int64_t begin = strip_begin(strip), height = strip_begin(strip + 1) - begin;
      std::int64_t at = begin * v_padded_;
      for (std::int64_t c = 0; c < v_padded_; c += B::kPanel) {
        for (std::int64_t r = begin; r < begin + height; ++r) {
          const auto wa = hn::Set(d, s_.run_weight[r]), wb = hn::Set(d, s_.weight[r]);
          for (const std::int64_t end = at + B::kPanel; at < end; at += B::kLanes) {
            const auto before = hn::Mul(hn::Load(d, s_.run_out + at), wa);
            hn::Store(hn::MulAdd(hn::Load(d, s_.out + at), wb, before), d, s_.run_out + at);
          }
        }
      }
    }
  }

  void run_tile(std::int64_t tile) {
    k_begin_ = tile * B::kTile;
    k_count_ = std::min(B::kTile, sequence_.k_len - k_begin_);
    visible_.k_begin = k_begin_;
    visible_.k_count = k_count_;
    const std::int64_t b = sequence_.tensor, h = block_.kv_head, at = sequence_.k_begin + k_begin_;
    pack_keys(row(p_.k.rows, b, h, at), p_.k.rows.length, k_count_, p_.width, s_.k);
    v_finite_ = pack_values(row(p_.v.rows, b, h, at), p_.v.rows.length, k_count_, p_.v_width, s_.v);
    if (alibi_) {
      // Relative to the block's first query: exact in float for distances below 2^24.
      origin_ = q_position(p_.score, sequence_, block_.token_begin);
      for (std::int64_t j = 0; j < B::kTile; ++j) {
        s_.k_offset[j] =
            j < k_count_ ? static_cast<T>(k_position(p_.score, k_begin_ + j) - origin_) : T(0);
      }
    }
    for (std::int64_t strip = 0; strip < strips_; ++strip) run_strip(strip);
  }

  void run_strip(std::int64_t strip) {
    const std::int64_t first = strip_begin(strip);
    const int height = static_cast<int>(strip_begin(strip + 1) - first);
    bool masked = visible_.partial || modified_ || k_count_ % B::kLanes != 0;
    std::int64_t begin = 0, end = k_count_;  // columns that some row of the strip sees
    if (masked) {
      std::uint64_t any[kWords] = {}, all[kWords];
      std::fill_n(all, kWords, ~std::uint64_t{0});
      for (int r = 0; r < height; ++r) {
        std::uint64_t* words = s_.visible + r * kWords;
        visible_.read(s_.token[first + r] - block_.token_begin,
                      s_.head[first + r] - block_.kv_head * p_.group, words);
        for (int w = 0; w < kWords; ++w) {
          any[w] |= words[w];
          all[w] &= words[w];
        }
      }
      if (!VisibleTile<T>::span_of(any, begin, end)) return;
      bool whole = end == B::kTile;
      for (int w = 0; w < kWords; ++w) whole = whole && all[w] == ~std::uint64_t{0};
      masked = modified_ || !whole;
    }
    const Kernels& kernels = kKernels[static_cast<std::size_t>(height - 1)];
    // Columns in whole vectors; keys past the last are zero and never looked at.
    const std::int64_t from = begin / B::kLanes * B::kLanes, to = round_up(end, B::kLanes);
    std::fill_n(s_.top, height * B::kLanes, kMinusInf);
    for (std::int64_t j = from / B::kPanel * B::kPanel; j < to; j += B::kPanel) {
      const T* panel = s_.k + j * p_.width;
      const std::int64_t skip = j < from ? B::kLanes : 0;
      const bool one = skip > 0 || to < j + B::kPanel;
      (one ? kernels.score_one : kernels.score)(s_.q + first * p_.width, panel + skip, p_.width,
                                                s_.scores + j + skip, s_.top);
    }
    if (modified_) {
      modify_scores(Strip<T>{s_.scores, s_.visible, height, s_.token + first, s_.head + first,
                             &sequence_, p_.group, k_begin_, from, end},
                    p_.score);
    }
    bool rescale = false;
    for (int r = 0; r < height; ++r) {
      bool grew;
      if (masked)
        grew = alibi_ ? softmax_row<true, true>(first, r, from, to)
                      : softmax_row<true, false>(first, r, from, to);
      else
        grew = alibi_ ? softmax_row<false, true>(first, r, from, to)
                      : softmax_row<false, false>(first, r, from, to);
      rescale = rescale || grew;
    }
    T* out = s_.out + first * v_padded_;
    if (masked && !v_finite_) {
      for (std::int64_t c = 0; c < v_padded_; c += B::kPanel) {
        for (int r = 0; r < height; ++r, out += B::kPanel) {
          value_row(s_.scores + r * B::kStride, s_.v + c * B::kTile, s_.visible + r * kWords, begin,
                    end, s_.factor[r], out);
        }
      }
      return;
    }
    for (std::int64_t c = 0; c < v_padded_; c += B::kPanel, out += height * B::kPanel) {
      const bool one = p_.v_width - c <= B::kLanes;
      (one ? kernels.value_one : kernels.value)(s_.scores + begin,
                                                s_.v + c * B::kTile + begin * B::kPanel,
                                                end - begin, rescale ? s_.factor : nullptr, out);
    }
  }

  // Scores of row r to probabilities, in place. Returns whether the maximum moved.
  template <bool kMasked, bool kAlibi>
  HWY_INLINE bool softmax_row(std::int64_t first, int r, std::int64_t from, std::int64_t to) {
    const D d;
    T* HWY_RESTRICT s = s_.scores + r * B::kStride;
    const std::int64_t at = first + r;
    // The product has left the largest raw scores in lanes; scores that change are looked at again.
    auto top = hn::Load(d, s_.top + r * B::kLanes);
    if constexpr (kMasked || kAlibi) {
      top = hn::Set(d, kMinusInf);
      [[maybe_unused]] hn::Vec<D> slope, q;
      if constexpr (kAlibi) {
        slope =
            hn::Set(d, static_cast<T>(p_.score.alibi_slopes[s_.head[at]]) * static_cast<T>(kLog2e));
        q = hn::Set(d, static_cast<T>(q_position(p_.score, sequence_, s_.token[at]) - origin_));
      }
      for (std::int64_t j = from; j < to; j += B::kLanes) {
        auto x = hn::Load(d, s + j);
        if constexpr (kAlibi) {
          x = hn::NegMulAdd(slope, hn::Abs(hn::Sub(hn::Load(d, s_.k_offset + j), q)), x);
        }
        if constexpr (kMasked) {
          const std::uint64_t bits = s_.visible[r * kWords + j / 64] >> (j % 64);
          std::uint8_t bytes[8];
          std::memcpy(bytes, &bits, sizeof bytes);
          x = hn::IfThenElse(hn::LoadMaskBits(d, bytes), x, hn::Set(d, kMinusInf));
        }
        hn::Store(x, d, s + j);
        top = hn::Max(top, x);
      }
    }
    const T row_max = hn::GetLane(hn::MaxOfLanes(d, top));
    T* sums = s_.sums + at * B::kLanes;
    auto sum = hn::Load(d, sums);
    T reference = s_.max[at];
    const bool grew = row_max > reference + kRescaleThreshold;
    s_.factor[r] = 1;
    if (grew) {
      const auto factor = exp2(d, hn::Set(d, reference - row_max));
      s_.factor[r] = hn::GetLane(factor);
      sum = hn::Mul(sum, factor);
      s_.max[at] = reference = row_max;
    }
    if (reference == kMinusInf) reference = 0;  // nothing seen so far: every probability is 0
    const auto shift = hn::Set(d, reference);
    for (std::int64_t j = from; j < to; j += B::kLanes) {
      const auto p = exp2(d, hn::Sub(hn::Load(d, s + j), shift));
      hn::Store(p, d, s + j);
      sum = hn::Add(sum, p);
    }
    hn::Store(sum, d, sums);
    return grew;
  }

  // Divides by the sum, applies sinks, and stores.
  void write() {
    const D d;
    for (std::int64_t strip = 0; strip < strips_; ++strip) {
      const std::int64_t begin = strip_begin(strip), height = strip_begin(strip + 1) - begin;
      for (std::int64_t r = begin; r < begin + height; ++r) {
        const T sum = s_.run_sum[r];
        T inverse = sum == T(0) ? T(0) : T(1) / sum;  // NaN stays NaN
        const std::int64_t b = sequence_.tensor, h = s_.head[r],
                           l = sequence_.q_begin + s_.token[r];
        if (p_.lse.data != nullptr || (p_.score.sinks != nullptr && sum != T(0))) {
          const double lse =
              sum == T(0)
                  ? -std::numeric_limits<double>::infinity()
                  : (static_cast<double>(s_.run_max[r]) + std::log2(static_cast<double>(sum))) *
                        kLn2;
          if (p_.lse.data != nullptr) *const_cast<T*>(row(p_.lse, b, h, l)) = static_cast<T>(lse);
          if (p_.score.sinks != nullptr && sum != T(0)) {
            inverse *= static_cast<T>(
                1.0 / (1.0 + std::exp(static_cast<double>(p_.score.sinks[h]) - lse)));
          }
        }
        const auto factor = hn::Set(d, inverse);
        T* to = const_cast<T*>(row(p_.out, b, h, l));
        const T* from = s_.run_out + begin * v_padded_ + (r - begin) * B::kPanel;
        for (std::int64_t c = 0; c < p_.v_width; c += B::kPanel, from += height * B::kPanel) {
          std::int64_t j = 0;
          for (; j < B::kPanel && c + j + B::kLanes <= p_.v_width; j += B::kLanes) {
            hn::StoreU(hn::Mul(hn::Load(d, from + j), factor), d, to + c + j);
          }
          for (; j < B::kPanel && c + j < p_.v_width; ++j) to[c + j] = from[j] * inverse;
        }
      }
    }
  }

  struct Kernels {
    void (*score)(const T*, const T*, std::int64_t, T*, T*);
    void (*score_one)(const T*, const T*, std::int64_t, T*, T*);
    void (*value)(const T*, const T*, std::int64_t, const T*, T*);
    void (*value_one)(const T*, const T*, std::int64_t, const T*, T*);
  };
  template <int kM>
  static constexpr Kernels kernels_of() {
    return {&score_panel<kM, 2, T>, &score_panel<kM, 1, T>, &value_panel<kM, 2, T>,
            &value_panel<kM, 1, T>};
  }
  template <std::size_t... kIndex>
  static constexpr std::array<Kernels, sizeof...(kIndex)> make_kernels(
      std::index_sequence<kIndex...>) {
    return {{kernels_of<static_cast<int>(kIndex) + 1>()...}};
  }
  static constexpr std::array<Kernels, B::kRows> kKernels =
      make_kernels(std::make_index_sequence<B::kRows>());

  const ForwardParams& p_;
  const ForwardBlock& block_;
  const Sequence& sequence_;
  const std::int64_t rows_, strips_, v_padded_;
  Scratch<T> s_;
  VisibleTile<T> visible_;
  bool modified_ = false, alibi_ = false;
  std::int64_t k_begin_ = 0, k_count_ = 0, origin_ = 0;
  bool v_finite_ = true;
};

template <class T>
void run_forward(const ForwardParams& params, const ForwardBlock& block, void* workspace) {
  Forward<T>(params, block, workspace).run();
}

template <class T>
std::size_t workspace_bytes(std::int64_t rows, std::int64_t width, std::int64_t v_width) {
  return Scratch<T>(nullptr, rows, width, v_width).bytes;
}

template <class T>
const ForwardKernel& kernel() {
  static constexpr ForwardKernel kKernel{Blocking<T>::kRows, Blocking<T>::kTile,
                                         Blocking<T>::kSegment, &workspace_bytes<T>,
                                         &run_forward<T>};
  return kKernel;
}

const ForwardKernel& kernel_of(DType dtype) {
  return dtype == DType::f64 ? kernel<double>() : kernel<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const ForwardKernel& forward_kernel(Isa isa, DType dtype) {
  switch (isa) {
#if HWY_TARGETS & HWY_AVX3
    case Isa::avx512: return N_AVX3::kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_AVX2
    case Isa::avx2: return N_AVX2::kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_NEON
    case Isa::neon: return N_NEON::kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_SCALAR
    case Isa::scalar: return N_SCALAR::kernel_of(dtype);
#endif
#if HWY_TARGETS & HWY_EMU128
    case Isa::scalar: return N_EMU128::kernel_of(dtype);
#endif
    default: throw std::invalid_argument("[kernels] this build has no " + std::string(name(isa)));
  }
}

}  // namespace attn::kernels
#endif
