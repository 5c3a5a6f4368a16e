// The key panels of a tile, made when first asked for: the strip that asks finds one in the first
// cache. Included once a target.
#if defined(ATTN_KERNELS_PANELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_PANELS_INL_H_
#undef ATTN_KERNELS_PANELS_INL_H_
#else
#define ATTN_KERNELS_PANELS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/forward.h"
#include "kernels/inplace-inl.h"
#include "kernels/micro-inl.h"
#include "kernels/stored-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

// Scales of the rows of a tile that are int8, 0 past the last.
template <class T>
void read_tile_scales(const StoredRows& rows, std::int64_t k_begin, std::int64_t k_count, T* out) {
  if constexpr (sizeof(T) == 4) {
    rows.read_scales(k_begin, k_count, out);
    std::fill(out + k_count, out + Blocking<T>::kTile, T(0));
  }
}

template <class T>
class KeyPanels {
  using B = Blocking<T>;

 public:
  // `panels` [kTile * width], or [kPanel * width] when no panel is asked for twice (`once`);
  // `staging` [kPanel * width].
  KeyPanels(const ForwardParams& params, const Sequence& sequence, std::int64_t kv_head, T* panels,
            T* staging, bool once)
      : p_(params),
        keys_(params.k, sequence, kv_head),
        sequence_(sequence.batch),
        memory_(panels),
        staging_(staging),
        once_(once) {}

  void begin_tile(std::int64_t k_begin, std::int64_t k_count) {
    k_begin_ = k_begin;
    k_count_ = k_count;
    std::fill_n(panels_, B::kTile / B::kPanel, nullptr);
  }

  // The panel of keys from column j on, as stored: int8 without its scales.
  const T* at(std::int64_t j) {
    const T*& panel = panels_[j / B::kPanel];
    if (panel == nullptr) panel = make(j, memory_ + (once_ ? 0 : j * p_.width));
    return panel;
  }

  // int8: the scales of the tile's keys, 0 past the last.
  void read_scales(T* out) const { read_tile_scales(keys_, k_begin_, k_count_, out); }

  // Calls multiply(keys, stride) if the kPanel keys from column j on can be read where they lie, in
  // their own type; returns whether.
  template <class Multiply>
  bool in_place(std::int64_t j, const Multiply& multiply) const {
    std::int64_t together = B::kPanel;
    if (p_.k.panel > 0 || p_.rotation != nullptr || k_count_ - j < B::kPanel) return false;
    const std::int64_t row = keys_.find(k_begin_ + j, together);
    if (together < B::kPanel) return false;
    return with_type<T>(p_.k.dtype, [&](auto* type) {
      using S = std::remove_cvref_t<decltype(*type)>;
      if constexpr (kTransposesInRegisters<T, S>) {
        if (p_.width % kColumnsTogether<S> != 0) return false;
        multiply(static_cast<const S*>(keys_.at(row)), keys_.stride());
        return true;
      }
      return false;
    });
  }

 private:
  const T* make(std::int64_t j, T* panel) {
    const std::int64_t key = k_begin_ + j, keys = std::min(B::kPanel, k_count_ - j);
    std::int64_t together = keys;
    const std::int64_t at = keys_.find(key, together);
    if (p_.k.panel > 0) {
      const void* stored = keys_.panel_at(at, p_.width);
      if (p_.k.dtype == dtype_of<T>() && reinterpret_cast<std::uintptr_t>(stored) % 64 == 0)
        return static_cast<const T*>(stored);
      convert_rows(stored, p_.k.dtype, 0, 1, p_.width * B::kPanel, panel, 0);
      return panel;
    }
    if (p_.k.dtype == dtype_of<T>() && together == keys && p_.rotation == nullptr) {
      pack_panel(static_cast<const T*>(keys_.at(at)), keys_.stride(), keys, p_.width, panel);
      return panel;
    }
    keys_.for_stretches(key, keys, [&](std::int64_t from, std::int64_t i, std::int64_t n) {
      convert_rows(keys_.at(from), p_.k.dtype, keys_.stride(), n, p_.width, staging_ + i * p_.width,
                   p_.width);
    });
    if (p_.rotation != nullptr) rotate_rows(*p_.rotation, sequence_, key, keys, p_.width, staging_);
    pack_panel(static_cast<const T*>(staging_), p_.width, keys, p_.width, panel);
    return panel;
  }

  const ForwardParams& p_;
  const StoredRows keys_;
  const std::int64_t sequence_;
  T *memory_, *staging_;
  const bool once_;
  std::int64_t k_begin_ = 0, k_count_ = 0;
  const T* panels_[B::kTile / B::kPanel] = {};
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
