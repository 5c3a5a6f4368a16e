// The product rows of a block: packing their queries, and writing their results from a state.
// Included once a target.
#if defined(ATTN_KERNELS_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_ROWS_INL_H_
#undef ATTN_KERNELS_ROWS_INL_H_
#else
#define ATTN_KERNELS_ROWS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/arena.h"
#include "kernels/forward.h"
#include "kernels/micro-inl.h"
#include "kernels/scores-inl.h"
#include "kernels/state-inl.h"
#include "kernels/stored-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

template <class T>
class BlockRows {
  using B = Blocking<T>;

 public:
  const std::int64_t count, strips, v_padded;
  std::int64_t* token;  // [count] query index
  std::int32_t* head;   // [count] query head

  BlockRows(const ForwardParams& params, const ForwardBlock& block, Arena& arena)
      : count(block.token_count * params.group),
        strips((count + B::kRows - 1) / B::kRows),
        v_padded(round_up(params.v_width, B::kPanel)),
        p_(params),
        sequence_(block.sequence) {
    token = arena.take<std::int64_t>(count);
    head = arena.take<std::int32_t>(count);
    queries_ = arena.take<T>(count * params.width + B::kLanes);
    staging_ = arena.take<T>(B::kRows * params.width);
  }

  void place(const ForwardBlock& block) const {
    for (std::int64_t r = 0; r < count; ++r) {
      token[r] = block.token_begin + r / p_.group;
      head[r] = static_cast<std::int32_t>(block.kv_head * p_.group + r % p_.group);
    }
  }

  // Strips are as even as they come, so that no strip is nearly empty.
  std::int64_t strip_begin(std::int64_t strip) const { return count * strip / strips; }

  // Queries of the strip that begins at row `first`: [width][rows of the strip].
  const T* queries(std::int64_t first) const { return queries_ + first * p_.width; }

  // scale * log2(e) is folded in here, so that softmax is exp2(s - max).
  void pack_queries() const {
    const T factor = static_cast<T>(p_.score.scale * kLog2e);
    for (std::int64_t strip = 0; strip < strips; ++strip) {
      const std::int64_t begin = strip_begin(strip), height = strip_begin(strip + 1) - begin;
      const T* from = reinterpret_cast<const T*>(row(p_.q, p_.q_dtype, begin));
      std::int64_t stride = p_.q.length;
      if (p_.group > 1 || p_.q_dtype != dtype_of<T>()) {
        for (std::int64_t r = 0; r < height; ++r) {
          convert_rows(row(p_.q, p_.q_dtype, begin + r), p_.q_dtype, 0, 1, p_.width,
                       staging_ + r * p_.width, 0);
        }
        from = staging_;
        stride = p_.width;
      }
      transpose_strip(from, stride, height, p_.width, factor, queries_ + begin * p_.width);
    }
  }

  // Divides by the sum, applies sinks, and stores.
  void write(const State<T>& state) const {
    const bool statistics = p_.statistics.any();
    for (std::int64_t strip = 0; strip < strips; ++strip) {
      const std::int64_t begin = strip_begin(strip), height = strip_begin(strip + 1) - begin;
      state.touch(strip, begin, begin + height, v_padded);
      for (std::int64_t r = begin; r < begin + height; ++r) {
        const T sum = state.sum[r];
        T inverse = sum == T(0) ? T(0) : T(1) / sum;  // NaN stays NaN
        double lse = -std::numeric_limits<double>::infinity(), rest = 1;
        const bool sink = p_.score.sinks != nullptr && sum != T(0);
        if (sum != T(0) && (p_.lse.data != nullptr || sink || statistics)) {
          lse = (static_cast<double>(state.max[r]) + std::log2(static_cast<double>(sum))) * kLn2;
        }
        put(p_.lse, r, lse);
        if (sink) {
          rest = 1.0 / (1.0 + std::exp(static_cast<double>(p_.score.sinks[head[r]]) - lse));
          inverse *= static_cast<T>(rest);
        }
        if (statistics) write_statistics(state, r, lse, rest);
        if (p_.softmax.data != nullptr) {
          T* softmax = reinterpret_cast<T*>(row(p_.softmax, dtype_of<T>(), r));
          softmax[0] = state.max[r] == -std::numeric_limits<T>::infinity() ? T(0) : state.max[r];
          softmax[1] = inverse;
        }
        if (p_.dropout.threshold > 0) inverse *= static_cast<T>(p_.dropout.scale);
        char* to = row(p_.out, p_.out_dtype, r);
        const T* from = state.out + begin * v_padded + (r - begin) * B::kPanel;
        for (std::int64_t c = 0; c < p_.v_width; c += B::kPanel, from += height * B::kPanel) {
          store_row(from, inverse, std::min(B::kPanel, p_.v_width - c), p_.out_dtype,
                    to + c * element_bytes(p_.out_dtype));
        }
      }
    }
  }

 private:
  // Row r of the block in a tensor of queries.
  char* row(const Matrix& m, DType dtype, std::int64_t r) const {
    const std::int64_t at =
        sequence_.tensor * m.batch + head[r] * m.head + (sequence_.q_begin + token[r]) * m.length;
    return static_cast<char*>(const_cast<void*>(m.data)) + at * element_bytes(dtype);
  }

  void put(const Matrix& m, std::int64_t r, double value) const {
    if (m.data != nullptr) *reinterpret_cast<T*>(row(m, dtype_of<T>(), r)) = static_cast<T>(value);
  }

  // `rest` is what the sink leaves to the keys: p = e^(s - lse) * rest.
  void write_statistics(const State<T>& state, std::int64_t r, double lse, double rest) const {
    const Statistics& ask = p_.statistics;
    const double sum = state.sum[r], seen = state.seen[r], top = state.top[r];
    put(ask.max_logit, r, top * kLn2);
    if (sum == 0) {
      for (const Matrix* m :
           {&ask.entropy, &ask.relative_entropy, &ask.max_probability, &ask.mean_variance})
        put(*m, r, 0);
      return;
    }
    // Relative to the maximum m: -sum p ln p = ln Z - sum p (s - m), for p before the sink.
    double entropy = std::log(sum) - kLn2 * state.weighted[r] / sum, entries = seen;
    if (p_.score.sinks != nullptr) {
      // The entropy of choosing the keys or the sink, and of the keys among themselves.
      const double sunk = p_.score.sinks[head[r]] - lse;  // logit of the sink against the keys
      const double ln_rest = -std::log1p(std::exp(sunk));
      entropy = rest * (entropy - ln_rest);
      if (rest < 1) entropy -= (1 - rest) * (ln_rest + sunk);
      entries += 1;
    }
    put(ask.entropy, r, entropy);
    put(ask.relative_entropy, r, entries > 1 ? entropy / std::log(entries) : 0);
    put(ask.max_probability, r, std::exp2(top - state.max[r]) / sum * rest);
    put(ask.mean_variance, r, (rest - rest * rest * state.squares[r] / (sum * sum)) / seen);
  }

  const ForwardParams& p_;
  const Sequence& sequence_;
  T *queries_, *staging_;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
