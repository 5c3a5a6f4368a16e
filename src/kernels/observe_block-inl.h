// What the observers' second pass looks at: one block of query rows and one tile of keys at a time.
// Included once a target.
#if defined(ATTN_KERNELS_OBSERVE_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_OBSERVE_BLOCK_INL_H_
#undef ATTN_KERNELS_OBSERVE_BLOCK_INL_H_
#else
#define ATTN_KERNELS_OBSERVE_BLOCK_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "kernels/micro-inl.h"
#include "kernels/observe.h"
#include "kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// A row's probabilities in a tile; those of hidden keys are 0.
template <class T>
struct ObservedRow {
  std::int64_t at;               // in the block
  const T* p;                    // [kTile]
  const std::uint64_t* visible;  // [kTile / 64]
  std::int64_t from, to, end;    // columns [from, to), whole vectors; those below `end` are keys
  T largest;
  bool finite;  // else the row saw something that was not, and all that it sees is NaN

  bool sees(std::int64_t j) const { return (visible[j / 64] >> (j % 64) & 1) != 0; }
};

// Whose rows these are, and where answers about them lie.
template <class T>
class ObservedBlock {
  using B = Blocking<T>;

 public:
  const ForwardParams& params;
  const ObserveParams& asked;
  const Sequence& sequence;
  const BlockRows<T>& rows;
  const std::int64_t token_begin, token_count;
  // This tile: keys of the sequence.
  std::int64_t k_begin = 0, k_count = 0;

  ObservedBlock(const ForwardParams& p, const ObserveParams& o, const ForwardBlock& block,
                const BlockRows<T>& block_rows)
      : params(p),
        asked(o),
        sequence(block.sequence),
        rows(block_rows),
        token_begin(block.token_begin),
        token_count(block.token_count),
        first_head_(block.kv_head * p.group) {}

  void begin_tile(std::int64_t tile) {
    k_begin = tile * B::kTile;
    k_count = std::min(B::kTile, sequence.k_len - k_begin);
  }

  // Queries and keys as rows of the tensors.
  std::int64_t first_query() const { return sequence.q_begin + token_begin; }
  std::int64_t end_query() const { return first_query() + token_count; }
  std::int64_t query_of(std::int64_t at) const { return sequence.q_begin + rows.token[at]; }
  std::int64_t first_key() const { return sequence.k_begin + k_begin; }
  std::int64_t end_key() const { return first_key() + k_count; }

  std::int64_t head_in_group(std::int64_t at) const { return rows.head[at] - first_head_; }
  // Of this batch entry and a head of the group.
  std::int64_t head_index(std::int64_t head) const {
    return sequence.tensor * asked.q_heads + first_head_ + head;
  }

  // Row l of answers, of a head of the group.
  T* answers(const Matrix& m, std::int64_t head, std::int64_t l) const {
    return static_cast<T*>(const_cast<void*>(m.data)) + sequence.tensor * m.batch +
           (first_head_ + head) * m.head + l * m.length;
  }
  // Of row `at` of the block.
  T* answer(const Matrix& m, std::int64_t at) const {
    return answers(m, head_in_group(at), query_of(at));
  }

 private:
  const std::int64_t first_head_;
};

// As many elements as a vector of double has.
template <class T>
HWY_INLINE hn::Vec<hn::ScalableTag<double>> load_wide(const T* p) {
  const hn::ScalableTag<double> d;
  if constexpr (sizeof(T) == 8)
    return hn::Load(d, p);
  else
    return hn::PromoteTo(d, hn::Load(hn::Rebind<T, hn::ScalableTag<double>>(), p));
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
