// What the forward kernel will need soon, and how fast it is fetched while products go on. Included
// once a target.
#if defined(ATTN_KERNELS_LOOK_AHEAD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_LOOK_AHEAD_INL_H_
#undef ATTN_KERNELS_LOOK_AHEAD_INL_H_
#else
#define ATTN_KERNELS_LOOK_AHEAD_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/ahead-inl.h"
#include "kernels/forward.h"
#include "kernels/micro-inl.h"
#include "kernels/rows-inl.h"
#include "kernels/stored-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

template <class T>
class LookAhead {
  using B = Blocking<T>;

 public:
  Ahead fetches;  // given to the products, as the steps of each between two fetches are:
  std::int64_t key_pace, value_pace;

  LookAhead(const ForwardParams& params, const ForwardBlock& block, const BlockRows<T>& rows)
      : key_pace(pace_of_few(params.k.dtype, rows.strips)),
        value_pace(pace_of_few(params.v.dtype, rows.strips)),
        p_(params),
        block_(block),
        rows_(rows) {
    const Schedule& schedule = block.schedule;
    for (std::int64_t i = 0; i < schedule.run_count; ++i)
      tiles_ += schedule.runs[i].end - schedule.runs[i].begin;
  }

  // `next` is the block's tile after this one, -1 after its last.
  void begin_tile(std::int64_t tile, std::int64_t next) {
    tile_ = tile;
    next_ = next;
  }

  // What many rows need after this tile: the keys and values of the next tile (after the last: of
  // the next block's first), and with each tile a share of the rows of this block's outputs and of
  // the next block's queries. So many strips see this tile, all of it unless `partial`.
  void look_past_tile(std::int64_t strips, bool partial) {
    fetches.clear();
    const Sequence& now = block_.sequence;
    with_next_tile([&](const Sequence& sequence, std::int64_t kv_head, std::int64_t next) {
      if (next == tile_ && kv_head == block_.kv_head && sequence.batch == now.batch) return;
      add_tile(p_.k, p_.width, sequence, kv_head, next);
      add_tile(p_.v, p_.v_width, sequence, kv_head, next);
    });
    add_rows(p_.out, p_.out_dtype, block_, p_.v_width);
    if (block_.next != nullptr) add_rows(p_.q, p_.q_dtype, *block_.next, p_.width);
    ++done_;
    const std::int64_t keys = std::min(B::kTile, now.k_len - tile_ * B::kTile);
    const std::int64_t products =
        ((keys + B::kPanel - 1) / B::kPanel * p_.width + rows_.v_padded / B::kPanel * keys) *
        strips / (partial ? 2 : 1);
    key_pace = value_pace = power_of_two(products / std::max<std::int64_t>(1, fetches.steps()));
  }

  // What few rows need: while they multiply keys, this tile's values; while they multiply values,
  // or where those are packed, the next tile's keys.
  void look_at_values(const StoredRows& values, std::int64_t k_begin, std::int64_t k_count) {
    fetches.clear();
    values.look_ahead(k_begin, k_count, p_.v_width, fetches);
  }
  void look_at_next_keys() {
    fetches.clear();
    with_next_tile([&](const Sequence& sequence, std::int64_t kv_head, std::int64_t tile) {
      add_tile(p_.k, p_.width, sequence, kv_head, tile);
    });
  }

 private:
  // look(sequence, head, tile) for the next tile of this block, or else of the next block.
  template <class Look>
  void with_next_tile(const Look& look) const {
    const ForwardBlock* following = block_.next;
    if (next_ >= 0) {
      look(block_.sequence, block_.kv_head, next_);
    } else if (following != nullptr && following->schedule.run_count > 0) {
      look(following->sequence, following->kv_head, following->schedule.runs[0].begin);
    }
  }

  void add_tile(const Stored& stored, std::int64_t width, const Sequence& sequence,
                std::int64_t kv_head, std::int64_t tile) {
    const std::int64_t key = tile * B::kTile, count = std::min(B::kTile, sequence.k_len - key);
    StoredRows(stored, sequence, kv_head).look_ahead(key, count, width, fetches);
  }

  void add_rows(const Matrix& m, DType dtype, const ForwardBlock& block, std::int64_t width) {
    const std::int64_t from = block.token_count * done_ / tiles_,
                       to = block.token_count * (done_ + 1) / tiles_, bytes = element_bytes(dtype);
    for (std::int64_t h = block.kv_head * p_.group; h < (block.kv_head + 1) * p_.group; ++h) {
      const std::int64_t at = block.sequence.tensor * m.batch + h * m.head +
                              (block.sequence.q_begin + block.token_begin + from) * m.length;
      fetches.add(static_cast<const char*>(m.data) + at * bytes, m.length * bytes, to - from,
                  width * bytes);
    }
  }

  // A strip's product with a panel or with two vectors of values reads kPanel elements a step:
  // after so many steps the strips together have read as much as one step of fetching brings.
  static std::int64_t pace_of_few(DType dtype, std::int64_t strips) {
    const std::int64_t read = B::kPanel * element_bytes(dtype);
    return power_of_two(strips * Ahead::kStepBytes / read);
  }

  // The largest that is at most x, and at least 1.
  static std::int64_t power_of_two(std::int64_t x) {
    return static_cast<std::int64_t>(
        std::bit_floor(static_cast<std::size_t>(std::max<std::int64_t>(1, x))));
  }

  const ForwardParams& p_;
  const ForwardBlock& block_;
  const BlockRows<T>& rows_;
  std::int64_t tiles_ = 0, done_ = 0;  // of the block
  std::int64_t tile_ = 0, next_ = -1;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
