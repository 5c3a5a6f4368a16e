// The values of a tile: read where they lie, or packed, and weighed by the probabilities of strips.
// Included once a target.
#if defined(ATTN_KERNELS_VALUES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_VALUES_INL_H_
#undef ATTN_KERNELS_VALUES_INL_H_
#else
#define ATTN_KERNELS_VALUES_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "kernels/ahead-inl.h"
#include "kernels/forward.h"
#include "kernels/inplace-inl.h"
#include "kernels/look_ahead-inl.h"
#include "kernels/micro-inl.h"
#include "kernels/panels-inl.h"
#include "kernels/softmax-inl.h"
#include "kernels/stored-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

// A strip of a tile, and what is done with it.
template <class T>
struct StripWork {
  ScoreStrip<T> strip;
  Columns c;
  std::int64_t begin, end;  // columns that some row sees
  const T* factor;          // of its outputs; null: 1
};

template <class T>
class TileValues {
  using B = Blocking<T>;
  using Work = StripWork<T>;
  static constexpr std::int64_t kWords = B::kTile / 64;
  // Of values that are multiplied in place before the next ones are: they stay in the first cache.
  static constexpr std::int64_t kBytesTogether = 16 << 10;
  // Values of a key, at most, that many rows read in place: a panel of wider ones falls on too few
  // sets of the first cache.
  static constexpr std::int64_t kCloseBytes = 256;

 public:
  // `few`: the strips are so few that all of a tile are weighed together. `packed` [kTile *
  // v_padded], where v_padded is the width in whole panels.
  TileValues(const ForwardParams& params, const ForwardBlock& block, bool few,
             std::int64_t v_padded, T* packed)
      : p_(params),
        stored_(params.v, block.sequence, block.kv_head),
        few_(few),
        v_padded_(v_padded),
        packed_(packed) {}

  const StoredRows& stored() const { return stored_; }
  bool in_place() const { return in_place_; }

  // Where a row may hide a key (`hides`), it must be known whether values are finite.
  void load(std::int64_t k_begin, std::int64_t k_count, bool hides) {
    k_begin_ = k_begin;
    k_count_ = k_count;
    const bool close = p_.v.dtype == dtype_of<T>() && stored_.stride() == p_.v_width &&
                       p_.v_width * static_cast<std::int64_t>(sizeof(T)) <= kCloseBytes;
    finite_ = true;
    in_place_ = p_.v_width % B::kLanes == 0 && ((few_ && !hides) || (close && !few_));
    if (in_place_ && hides) {
      stored_.for_stretches(
          k_begin, k_count, [&](std::int64_t at, std::int64_t /*i*/, std::int64_t n) {
            in_place_ =
                in_place_ && all_finite(static_cast<const T*>(stored_.at(at)), n * p_.v_width);
          });
    }
    if (in_place_) return;
    stored_.for_stretches(k_begin, k_count, [&](std::int64_t at, std::int64_t i, std::int64_t n) {
      with_type<T>(p_.v.dtype, [&](auto* type) {
        const auto* from = static_cast<decltype(type)>(stored_.at(at));
        const bool finite =
            pack_values(from, stored_.stride(), n, p_.v_width, packed_ + i * B::kPanel);
        finite_ = finite_ && finite;
      });
    });
  }

  // out = out * factor + p * v for each strip; `out` is laid out as State::out.
  void add(std::span<Work> works, T* out, LookAhead<T>& ahead) const {
    if (in_place_ && few_) return add_together(works, out, ahead);
    for (Work& w : works) in_place_ ? add_in_place(w, out, ahead) : add_packed(w, out, ahead);
  }

 private:
  void add_packed(const Work& w, T* out, LookAhead<T>& ahead) const {
    const ScoreStrip<T>& s = w.strip;
    out += s.first * v_padded_;
    if (s.masked && !finite_) {
      for (std::int64_t c = 0; c < v_padded_; c += B::kPanel) {
        for (int r = 0; r < s.height; ++r, out += B::kPanel) {
          value_row(s.scores + r * B::kStride, packed_ + c * B::kTile, s.visible + r * kWords,
                    w.begin, w.end, s.factor[r], out);
        }
      }
      return;
    }
    const Kernel<T>& kernel = kernel_for<T>(s.height);
    for (std::int64_t c = 0; c < v_padded_; c += B::kPanel, out += s.height * B::kPanel) {
      (p_.v_width - c <= B::kLanes ? kernel.one : kernel.both)(
          s.scores + w.begin, packed_ + c * B::kTile + w.begin * B::kPanel, B::kPanel,
          w.end - w.begin, w.factor, out, ahead.value_pace, ahead.fetches);
    }
  }

  // Finite values.
  void add_in_place(Work& w, T* out, LookAhead<T>& ahead) const {
    const ScoreStrip<T>& s = w.strip;
    const Kernel<T>& kernel = kernel_for<T>(s.height);
    out += s.first * v_padded_;
    stored_.for_stretches(k_begin_ + w.begin, w.end - w.begin,
                          [&](std::int64_t row, std::int64_t i, std::int64_t n) {
                            const T* v = static_cast<const T*>(stored_.at(row));
                            for (std::int64_t c = 0; c < p_.v_width; c += B::kPanel) {
                              (p_.v_width - c <= B::kLanes ? kernel.one : kernel.both)(
                                  s.scores + w.begin + i, v + c, stored_.stride(), n, w.factor,
                                  out + c * s.height, ahead.value_pace, ahead.fetches);
                            }
                            w.factor = nullptr;
                          });
  }

  // All strips, a few keys at a time, so that their values come from memory once, whole.
  void add_together(std::span<Work> works, T* out, LookAhead<T>& ahead) const {
    const std::int64_t keys =
        std::max<std::int64_t>(16, kBytesTogether / (p_.v_width * element_bytes(p_.v.dtype)));
    const auto add = [&](std::int64_t row, std::int64_t i, std::int64_t n) {
      for (std::int64_t j = 0; j < n; j += keys) {
        const std::int64_t count = std::min(keys, n - j);
        with_type<T>(p_.v.dtype, [&](auto* type) {
          const auto* v = static_cast<decltype(type)>(stored_.at(row + j));
          for (Work& w : works) {
            const ScoreStrip<T>& s = w.strip;
            const auto& kernel = kernel_for<std::remove_cvref_t<decltype(*type)>>(s.height);
            T* to = out + s.first * v_padded_;
            for (std::int64_t c = 0; c < p_.v_width; c += B::kPanel) {
              (p_.v_width - c <= B::kLanes ? kernel.one : kernel.both)(
                  s.scores + i + j, v + c, stored_.stride(), count, w.factor, to + c * s.height,
                  ahead.value_pace, ahead.fetches);
            }
            w.factor = nullptr;
          }
        });
      }
    };
    stored_.for_stretches(k_begin_, k_count_, add);
  }

  // Micro-kernels by height, for two vectors of values of type S and for one.
  template <class S>
  struct Kernel {
    void (*both)(const T*, const S*, std::int64_t, std::int64_t, const T*, T*, std::int64_t,
                 Ahead&);
    void (*one)(const T*, const S*, std::int64_t, std::int64_t, const T*, T*, std::int64_t, Ahead&);
  };
  template <class S, std::size_t... kIndex>
  static constexpr std::array<Kernel<S>, sizeof...(kIndex)> make_kernels(
      std::index_sequence<kIndex...>) {
    return {{{&value_panel_ahead<static_cast<int>(kIndex) + 1, 2, T, S>,
              &value_panel_ahead<static_cast<int>(kIndex) + 1, 1, T, S>}...}};
  }
  template <class S>
  static constexpr std::array<Kernel<S>, B::kRows> kKernels =
      make_kernels<S>(std::make_index_sequence<B::kRows>());
  template <class S>
  static const Kernel<S>& kernel_for(int height) {
    return kKernels<S>[static_cast<std::size_t>(height - 1)];
  }

  const ForwardParams& p_;
  const StoredRows stored_;
  const bool few_;
  const std::int64_t v_padded_;
  T* packed_;
  // This tile.
  std::int64_t k_begin_ = 0, k_count_ = 0;
  bool finite_ = true, in_place_ = false;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
