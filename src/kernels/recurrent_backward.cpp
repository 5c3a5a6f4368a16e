// Gradients of the matrix-state recurrence, chunk by chunk from the end. With G the gradient of the
// state after a chunk, scaled as the state is (recurrent-inl.h), and V what is written:
//   dV = Aᵀ dY + K~ G    dQ~ = dY S~ᵀ + dA K~    dK~ = V Gᵀ + dAᵀ Q~    dS~ = G + Q~ᵀ dY
// where A = Q~ K~ᵀ and dA = dY Vᵀ on and below the diagonal. A decay's exponent stands in all that
// is scaled by it, so that its gradient is a sum of Q~ dQ~ - K~ dK~ over later tokens.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/recurrent.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/recurrent_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include "kernels/by_isa.h"
#include "kernels/recurrent_chunk-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
class RecurrentBackward {
 public:
  using B = Blocking<T>;
  static constexpr std::int64_t kC = kRecurrentChunk;

  RecurrentBackward(const RecurrentGradientParams& p, const RecurrentUnit& u, bool add, Arena arena)
      : p_(p.forward), g_(p), u_(u), add_(add), chunk_(p.forward, u, true, arena) {
    const std::int64_t step = chunk_.state.step, columns = chunk_.columns;
    const std::int64_t k_step = whole_vectors<T>(p_.width), wide = p_.width;
    d_state_ = rows(arena, wide, step);
    d_out_ = rows(arena, kC, step);
    d_values_ = rows(arena, kC, step);
    d_q_ = rows(arena, kC, k_step);
    d_k_ = rows(arena, kC, k_step);
    state_across_ = rows(arena, columns, k_step);
    d_state_across_ = rows(arena, columns, k_step);
    values_across_ = arena.take<T>(columns * kC);
    d_out_across_ = arena.take<T>(columns * kC);
    pairs_ = rows(arena, kC, kC);
    across_ = rows(arena, kC, kC);
    d_pairs_ = rows(arena, kC, kC);
    d_pairs_across_ = rows(arena, kC, kC);
    d_last_ = arena.take<T>(k_step);
    d_sum_ = arena.take<T>(k_step);
    d_decay_ = arena.take<T>(k_step);
    d_bonus_ = arena.take<T>(k_step);
    if (p_.normalise) out_ = rows(arena, kC, step);
    if (p_.delta || p_.rank_one) {
      reads_ = rows(arena, kC, k_step);
      d_reads_ = rows(arena, kC, k_step);
    }
    if (p_.rank_one) {
      d_a_ = rows(arena, kC, k_step);
      z_ = rows(arena, kC, step);
      read_values_across_ = arena.take<T>(columns * kC);
    }
    bytes_ = arena.used();
  }

  std::size_t bytes() const { return bytes_; }
  std::int64_t state_count() const { return p_.width * chunk_.state.step; }

  void run(T* checkpoints) {
    const std::int64_t blocks = (u_.end - u_.begin + kC - 1) / kC;
    chunk_.load_first();
    for (std::int64_t block = 0, token = u_.begin; block < blocks; ++block) {
      std::copy_n(chunk_.state.data, state_count(), checkpoints + block * state_count());
      for (const std::int64_t last = end_of(block); token < last;) {
        const std::int64_t n = chunk_.begin(token);
        chunk_.end(n);
        token += n;
      }
    }
    load_d_after();
    d_beta_ = 0;
    std::fill_n(d_decay_, p_.width, T(0));
    std::fill_n(d_bonus_, p_.width, T(0));
    for (std::int64_t block = blocks - 1; block >= 0; --block) {
      // Chunks of a block from its end: each is reached again from the block's first state.
      for (std::int64_t end = end_of(block); end > u_.begin + block * kC;) {
        std::copy_n(checkpoints + block * state_count(), state_count(), chunk_.state.data);
        std::int64_t token = u_.begin + block * kC, n = chunk_.begin(token);
        while (token + n < end) {
          chunk_.end(n);
          token += n;
          n = chunk_.begin(token);
        }
        differentiate(token, n);
        end = token;
      }
    }
    store_sums();
  }

 private:
  static Rows<T> rows(Arena& arena, std::int64_t count, std::int64_t step) {
    const std::int64_t whole = whole_vectors<T>(step);
    return {arena.take<T>(count * whole), whole};
  }
  std::int64_t end_of(std::int64_t block) const {
    return std::min(u_.begin + (block + 1) * kC, u_.end);
  }

  void differentiate(std::int64_t token, std::int64_t n) {
    const Gates<T>& gates = chunk_.gates;
    const std::int64_t columns = chunk_.columns;
    chunk_.load_queries(token, n);
    if (gates.any()) gates.scale_state(gates.at_end, d_state_, p_.width, d_state_.step);
    find_pairs(token, n);
    load_d_out(token, n);
    transpose(chunk_.state.data, chunk_.state.step, p_.width, columns, T(1), state_across_.data,
              state_across_.step);
    transpose(d_state_.data, d_state_.step, p_.width, columns, T(1), d_state_across_.data,
              d_state_across_.step);
    pack_transposed(chunk_.values.data, chunk_.values.step, n, columns, values_across_);
    pack_transposed(d_out_.data, d_out_.step, n, columns, d_out_across_);
    find_d_values(n);
    if (p_.rank_one) find_d_read_values(n);
    find_d_pairs(token, n);
    find_d_keys(n);
    find_d_queries(n);
    // dS~; what the delta rule reads of S~ follows.
    product<true>(p_.width, chunk_.q.data, chunk_.q.step, d_out_.data, d_out_.step, n, d_state_,
                  columns);
    if (p_.delta) differentiate_delta(token, n);
    if (p_.rank_one) differentiate_rank_one(n);
    store_d_values(token, n);
    store_d_decay(token, n);
    store_d_keys(token, n);
    if (gates.any()) gates.scale_state(gates.at_start, d_state_, p_.width, d_state_.step);
  }

  // pairs[i][j] = Q~_i . K~_j for j <= i, with the bonus on the diagonal.
  void find_pairs(std::int64_t token, std::int64_t n) {
    below_diagonal(n, chunk_.q_across, chunk_.k_across, p_.width, pairs_);
    if (p_.bonus.data == nullptr) return;
    for (std::int64_t i = 0; i < n; ++i) pairs_[i][i] = chunk_.bonus_of(token, i);
  }

  // c[i][j] = sum over rows of a[.][i] b[.][j] for j <= i, 0 for the others of a strip.
  static void below_diagonal(std::int64_t n, const T* a, const T* b, std::int64_t depth,
                             const Rows<T>& c) {
    for_strips<T>(n, [&](std::int64_t i, std::int64_t height) HWY_ATTR {
      const std::int64_t end = std::min(round_up(i + height, B::kPanel), kC);
      product_strip<false>(height, a + i, kC, b, kC, depth, c[i], c.step, end);
      for (std::int64_t r = i; r < i + height; ++r) std::fill(c[r] + r + 1, c[r] + end, T(0));
    });
  }

  // c[j][i] = the same for i >= j.
  static void above_diagonal(std::int64_t n, const T* a, const T* b, std::int64_t depth,
                             const Rows<T>& c) {
    for_strips<T>(n, [&](std::int64_t j, std::int64_t height) HWY_ATTR {
      const std::int64_t from = j / B::kPanel * B::kPanel;
      product_strip<false>(height, a + j, kC, b + from, kC, depth, c[j] + from, c.step,
                           round_up(n, B::kLanes) - from);
      for (std::int64_t r = j; r < j + height; ++r) std::fill(c[r] + from, c[r] + r, T(0));
    });
  }

  // c[j] += sum over i >= j of a[i][j] b[i], where a is 0 before the diagonal.
  static void add_later(std::int64_t n, const Rows<T>& a, const Rows<T>& b, const Rows<T>& c) {
    for_strips<T>(n, [&](std::int64_t j, std::int64_t height) HWY_ATTR {
      product_strip<true>(height, a[j] + j, a.step, b[j], b.step, n - j, c[j], c.step, c.step);
    });
  }

  // c[i] += sum over j <= i of a[j][i] b[j].
  static void add_earlier(std::int64_t n, const Rows<T>& a, const Rows<T>& b, const Rows<T>& c) {
    for_strips<T>(n, [&](std::int64_t i, std::int64_t height) HWY_ATTR {
      product_strip<true>(height, a.data + i, a.step, b.data, b.step, i + height, c[i], c.step,
                          c.step);
    });
  }

  // The gradient of what is read, before it is divided by the sum of keys.
  void load_d_out(std::int64_t token, std::int64_t n) {
    const Rows<T>& to = d_out_;
    for (std::int64_t i = 0; i < n; ++i) {
      if (g_.d_out.data != nullptr)
        std::copy_n(row_of<T>(g_.d_out, u_.batch, u_.head, token + i), p_.v_width, to[i]);
      else
        std::fill_n(to[i], p_.v_width, T(0));
      std::fill(to[i] + p_.v_width, to[i] + to.step, T(0));
    }
    if (!p_.normalise) return;
    transpose(pairs_.data, pairs_.step, n, n, T(1), across_.data, across_.step);
    product<false>(n, chunk_.q_across, kC, chunk_.state.data, chunk_.state.step, p_.width, out_,
                   chunk_.columns);
    for (std::int64_t j = 0; j < n; ++j) std::fill(across_[j], across_[j] + j, T(0));
    add_earlier(n, across_, chunk_.values, out_);
    for (std::int64_t i = 0; i < n; ++i) {
      const T inverse = inverse_of(out_[i][p_.v_width] + static_cast<T>(p_.epsilon));
      T sum = 0;
      for (std::int64_t c = 0; c < p_.v_width; ++c) {
        to[i][c] *= inverse;
        sum += to[i][c] * out_[i][c];
      }
      to[i][p_.v_width] = -sum * inverse;
    }
  }

  void find_d_values(std::int64_t n) {
    product<false>(n, chunk_.k_across, kC, d_state_.data, d_state_.step, p_.width, d_values_,
                   chunk_.columns);
    add_later(n, pairs_, d_out_, d_values_);
  }

  // dA both ways. Before the decay a token is read by the bonus alone, and that is stored apart.
  void find_d_pairs(std::int64_t token, std::int64_t n) {
    below_diagonal(n, d_out_across_, values_across_, chunk_.columns, d_pairs_);
    above_diagonal(n, values_across_, d_out_across_, chunk_.columns, d_pairs_across_);
    if (p_.bonus.data == nullptr) return;
    const T* bonus = element<T>(p_.bonus, 0, u_.head, 0);
    const std::int64_t q_head = u_.head / p_.group;
    for (std::int64_t i = 0; i < n; ++i) {
      const T d = d_pairs_[i][i];
      const T* q = row_of<T>(p_.q, u_.batch, q_head, token + i);
      const T* k = row_of<T>(p_.k, u_.batch, q_head, token + i);
      for (std::int64_t c = 0; c < p_.width; ++c) d_bonus_[c] += d * q[c] * k[c];
      const auto put = [&](const Matrix& to, const T* other) {
        if (to.data == nullptr) return;
        T* row = mutable_row_of<T>(to, u_.batch, q_head, token + i);
        for (std::int64_t c = 0; c < p_.width; ++c)
          row[c] = (add_ ? row[c] : T(0)) + d * bonus[c] * other[c];
      };
      put(g_.q, k);
      put(g_.k, q);
      d_pairs_[i][i] = d_pairs_across_[i][i] = 0;
    }
  }

  void find_d_keys(std::int64_t n) {
    product<false>(n, values_across_, kC, d_state_across_.data, d_state_across_.step,
                   chunk_.columns, d_k_, p_.width);
    if (chunk_.gates.any()) {
      // Through the last exponent: G . S_n, of which the part of the chunk's keys is K~ dK~ so far.
      for (std::int64_t r = 0; r < p_.width; ++r)
        d_last_[r] = dot_rows(d_state_[r], chunk_.state[r], d_state_.step);
      for (std::int64_t i = 0; i < n; ++i) {
        add_products(T(1), chunk_.k[i], d_k_[i], d_last_);
        if (p_.rank_one) add_products(T(1), chunk_.rank_one.a[i], d_a_[i], d_last_);
      }
    }
    add_later(n, d_pairs_, chunk_.q, d_k_);
  }

  void find_d_queries(std::int64_t n) {
    product<false>(n, d_out_across_, kC, state_across_.data, state_across_.step, chunk_.columns,
                   d_q_, p_.width);
    add_earlier(n, d_pairs_across_, chunk_.k, d_q_);
  }

  // d[j] += sum over t > j of pairs[t][j] z[t], from the last row; finish(j) may make z[j] of d[j].
  template <class Finish>
  void solve_upward(std::int64_t n, const Rows<T>& z, const Rows<T>& d, const Finish& finish) {
    std::int64_t strips = (n + B::kRows - 1) / B::kRows;
    for (std::int64_t end = n; end > 0; --strips) {
      const std::int64_t height = (end + strips - 1) / strips, j = end - height;
      if (end < n)
        product_strip<true>(height, pairs_[end] + j, kC, z[end], z.step, n - end, d[j], d.step,
                            d.step);
      for (std::int64_t r = end - 1; r >= j; --r) {
        for (std::int64_t t = r + 1; t < end; ++t) add_scaled(pairs_[t][r], z[t], z.step, d[r]);
        finish(r);
      }
      end = j;
    }
  }

  // Back through U = diag(beta) (V - K' S~ - N U). With R the gradient of U's right side and
  // Z = diag(beta) R: R = dU - Nᵀ Z, and -Z is the gradient of all that is taken away.
  void differentiate_delta(std::int64_t token, std::int64_t n) {
    const DeltaScratch<T>& delta = chunk_.delta;
    const Rows<T>&held = delta.held, &z = d_out_;  // d_out is not needed any more
    // pairs[t][j] = N_tj below the diagonal.
    transpose(delta.pairs.data, kC, n, n, T(1), pairs_.data, kC);
    for (std::int64_t t = 0; t < n; ++t) {
      std::fill(pairs_[t] + t, pairs_[t] + n, T(0));
      std::fill_n(z[t], z.step, T(0));
    }
    // z holds -Z.
    solve_upward(n, z, d_values_, [&](std::int64_t r) {
      if (g_.beta.data != nullptr) {
        const T* v = row_of<T>(p_.v, u_.batch, u_.head, token + r);
        T sum = 0;
        for (std::int64_t c = 0; c < p_.v_width; ++c) sum += d_values_[r][c] * (v[c] - held[r][c]);
        put_beta(token + r, sum);
      }
      for (std::int64_t c = 0; c < z.step; ++c) {
        d_values_[r][c] *= delta.beta[r];  // the gradient of V
        z[r][c] = -d_values_[r][c];
      }
    });
    // Through K' = keys scaled as queries are, K~, and S~.
    const std::int64_t columns = chunk_.columns;
    pack_transposed(z.data, z.step, n, columns, d_out_across_);
    product<false>(n, d_out_across_, kC, state_across_.data, state_across_.step, columns, d_reads_,
                   p_.width);
    above_diagonal(n, values_across_, d_out_across_, columns, d_pairs_across_);
    below_diagonal(n, d_out_across_, values_across_, columns, d_pairs_);
    for (std::int64_t t = 0; t < n; ++t) d_pairs_[t][t] = d_pairs_across_[t][t] = 0;
    add_earlier(n, d_pairs_across_, chunk_.k, d_reads_);
    transpose(delta.reads_across, kC, p_.width, n, T(1), reads_.data, reads_.step);
    add_later(n, d_pairs_, reads_, d_k_);
    product<true>(p_.width, reads_.data, reads_.step, z.data, z.step, n, d_state_, columns);
  }

  // Of P, which A~ writes as keys write values; what A~ gets from the state; and what queries get
  // from P, when theirs is there (find_d_queries).
  void find_d_read_values(std::int64_t n) {
    const RankOneScratch<T>& one = chunk_.rank_one;
    pack_transposed(one.values.data, one.values.step, n, chunk_.columns, read_values_across_);
    product<false>(n, one.a_across, kC, d_state_.data, d_state_.step, p_.width, z_, chunk_.columns);
    below_diagonal(n, chunk_.q_across, one.a_across, p_.width, pairs_);
    add_later(n, pairs_, d_out_, z_);
    product<false>(n, read_values_across_, kC, d_state_across_.data, d_state_across_.step,
                   chunk_.columns, d_a_, p_.width);
  }

  // Back through P = B~ S~ + M V + N P: with Z the gradient of P's right side, Z = dP + Nᵀ Z.
  void differentiate_rank_one(std::int64_t n) {
    const RankOneScratch<T>& one = chunk_.rank_one;
    const std::int64_t columns = chunk_.columns;
    // A~ and Q~ through their pairs.
    below_diagonal(n, d_out_across_, read_values_across_, columns, d_pairs_);
    above_diagonal(n, read_values_across_, d_out_across_, columns, d_pairs_across_);
    add_later(n, d_pairs_, chunk_.q, d_a_);
    add_earlier(n, d_pairs_across_, one.a, d_q_);
    // pairs[t][j] = N_tj below the diagonal.
    transpose(one.a_pairs.data, kC, n, n, T(1), pairs_.data, kC);
    for (std::int64_t t = 0; t < n; ++t) std::fill(pairs_[t] + t, pairs_[t] + n, T(0));
    solve_upward(n, z_, z_, [](std::int64_t) {});
    pack_transposed(z_.data, z_.step, n, columns, d_out_across_);
    product<false>(n, d_out_across_, kC, state_across_.data, state_across_.step, columns, d_reads_,
                   p_.width);
    // Through M, between B~ and K~ and V.
    transpose(one.k_pairs.data, kC, n, n, T(1), pairs_.data, kC);
    for (std::int64_t t = 0; t < n; ++t) std::fill(pairs_[t] + t, pairs_[t] + n, T(0));
    add_later(n, pairs_, z_, d_values_);
    differentiate_reads(n, values_across_, chunk_.k, d_k_);
    // Through N, between B~ and A~ and P.
    differentiate_reads(n, read_values_across_, one.a, d_a_);
    product<true>(p_.width, one.b.data, one.b.step, z_.data, z_.step, n, d_state_, columns);
  }

  // B~ and what it meets, from Z (across in d_out_across_) and the values of what it meets.
  void differentiate_reads(std::int64_t n, const T* values_across, const Rows<T>& met,
                           const Rows<T>& d_met) {
    above_diagonal(n, values_across, d_out_across_, chunk_.columns, d_pairs_across_);
    below_diagonal(n, d_out_across_, values_across, chunk_.columns, d_pairs_);
    for (std::int64_t t = 0; t < n; ++t) d_pairs_[t][t] = d_pairs_across_[t][t] = 0;
    add_earlier(n, d_pairs_across_, met, d_reads_);
    add_later(n, d_pairs_, chunk_.rank_one.b, d_met);
  }

  void store_d_values(std::int64_t token, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const T beta = p_.beta.data == nullptr || p_.delta
                         ? T(1)
                         : *element<T>(p_.beta, u_.batch, u_.head, token + i);
      if (g_.beta.data != nullptr && !p_.delta) {
        const T* v = row_of<T>(p_.v, u_.batch, u_.head, token + i);
        put_beta(token + i, dot(d_values_[i], v, p_.v_width) +
                                (p_.normalise ? d_values_[i][p_.v_width] : T(0)));
      }
      if (g_.v.data == nullptr) continue;
      T* to = mutable_row_of<T>(g_.v, u_.batch, u_.head, token + i);
      for (std::int64_t c = 0; c < p_.v_width; ++c) to[c] = beta * d_values_[i][c];
    }
  }

  void put_beta(std::int64_t token, T d) {
    if (g_.sum_beta)
      d_beta_ += d;
    else
      *mutable_row_of<T>(g_.beta, u_.batch, u_.head, token) = d;
  }

  void store_d_decay(std::int64_t token, std::int64_t n) {
    if (g_.log_decay.data == nullptr) return;
    const bool before = p_.bonus.data != nullptr, by_channel = p_.log_decay.width > 1;
    std::copy_n(d_last_, p_.width, d_sum_);
    const std::int64_t width = p_.log_decay.width;
    for (std::int64_t i = n - 1; i >= 0; --i) {
      add_products(T(-1), chunk_.k[i], d_k_[i], d_sum_);
      if (p_.delta) add_products(T(1), reads_[i], d_reads_[i], d_sum_);
      if (p_.rank_one) add_products(T(-1), chunk_.rank_one.a[i], d_a_[i], d_sum_);
      if (!before) add_products(T(1), chunk_.q[i], d_q_[i], d_sum_);
      const T* log = element<T>(p_.log_decay, u_.batch, u_.head, token + i);
      T* to = g_.sum_log_decay ? d_decay_
                               : mutable_row_of<T>(g_.log_decay, u_.batch, u_.head, token + i);
      if (!g_.sum_log_decay) std::fill_n(to, width, T(0));
      if (by_channel) {
        // Of what was forgotten nothing is left to differentiate.
        for (std::int64_t c = 0; c < width; ++c) to[c] += std::isinf(log[c]) ? T(0) : d_sum_[c];
      } else if (!std::isinf(log[0])) {
        for (std::int64_t c = 0; c < p_.width; ++c) to[0] += d_sum_[c];
      }
      if (before) add_products(T(1), chunk_.q[i], d_q_[i], d_sum_);
      if (p_.rank_one) add_products(T(1), chunk_.rank_one.b[i], d_reads_[i], d_sum_);
    }
  }

  void store_d_keys(std::int64_t token, std::int64_t n) {
    const Gates<T>& gates = chunk_.gates;
    if (p_.delta && g_.k.data != nullptr) {
      for (std::int64_t i = 0; i < n; ++i) {
        scale_row(gates.to_q, i, d_reads_[i]);
        scale_row(gates.to_k, i, d_k_[i]);
        add_scaled(T(1), d_reads_[i], d_k_.step, d_k_[i]);
        store_row(g_.k, token + i, d_k_[i], false);
      }
    }
    for (std::int64_t i = 0; i < n; ++i) {
      if (g_.q.data != nullptr) {
        scale_row(gates.to_q, i, d_q_[i]);
        through_map(p_.q, token + i, d_q_[i]);
        store_row(g_.q, token + i, d_q_[i], p_.bonus.data != nullptr);
      }
      if (g_.k.data != nullptr && !p_.delta) {
        scale_row(gates.to_k, i, d_k_[i]);
        through_map(p_.k, token + i, d_k_[i]);
        store_row(g_.k, token + i, d_k_[i], p_.bonus.data != nullptr);
      }
      if (g_.a.data != nullptr) {
        scale_row(gates.to_k, i, d_a_[i]);
        store_row(g_.a, token + i, d_a_[i], false);
      }
      if (g_.b.data != nullptr) {
        scale_row(gates.to_before, i, d_reads_[i]);
        store_row(g_.b, token + i, d_reads_[i], false);
      }
    }
  }

  // x[...] times the factors of token i.
  void scale_row(const Rows<T>& factors, std::int64_t i, T* x) const {
    if (chunk_.gates.any()) chunk_.gates.scale_channels(factors[i], x, d_k_.step);
  }

  // x[...] times the slope of the feature map at `from`.
  void through_map(const Matrix& from, std::int64_t token, T* x) const {
    if (p_.map == FeatureMap::identity) return;
    const T* at = row_of<T>(from, u_.batch, u_.head / p_.group, token);
    with_map(p_.map, [&]<FeatureMap kMap>() HWY_ATTR {
      const typename B::D d;
      for (std::int64_t c = 0; c < d_k_.step; c += B::kLanes) {
        const auto slope = feature_slope<kMap>(d, load_some(d, at + c, p_.width - c));
        hn::Store(hn::Mul(hn::Load(d, x + c), slope), d, x + c);
      }
    });
  }

  // `begun`: something of this head is there.
  void store_row(const Matrix& to, std::int64_t token, const T* x, bool begun) const {
    T* row = mutable_row_of<T>(to, u_.batch, u_.head / p_.group, token);
    if (add_ || begun) {
      for (std::int64_t c = 0; c < p_.width; ++c) row[c] += x[c];
    } else {
      std::copy_n(x, p_.width, row);
    }
  }

  // sum[...] += sign a[...] b[...]
  void add_products(T sign, const T* HWY_RESTRICT a, const T* HWY_RESTRICT b,
                    T* HWY_RESTRICT sum) const {
    const typename B::D d;
    const auto factor = hn::Set(d, sign);
    for (std::int64_t c = 0; c < d_k_.step; c += B::kLanes) {
      const auto product = hn::Mul(hn::Load(d, a + c), hn::Load(d, b + c));
      hn::Store(hn::MulAdd(factor, product, hn::Load(d, sum + c)), d, sum + c);
    }
  }

  // Over whole vectors, whose ends are 0.
  static T dot_rows(const T* HWY_RESTRICT a, const T* HWY_RESTRICT b, std::int64_t count) {
    const typename B::D d;
    auto sum = hn::Zero(d);
    for (std::int64_t c = 0; c < count; c += B::kLanes)
      sum = hn::MulAdd(hn::Load(d, a + c), hn::Load(d, b + c), sum);
    return hn::GetLane(hn::SumOfLanes(d, sum));
  }

  void load_d_after() {
    for (std::int64_t r = 0; r < p_.width; ++r) {
      std::fill_n(d_state_[r], d_state_.step, T(0));
      if (g_.d_after.data != nullptr)
        std::copy_n(row_of<T>(g_.d_after, u_.sequence, u_.head, r), chunk_.columns, d_state_[r]);
    }
  }

  void store_sums() {
    for (std::int64_t r = 0; r < p_.width && g_.before.data != nullptr; ++r)
      std::copy_n(d_state_[r], chunk_.columns,
                  mutable_row_of<T>(g_.before, u_.sequence, u_.head, r));
    if (g_.log_decay.data != nullptr && g_.sum_log_decay)
      std::copy_n(d_decay_, p_.log_decay.width,
                  mutable_row_of<T>(g_.log_decay, u_.sequence, u_.head, 0));
    if (g_.beta.data != nullptr && g_.sum_beta)
      *mutable_row_of<T>(g_.beta, u_.sequence, u_.head, 0) = d_beta_;
    if (g_.bonus.data != nullptr)
      std::copy_n(d_bonus_, p_.width, mutable_row_of<T>(g_.bonus, u_.sequence, u_.head, 0));
  }

  static T dot(const T* a, const T* b, std::int64_t count) {
    T sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
    return sum;
  }

  const RecurrentParams& p_;
  const RecurrentGradientParams& g_;
  const RecurrentUnit& u_;
  bool add_;
  RecurrentChunk<T> chunk_;
  Rows<T> d_state_;                 // [width][columns]: G, then dS~
  Rows<T> d_out_, d_values_, out_;  // [chunk][columns]
  Rows<T> d_a_, z_;                 // of a rank-one term: [chunk][width], [chunk][columns]
  T* read_values_across_ = nullptr;
  Rows<T> d_q_, d_k_, reads_, d_reads_;       // [chunk][width]
  Rows<T> state_across_, d_state_across_;     // [columns][width]
  T *values_across_, *d_out_across_;          // [columns][chunk]
  Rows<T> pairs_, d_pairs_;                   // [chunk queries][chunk keys]
  Rows<T> across_, d_pairs_across_;           // [chunk keys][chunk queries]
  T *d_last_, *d_sum_, *d_decay_, *d_bonus_;  // [width]
  T d_beta_ = 0;
  std::size_t bytes_ = 0;
};

template <class T>
void run_recurrent_backward(const RecurrentGradientParams& params, const RecurrentUnit& unit,
                            bool add, void* workspace, void* checkpoints) {
  RecurrentBackward<T>(params, unit, add, Arena(workspace)).run(static_cast<T*>(checkpoints));
}

RecurrentUnit whole_unit(const RecurrentGradientParams& params) {
  RecurrentUnit unit;
  unit.columns = params.forward.v_width;
  return unit;
}

template <class T>
std::size_t recurrent_backward_bytes(const RecurrentGradientParams& params) {
  return RecurrentBackward<T>(params, whole_unit(params), false, Arena(nullptr)).bytes();
}

template <class T>
std::int64_t checkpoint_count(const RecurrentGradientParams& params, std::int64_t tokens) {
  return (tokens + kRecurrentChunk - 1) / kRecurrentChunk *
         RecurrentBackward<T>(params, whole_unit(params), false, Arena(nullptr)).state_count();
}

template <class T>
const RecurrentGradientKernel& recurrent_gradient_kernel_for() {
  static constexpr RecurrentGradientKernel kKernel{
      &recurrent_backward_bytes<T>, &checkpoint_count<T>, &run_recurrent_backward<T>};
  return kKernel;
}

const RecurrentGradientKernel& recurrent_gradient_kernel_of(DType dtype) {
  return dtype == DType::f64 ? recurrent_gradient_kernel_for<double>()
                             : recurrent_gradient_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const RecurrentGradientKernel& recurrent_gradient_kernel(Isa isa, DType dtype) {
  ATTN_RETURN_BY_ISA(isa, recurrent_gradient_kernel_of(dtype));
}

}  // namespace attn::kernels
#endif
