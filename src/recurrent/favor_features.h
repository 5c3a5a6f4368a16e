// The random features of queries and keys of FAVOR+, some tokens at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "attention/parallel.h"
#include "attn/linear_attention.h"
#include "base/context_use.h"
#include "kernels/arena.h"
#include "kernels/features.h"
#include "recurrent/packed_features.h"

namespace attn {

template <class T>
class FavorFeatures {
 public:
  FavorFeatures(const ConstTensor& q, std::int64_t v_heads, const LinearAttentionOptions& options,
                const Context& context)
      : batch_(q.batch()),
        heads_(q.heads()),
        v_heads_(v_heads),
        context_(context),
        kernel_(kernels::feature_kernel(context.isa(), q.dtype)) {
    const PackedDirections<T>& directions = options.random->packed().template of<T>();
    p_.width = q.width();
    p_.features = options.random->count();
    p_.step = directions.step;
    p_.row_step = directions.row_step;
    p_.directions = directions.across;
    p_.directions_by_row = directions.by_row;
    p_.scale = std::pow(static_cast<double>(p_.width), -0.25);  // exp(q . k / sqrt(D))
    const double flops = 2.0 * static_cast<double>(p_.width * p_.features * q.length()) *
                         static_cast<double>(batch_ * heads_);
    threads_ = threads_worth(context.threads(), flops);
    block_ = std::min(kBlock, std::max<std::int64_t>(q.length(), 1));
    const auto rows = static_cast<std::size_t>(batch_ * heads_ * block_);
    for (std::vector<T>* x : {&q_, &k_})
      x->resize(rows * static_cast<std::size_t>(p_.step) + kAlign);
    tops_.resize(rows);
    log_decay_.resize(static_cast<std::size_t>(batch_ * v_heads_ * block_));
    scale_.assign(static_cast<std::size_t>(batch_ * heads_), -std::numeric_limits<T>::infinity());
  }

  std::int64_t count() const { return p_.features; }
  std::int64_t block() const { return block_; }
  // The logarithm of what multiplies the state of a head, so far.
  std::vector<T>& scale() { return scale_; }

  // Features of tokens [begin, begin + n). A query's own factor cancels in the quotient. A key's
  // must be that of the state: the largest so far (never one of later keys, or outputs would depend
  // on them), and the state decays when it grows.
  ConstTensor queries(const ConstTensor& q, std::int64_t begin, std::int64_t n) {
    map_rows(q, begin, n, q_);
    exponentiate(n, q_);
    return view(q_, n);
  }
  ConstTensor keys(const ConstTensor& k, std::int64_t begin, std::int64_t n) {
    map_rows(k, begin, n, k_);
    follow_scale(n);
    exponentiate(n, k_);
    return view(k_, n);
  }
  // Of the last keys.
  ConstTensor log_decay(std::int64_t n) const {
    const Shape shape{batch_, v_heads_, n, 1};
    return {log_decay_.data(), shape, {v_heads_ * block_, block_, 1, 1}};
  }

  // Where gradients of the features may be kept, shaped as they are.
  Tensor scratch(std::vector<T>& values, std::int64_t n) const {
    values.resize(q_.size());
    const ConstTensor shape = view(values, n);
    return {const_cast<void*>(shape.data), shape.dtype, shape.shape, shape.strides};
  }

  // d_x of tokens [begin, begin + n) from those of their features.
  void differentiate(const ConstTensor& x, const ConstTensor& features, const Tensor& d_features,
                     std::int64_t begin, std::int64_t n, const Tensor& d_x) const {
    const std::size_t bytes = kernel_.workspace_bytes(p_);
    for_row_blocks(batch_ * heads_, n,
                   [&](int thread, std::int64_t i, std::int64_t row, std::int64_t rows) {
                     const std::int64_t b = i / heads_, h = i % heads_;
                     kernel_.differentiate(p_, x.row<T>(b, h, begin + row), x.strides[2], rows,
                                           features.row<T>(b, h, row), d_features.row<T>(b, h, row),
                                           d_x.row<T>(b, h, begin + row), d_x.strides[2],
                                           context_.workspace(thread, bytes));
                   });
  }

 private:
  static constexpr std::size_t kAlign = 64 / sizeof(T);
  static constexpr std::int64_t kBlock = 512;  // tokens at a time

  static T* aligned(const std::vector<T>& x) {
    const auto at = reinterpret_cast<std::uintptr_t>(x.data());
    return const_cast<T*>(x.data()) + (64 - at % 64) % 64 / sizeof(T);
  }

  ConstTensor view(const std::vector<T>& x, std::int64_t n) const {
    return {static_cast<const T*>(aligned(x)),
            Shape{batch_, heads_, n, p_.features},
            {heads_ * block_ * p_.step, block_ * p_.step, p_.step, 1}};
  }

  // Calls each(thread, head, first row, rows) for the rows of all heads, some at a time.
  template <class Each>
  void for_row_blocks(std::int64_t heads, std::int64_t n, const Each& each) const {
    const std::int64_t blocks = (n + kernels::kFeatureRows - 1) / kernels::kFeatureRows;
    const ContextUse use(context_);
    parallel_units(threads_, heads * blocks, [&](int thread, std::int64_t i) {
      const std::int64_t row = i % blocks * kernels::kFeatureRows;
      each(thread, i / blocks, row, std::min(kernels::kFeatureRows, n - row));
    });
  }

  T* top_of(std::int64_t b, std::int64_t h, std::int64_t row) {
    return tops_.data() + (b * heads_ + h) * block_ + row;
  }

  void map_rows(const ConstTensor& x, std::int64_t begin, std::int64_t n, std::vector<T>& to) {
    // One token of every head is as many rows as there are heads, which read directions once.
    const bool joined = block_ == 1 && (batch_ <= 1 || x.strides[0] == heads_ * x.strides[1]);
    const std::int64_t heads = joined ? 1 : batch_ * heads_, rows = joined ? batch_ * heads_ : n,
                       stride = joined ? x.strides[1] : x.strides[2];
    const std::size_t bytes = kernel_.workspace_bytes(p_);
    const ConstTensor out = view(to, n);
    for_row_blocks(heads, rows,
                   [&](int thread, std::int64_t i, std::int64_t row, std::int64_t count) {
                     const std::int64_t b = i / heads_, h = i % heads_;
                     kernel_.map(p_, x.row<T>(b, h, begin) + row * stride, stride, count,
                                 const_cast<T*>(out.row<T>(b, h, 0)) + row * p_.step,
                                 top_of(b, h, row), context_.workspace(thread, bytes));
                   });
  }

  void exponentiate(std::int64_t n, std::vector<T>& to) {
    const ConstTensor out = view(to, n);
    for_row_blocks(
        batch_ * heads_, n, [&](int, std::int64_t i, std::int64_t row, std::int64_t rows) {
          const std::int64_t b = i / heads_, h = i % heads_;
          kernel_.exponentiate(p_, rows, top_of(b, h, row), const_cast<T*>(out.row<T>(b, h, row)));
        });
  }

  // Makes tops the scale of the state after each key, and the decays that this is.
  void follow_scale(std::int64_t n) {
    const std::int64_t group = v_heads_ / heads_;
    for (std::int64_t b = 0; b < batch_; ++b) {
      for (std::int64_t h = 0; h < heads_; ++h) {
        T& scale = scale_[static_cast<std::size_t>(b * heads_ + h)];
        for (std::int64_t i = 0; i < n; ++i) {
          T& top = *top_of(b, h, i);
          const T now = std::max(scale, top);
          for (std::int64_t g = 0; g < group; ++g)
            log_decay_[static_cast<std::size_t>((b * v_heads_ + h * group + g) * block_ + i)] =
                now == scale ? 0 : scale - now;
          scale = top = now;
        }
      }
    }
  }

  std::int64_t batch_, heads_, v_heads_, block_ = 0;
  const Context& context_;
  const kernels::FeatureKernel& kernel_;
  kernels::FeatureParams p_;
  int threads_ = 1;
  std::vector<T> q_, k_, tops_, log_decay_, scale_;
};

}  // namespace attn
