// One head's state as it passes over the chunks of a sequence: what the forward run and the
// gradients share. Included once a target.
#if defined(ATTN_KERNELS_RECURRENT_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_RECURRENT_CHUNK_INL_H_
#undef ATTN_KERNELS_RECURRENT_CHUNK_INL_H_
#else
#define ATTN_KERNELS_RECURRENT_CHUNK_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/recurrent-inl.h"
#include "kernels/recurrent_delta-inl.h"
#include "kernels/recurrent_rank_one-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
class RecurrentChunk {
 public:
  using B = Blocking<T>;

  // `rows`: keep scaled keys in rows even where nothing scales them.
  RecurrentChunk(const RecurrentParams& p, const RecurrentUnit& u, bool rows, Arena& arena)
      : gates(p, arena), p_(p), u_(u), q_head_(u.head / p.group) {
    constexpr std::int64_t kC = kRecurrentChunk;
    // Forward, keys take the betas, and the sum of keys stands apart: as one more column it would
    // cost the products a vector.
    const bool plain = !rows && !p.delta && !p.rank_one;
    const bool betas = p.beta.data != nullptr || p.gates != nullptr;
    const bool betas_to_keys = betas && plain, sum_apart = p.normalise && plain;
    columns = u.columns + (p.normalise && !plain ? 1 : 0);
    const std::int64_t step = whole_vectors<T>(columns), k_step = whole_vectors<T>(p.width);
    state = {arena.take<T>(p.width * step), step};
    values = {arena.take<T>(kC * step), step};
    values_as_they_lie_ = plain && columns == step;
    beta_in_values_ = betas && !plain && !p.delta;
    if (betas_to_keys) betas_ = arena.take<T>(kC);
    if (sum_apart) key_sum = arena.take<T>(k_step);
    k_across = arena.take<T>(p.width * kC);
    q_across = arena.take<T>(p.width * kC);
    copies_ = rows || gates.any() || p.map != FeatureMap::identity || betas_to_keys || sum_apart;
    if (copies_) {
      k_rows_ = {arena.take<T>(kC * k_step), k_step};
      q_rows_ = {arena.take<T>(kC * k_step), k_step};
    }
    if (p.gates != nullptr) {
      made_decay_ = arena.take<T>(kC);
      made_beta_ = arena.take<T>(kC);
    }
    if (p.delta) delta = DeltaScratch<T>(p, step, arena);
    if (p.rank_one) rank_one = RankOneScratch<T>(p, step, arena);
  }

  // Before the first token.
  void load_first() {
    load_state(p_, u_, columns, state);
    if (key_sum == nullptr) return;
    std::fill_n(key_sum, whole_vectors<T>(p_.width), T(0));
    for (std::int64_t r = 0; r < p_.width && p_.before.data != nullptr; ++r)
      key_sum[r] = row_of<T>(p_.before, u_.sequence, u_.head, r)[p_.v_width];
  }

  // Makes the chunk that begins with `token` ready: S~, K~, and what is written. How many tokens it
  // has: chunks end where 64 tokens of the sequence do, or earlier.
  std::int64_t begin(std::int64_t token) {
    const std::int64_t in_block = (token - u_.begin) % kRecurrentChunk;
    std::int64_t n = std::min(kRecurrentChunk - in_block, u_.end - token);
    const bool made = p_.gates != nullptr;
    const T* made_betas = made ? made_beta_ + in_block : nullptr;
    if (made && in_block == 0) (*p_.gates)(u_, token, n, made_decay_, made_beta_);
    if (values_as_they_lie_)
      values = {const_cast<T*>(row_of<T>(p_.v, u_.batch, u_.head, token)) + u_.column, p_.v.length};
    else
      load_values(p_, u_, token, n, columns, beta_in_values_, made_betas, values);
    n = rows_before_poison(values, n, columns);
    if (betas_ != nullptr) n = load_betas(token, n, made_betas);
    if (p_.delta || p_.rank_one) n = keys_before_poison(token, n);
    n = gates.fill(u_.batch, u_.head, token, n, made ? made_decay_ + in_block : nullptr);
    if (gates.any()) scale_states(gates.at_start);
    k = {const_cast<T*>(row_of<T>(p_.k, u_.batch, q_head_, token)), p_.k.length};
    if (p_.delta) {
      // Keys that read are scaled as queries are.
      const Rows<T> reads = scaled(gates.to_q, k, n, q_rows_);
      pack_transposed(reads.data, reads.step, n, p_.width, delta.reads_across);
    }
    k = scaled(gates.to_k, k, n, k_rows_, betas_);
    pack_transposed(k.data, k.step, n, p_.width, k_across);
    if (p_.delta) correct_values(p_, u_, token, n, k_across, state, values, delta);
    if (p_.rank_one) begin_rank_one(token, n);
    return n;
  }

  // Q~ of the chunk.
  void load_queries(std::int64_t token, std::int64_t n) {
    q = {const_cast<T*>(row_of<T>(p_.q, u_.batch, q_head_, token)), p_.q.length};
    q = scaled(gates.to_q, q, n, q_rows_);
    pack_transposed(q.data, q.step, n, p_.width, q_across);
  }

  // (q_i . u k_i), which stands on the diagonal where tokens are read before the decay; of token i
  // of the chunk that begins with `first`.
  T bonus_of(std::int64_t first, std::int64_t i) const {
    return (betas_ != nullptr ? betas_[i] : T(1)) *
           dot3(row_of<T>(p_.q, u_.batch, q_head_, first + i), element<T>(p_.bonus, 0, u_.head, 0),
                row_of<T>(p_.k, u_.batch, q_head_, first + i), p_.width);
  }

  // The state after the chunk. Keys as they lie: a sum over tokens needs no transposition.
  void end(std::int64_t n, Ahead* ahead = nullptr) {
    product<true>(p_.width, k.data, k.step, values.data, values.step, n, state, columns, ahead);
    if (p_.rank_one)
      product<true>(p_.width, rank_one.a.data, rank_one.a.step, rank_one.values.data,
                    rank_one.values.step, n, state, columns);
    if (key_sum != nullptr) {
      for (std::int64_t i = 0; i < n; ++i) add_scaled(T(1), k[i], k.step, key_sum);
    }
    if (gates.any()) scale_states(gates.at_end);
  }

  Gates<T> gates;
  std::int64_t columns = 0;
  Rows<T> state;           // [width][columns], S~ within a chunk
  T* key_sum = nullptr;    // [width], scaled likewise; null: not wanted, or the last column
  Rows<T> values;          // [chunk][columns]: what is written
  Rows<T> k, q;            // [chunk][width], scaled by their decays
  T *k_across, *q_across;  // [width][chunk], the same
  DeltaScratch<T> delta;
  RankOneScratch<T> rank_one;

 private:
  void scale_states(const T* factor) const {
    gates.scale_state(factor, state, p_.width, state.step);
    if (key_sum != nullptr) gates.scale_channels(factor, key_sum, whole_vectors<T>(p_.width));
  }

  void begin_rank_one(std::int64_t token, std::int64_t n) {
    const auto rows = [&](const Matrix& from, const Rows<T>& factors, const Rows<T>& to) {
      gates.scale(FeatureMap::identity, factors, n, row_of<T>(from, u_.batch, q_head_, token),
                  from.length, p_.width, to);
    };
    rows(p_.a, gates.to_k, rank_one.a);
    rows(p_.b, gates.to_before, rank_one.b);
    pack_transposed(rank_one.a.data, rank_one.a.step, n, p_.width, rank_one.a_across);
    pack_transposed(rank_one.b.data, rank_one.b.step, n, p_.width, rank_one.b_across);
    solve_rank_one(p_.width, n, k_across, state, values, rank_one);
  }

  // How many of `count` tokens come before the first whose beta is not finite, at least 1.
  std::int64_t load_betas(std::int64_t token, std::int64_t count, const T* made) {
    for (std::int64_t i = 0; i < count; ++i) {
      betas_[i] = made != nullptr ? made[i] : *element<T>(p_.beta, u_.batch, u_.head, token + i);
      if (!std::isfinite(betas_[i])) return std::max<std::int64_t>(i, 1);
    }
    return count;
  }

  // `each`: a further factor of every row, or null.
  Rows<T> scaled(const Rows<T>& factors, const Rows<T>& x, std::int64_t n, const Rows<T>& to,
                 const T* each = nullptr) const {
    if (!copies_) return x;
    gates.scale(p_.map, factors, n, x.data, x.step, p_.width, to, each);
    return to;
  }

  // With the delta rule keys and betas reach what is written, with a rank-one term its factors.
  std::int64_t keys_before_poison(std::int64_t token, std::int64_t count) const {
    const auto finite = [&](const Matrix& x, std::int64_t i) {
      return x.data == nullptr || all_finite(row_of<T>(x, u_.batch, q_head_, token + i), p_.width);
    };
    for (std::int64_t i = 0; i < count; ++i) {
      if (!finite(p_.k, i) || !finite(p_.a, i) || !finite(p_.b, i) ||
          (p_.beta.data != nullptr &&
           !std::isfinite(*element<T>(p_.beta, u_.batch, u_.head, token + i))))
        return std::max<std::int64_t>(i, 1);
    }
    return count;
  }

  const RecurrentParams& p_;
  const RecurrentUnit& u_;
  std::int64_t q_head_;
  bool copies_ = false, values_as_they_lie_ = false, beta_in_values_ = false;
  T* betas_ = nullptr;                              // where keys take them; else null
  T *made_decay_ = nullptr, *made_beta_ = nullptr;  // of 64 tokens
  Rows<T> k_rows_, q_rows_;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
