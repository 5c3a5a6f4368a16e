// What kernels over single channels share: where the rows of a block lie. Included once a target.
#if defined(ATTN_KERNELS_SCAN_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_SCAN_ROWS_INL_H_
#undef ATTN_KERNELS_SCAN_ROWS_INL_H_
#else
#define ATTN_KERNELS_SCAN_ROWS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "kernels/channel_block.h"
#include "kernels/gates-inl.h"
#include "kernels/params.h"
#include "kernels/some_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// From element `first` of row (batch, head, row); null where the matrix is empty.
template <class T>
HWY_INLINE T* row_of(const Matrix& m, std::int64_t batch, std::int64_t head, std::int64_t row,
                     std::int64_t first) {
  if (m.data == nullptr) return nullptr;
  return static_cast<T*>(const_cast<void*>(m.data)) + batch * m.batch + head * m.head +
         row * m.length + first;
}

// Rows of a block, from its first channel.
template <class T>
struct BlockChannels {
  const ChannelBlock& block;

  T* token(const Matrix& m, std::int64_t t) const {
    return row_of<T>(m, block.batch, 0, block.begin + t, block.channel);
  }
  T* state(const Matrix& m, std::int64_t n) const {
    return row_of<T>(m, block.sequence, 0, n, block.channel);
  }
  // Of what all sequences share.
  const T* parameter(const Matrix& m, std::int64_t n = 0) const {
    return row_of<T>(m, 0, 0, n, block.channel);
  }
};

// A vector of a row that ends at `end`; 0 without a row.
template <class D>
HWY_INLINE hn::Vec<D> load_row(D d, const hn::TFromD<D>* row, std::int64_t at, std::int64_t end) {
  return row == nullptr ? hn::Zero(d) : load_some(d, row + at, end - at);
}
template <class D>
HWY_INLINE void store_row(D d, hn::Vec<D> v, hn::TFromD<D>* row, std::int64_t at,
                          std::int64_t end) {
  if (row != nullptr) store_some(d, v, row + at, end - at);
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
