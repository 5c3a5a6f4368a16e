// The keys of a block while rows pass: read once, the sums of their gradients written once.
// Included once a target.
#if defined(ATTN_KERNELS_BACKWARD_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_BACKWARD_KEYS_INL_H_
#undef ATTN_KERNELS_BACKWARD_KEYS_INL_H_
#else
#define ATTN_KERNELS_BACKWARD_KEYS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "kernels/arena.h"
#include "kernels/backward.h"
#include "kernels/backward_terms-inl.h"
#include "kernels/micro-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// kPanel columns of a row, or fewer: then zeros follow.
template <class T>
HWY_INLINE void load_panel(const T* HWY_RESTRICT from, std::int64_t columns, T* HWY_RESTRICT to) {
  using B = Blocking<T>;
  const typename B::D d;
  if (columns >= B::kPanel) {
    hn::Store(hn::LoadU(d, from), d, to);
    hn::Store(hn::LoadU(d, from + B::kLanes), d, to + B::kLanes);
    return;
  }
  std::copy_n(from, columns, to);
  std::fill(to + columns, to + B::kPanel, T(0));
}
template <class T>
HWY_INLINE void store_panel(const T* HWY_RESTRICT from, std::int64_t columns, T* HWY_RESTRICT to) {
  using B = Blocking<T>;
  const typename B::D d;
  if (columns >= B::kPanel) {
    hn::StoreU(hn::Load(d, from), d, to);
    hn::StoreU(hn::Load(d, from + B::kLanes), d, to + B::kLanes);
    return;
  }
  std::copy_n(from, columns, to);
}

// Rows [height][width] to panels [panel][height][kPanel] and back.
template <class T>
void to_panels(const T* from, std::int64_t stride, std::int64_t height, std::int64_t width, T* to) {
  constexpr std::int64_t kPanel = Blocking<T>::kPanel;
  for (std::int64_t c = 0; c < width; c += kPanel) {
    for (std::int64_t r = 0; r < height; ++r, to += kPanel)
      load_panel(from + r * stride + c, width - c, to);
  }
}
template <class T>
void from_panels(const T* from, std::int64_t height, std::int64_t width, T* to,
                 std::int64_t stride) {
  constexpr std::int64_t kPanel = Blocking<T>::kPanel;
  for (std::int64_t c = 0; c < width; c += kPanel) {
    for (std::int64_t r = 0; r < height; ++r, from += kPanel)
      store_panel(from, width - c, to + r * stride + c);
  }
}

// The keys and values of a block, packed, and the sums of their gradients.
template <class T>
class BlockKeys {
  using B = Blocking<T>;

 public:
  const std::int64_t width, v_width;  // padded to panels
  bool k_finite = true;

  BlockKeys(const BackwardParams& params, const BackwardBlock& block, std::int64_t tiles,
            Arena& arena)
      : width(round_up(params.width, B::kPanel)),
        v_width(round_up(params.v_width, B::kPanel)),
        p_(params),
        block_(block),
        sequence_(block.sequence),
        k_(arena.take<T>(tiles * B::kTile * params.width)),
        v_(arena.take<T>(tiles * B::kTile * params.v_width)),
        k_rows_(arena.take<T>(tiles * B::kTile * width)),
        dk_(arena.take<T>(tiles * B::kTile * width)),
        dv_(arena.take<T>(tiles * B::kTile * v_width)) {}

  std::int64_t count(std::int64_t tile) const {
    return std::min(B::kTile, sequence_.k_len - tile * B::kTile);
  }
  // Of a tile: transposed panels for the products over the width, and keys in rows for dQ.
  const T* k(std::int64_t tile) const { return k_ + place(tile, p_.width); }
  const T* v(std::int64_t tile) const { return v_ + place(tile, p_.v_width); }
  const T* k_rows(std::int64_t tile) const { return k_rows_ + place(tile, width); }
  // Sums lie by strips of keys: [strip][panel][keys of the strip][kPanel].
  T* dk(std::int64_t tile) const { return dk_ + place(tile, width); }
  T* dv(std::int64_t tile) const { return dv_ + place(tile, v_width); }
  static std::int64_t strip_count(std::int64_t keys) { return (keys + B::kRows - 1) / B::kRows; }

  void load() {
    for (std::int64_t tile = block_.tile_begin; tile < block_.tile_end; ++tile) {
      const std::int64_t first = tile * B::kTile, keys = count(tile);
      pack_keys(key_row(p_.k, first), p_.k.length, keys, p_.width, k_ + place(tile, p_.width));
      pack_keys(key_row(p_.v, first), p_.v.length, keys, p_.v_width, v_ + place(tile, p_.v_width));
      const bool finite = pack_values(key_row(p_.k, first), p_.k.length, keys, p_.width,
                                      k_rows_ + place(tile, width));
      k_finite = k_finite && finite;
      start_sums(p_.dk, first, keys, p_.width, dk(tile));
      start_sums(p_.dv, first, keys, p_.v_width, dv(tile));
    }
  }

  void store() const {
    for (std::int64_t tile = block_.tile_begin; tile < block_.tile_end; ++tile) {
      store_sums(p_.dk, tile, p_.width, dk(tile));
      store_sums(p_.dv, tile, p_.v_width, dv(tile));
    }
  }

 private:
  // Where the parts of a tile lie in arrays of all tiles of this block.
  std::int64_t place(std::int64_t tile, std::int64_t columns) const {
    return (tile - block_.tile_begin) * B::kTile * columns;
  }
  T* key_row(const Matrix& m, std::int64_t key) const {
    return row_of<T>(m, sequence_, block_.kv_head, sequence_.k_begin + key);
  }

  void start_sums(const Matrix& m, std::int64_t first, std::int64_t keys, std::int64_t columns,
                  T* sums) const {
    const std::int64_t padded = round_up(columns, B::kPanel), strips = strip_count(keys);
    if (m.data == nullptr || !p_.accumulate) {
      std::fill_n(sums, keys * padded, T(0));
      return;
    }
    for (std::int64_t strip = 0; strip < strips; ++strip) {
      const std::int64_t begin = keys * strip / strips, end = keys * (strip + 1) / strips;
      to_panels<T>(key_row(m, first + begin), m.length, end - begin, columns,
                   sums + begin * padded);
    }
  }

  void store_sums(const Matrix& m, std::int64_t tile, std::int64_t columns, const T* sums) const {
    if (m.data == nullptr) return;
    const std::int64_t first = tile * B::kTile, keys = count(tile), strips = strip_count(keys);
    for (std::int64_t strip = 0; strip < strips; ++strip) {
      const std::int64_t begin = keys * strip / strips, end = keys * (strip + 1) / strips;
      from_panels(sums + begin * round_up(columns, B::kPanel), end - begin, columns,
                  key_row(m, first + begin), m.length);
    }
  }

  const BackwardParams& p_;
  const BackwardBlock& block_;
  const Sequence& sequence_;
  T *k_, *v_, *k_rows_, *dk_, *dv_;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
