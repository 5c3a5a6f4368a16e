#include "kernels/recurrent.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/recurrent.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <cmath>

#include "kernels/by_isa.h"
#include "kernels/recurrent_chunk-inl.h"
#include "kernels/recurrent_step-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
class RecurrentForward {
 public:
  using B = Blocking<T>;

  RecurrentForward(const RecurrentParams& p, const RecurrentUnit& u, Arena arena)
      : p_(p), u_(u), chunk_(p, u, false, arena) {
    scratch_ = {arena.take<T>(kRecurrentChunk * chunk_.values.step), chunk_.values.step};
    pairs_ = {arena.take<T>(kRecurrentChunk * kRecurrentChunk), kRecurrentChunk};
    if (p.normalise) sums_ = arena.take<T>(kRecurrentChunk);
    bytes_ = arena.used();
  }

  std::size_t bytes() const { return bytes_; }

  void run() {
    chunk_.load_first();
    for (std::int64_t token = u_.begin; token < u_.end;) {
      const std::int64_t n = chunk_.begin(token);
      look_ahead(token + n);
      if (p_.out.data != nullptr) read(token, n);
      chunk_.end(n, &ahead_);
      token += n;
    }
    store_state();
  }

 private:
  // The rows of the next chunk come while this one is computed.
  void look_ahead(std::int64_t token) {
    ahead_.clear();
    const std::int64_t rows = std::min(kRecurrentChunk, u_.end - token);
    const auto add = [&](const Matrix& m, std::int64_t head, std::int64_t width) {
      constexpr auto kSize = static_cast<std::int64_t>(sizeof(T));
      if (m.data != nullptr)
        ahead_.add(row_of<T>(m, u_.batch, head, token), m.length * kSize, rows, width * kSize);
    };
    const std::int64_t q_head = u_.head / p_.group;
    if (chunk_.gates.by_channel() && p_.log_decay.strides[2] != 0) {
      const Spread& x = p_.log_decay;
      add({x.data, x.strides[0], x.strides[1], x.strides[2]}, u_.head, x.width);
    }
    add(p_.v, u_.head, p_.v_width);
    add(p_.k, q_head, p_.width);
    add(p_.q, q_head, p_.width);
    add(p_.out, u_.head, p_.v_width);
  }

  void read(std::int64_t token, std::int64_t n) {
    chunk_.load_queries(token, n);
    // Tokens are read before the decay with a bonus, which then stands on the diagonal.
    const bool before = p_.bonus.data != nullptr;
    find_pairs(chunk_.k_across, n);
    for (std::int64_t i = 0; before && i < n; ++i) pairs_[i][i] = chunk_.bonus_of(token, i);
    const Rows<T>& state = chunk_.state;
    // Straight to where it goes, where that is whole vectors.
    const bool direct = u_.columns == scratch_.step;
    out_ = scratch_;
    if (direct)
      out_ = {mutable_row_of<T>(p_.out, u_.batch, u_.head, token) + u_.column, p_.out.length};
    for_strips<T>(n, [&](std::int64_t i, std::int64_t height) HWY_ATTR {
      product_strip<false>(height, chunk_.q_across + i, kRecurrentChunk, state.data, state.step,
                           p_.width, out_[i], out_.step, scratch_.step, &ahead_);
    });
    add_pairs(chunk_.values, n);
    if (p_.rank_one) {
      find_pairs(chunk_.rank_one.a_across, n);
      add_pairs(chunk_.rank_one.values, n);
    }
    if (p_.normalise) divide_by_sums(n);
    for (std::int64_t i = 0; !direct && i < n; ++i)
      std::copy_n(out_[i], u_.columns,
                  mutable_row_of<T>(p_.out, u_.batch, u_.head, token + i) + u_.column);
  }

  // What a query gives all keys: Q~_i . (the sum of keys before the chunk) and its pairs.
  void divide_by_sums(std::int64_t n) {
    const typename B::D d;
    const std::int64_t whole = round_up(n, B::kLanes);
    std::fill_n(sums_, whole, static_cast<T>(p_.epsilon));
    product_strip<true>(1, chunk_.key_sum, 1, chunk_.q_across, kRecurrentChunk, p_.width, sums_,
                        kRecurrentChunk, whole);
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t i = j / B::kLanes * B::kLanes; i < whole; i += B::kLanes)
        hn::Store(hn::Add(hn::Load(d, sums_ + i), hn::Load(d, pairs_[j] + i)), d, sums_ + i);
    }
    for (std::int64_t i = 0; i < n; ++i) {
      const auto inverse = hn::Set(d, inverse_of(sums_[i]));
      for (std::int64_t c = 0; c < scratch_.step; c += B::kLanes)
        hn::StoreU(hn::Mul(hn::LoadU(d, out_[i] + c), inverse), d, out_[i] + c);
    }
  }

  // pairs[j][i] = keys_j . Q~_i for j <= i, from the first panel that has any.
  void find_pairs(const T* keys_across, std::int64_t n) {
    for_strips<T>(n, [&](std::int64_t j, std::int64_t height) HWY_ATTR {
      const std::int64_t from = j / B::kPanel * B::kPanel;
      product_strip<false>(height, keys_across + j, kRecurrentChunk, chunk_.q_across + from,
                           kRecurrentChunk, p_.width, pairs_[j] + from, kRecurrentChunk,
                           round_up(n, B::kLanes) - from, &ahead_);
      for (std::int64_t r = j; r < j + height; ++r)
        std::fill(pairs_[r] + from, pairs_[r] + r, T(0));
    });
  }

  // out[i] += sum over j <= i of pairs[j][i] values[j]
  void add_pairs(const Rows<T>& values, std::int64_t n) {
    for_strips<T>(n, [&](std::int64_t i, std::int64_t height) HWY_ATTR {
      product_strip<true>(height, pairs_.data + i, kRecurrentChunk, values.data, values.step,
                          i + height, out_[i], out_.step, scratch_.step, &ahead_);
    });
  }

  void store_state() {
    if (p_.after.data == nullptr) return;
    for (std::int64_t r = 0; r < p_.width; ++r) {
      T* to = mutable_row_of<T>(p_.after, u_.sequence, u_.head, r);
      std::copy_n(chunk_.state[r], u_.columns, to + u_.column);
      if (p_.normalise && u_.column == 0) to[p_.v_width] = chunk_.key_sum[r];
    }
  }

  const RecurrentParams& p_;
  const RecurrentUnit& u_;
  RecurrentChunk<T> chunk_;
  Rows<T> scratch_;  // [chunk][columns], of outputs
  Rows<T> out_;      // outputs, there or in place
  Rows<T> pairs_;    // [chunk keys][chunk queries]
  T* sums_;          // [chunk queries], where outputs are divided
  Ahead ahead_;
  std::size_t bytes_ = 0;
};

template <class T>
void run_recurrent(const RecurrentParams& params, const RecurrentUnit& unit, void* workspace) {
  RecurrentForward<T>(params, unit, Arena(workspace)).run();
}

template <class T>
std::size_t recurrent_bytes(const RecurrentParams& params, std::int64_t columns) {
  RecurrentUnit unit;
  unit.columns = columns;
  return RecurrentForward<T>(params, unit, Arena(nullptr)).bytes();
}

template <class T>
const RecurrentKernel& recurrent_kernel_for() {
  static constexpr RecurrentKernel kKernel{Blocking<T>::kPanel, &recurrent_bytes<T>,
                                           &run_recurrent<T>, &step_recurrent<T>};
  return kKernel;
}

const RecurrentKernel& recurrent_kernel_of(DType dtype) {
  return dtype == DType::f64 ? recurrent_kernel_for<double>() : recurrent_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const RecurrentKernel& recurrent_kernel(Isa isa, DType dtype) {
  ATTN_RETURN_BY_ISA(isa, recurrent_kernel_of(dtype));
}

}  // namespace attn::kernels
#endif
