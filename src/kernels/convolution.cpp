#include "kernels/convolution.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/convolution.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include "kernels/by_isa.h"
#include "kernels/scan_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
class Convolution {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;

 public:
  static std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(D())); }

  Convolution(const ConvolutionParams& params, const ChannelBlock& block)
      : p_(params), block_(block), rows_{block}, end_(block.channels) {}

  // Token by token along its row.
  void run() const {
    for (std::int64_t t = 0; t < block_.length; ++t) {
      const T *x[kMostWidth], *weight[kMostWidth], *bias = rows_.parameter(p_.bias);
      for (std::int64_t i = 0; i < p_.width; ++i) {
        x[i] = before(t - p_.width + 1 + i);
        weight[i] = rows_.parameter(p_.weight, i);
      }
      T* out = rows_.token(p_.out, t);
      for (std::int64_t v = 0; v < end_; v += lanes()) {
        auto sum = load_row(d_, bias, v, end_);
        for (std::int64_t i = 0; i < p_.width; ++i)
          sum = hn::MulAdd(load_row(d_, weight[i], v, end_), load_row(d_, x[i], v, end_), sum);
        if (p_.silu) sum = hn::Mul(sum, sigmoid(d_, sum));
        store_row(d_, sum, out, v, end_);
      }
    }
    // Ascending: over an initial state in the same place, what is still needed comes later.
    for (std::int64_t i = 0; i < p_.width - 1 && p_.state_out.data != nullptr; ++i) {
      const T* from = before(block_.length - p_.width + 1 + i);
      for (std::int64_t v = 0; v < end_; v += lanes())
        store_row(d_, load_row(d_, from, v, end_), rows_.state(p_.state_out, i), v, end_);
    }
  }

  // A column of channels at a time, through all tokens.
  void backward() const {
    for (std::int64_t v = 0; v < end_; v += lanes()) backward_column(v);
  }

 private:
  // The input at token t, which may be one of those before the first; null: 0.
  const T* before(std::int64_t t) const {
    return t >= 0 ? rows_.token(p_.x, t) : rows_.state(p_.state, t + p_.width - 1);
  }

  void backward_column(std::int64_t v) const {
    const std::int64_t width = p_.width;
    // Entry i: of the weight; the input, and its gradient so far, at token t - width + 1 + i.
    V weight[kMostWidth], d_weight[kMostWidth], x[kMostWidth], dx[kMostWidth];
    for (std::int64_t i = 0; i < width; ++i) {
      weight[i] = load_row(d_, rows_.parameter(p_.weight, i), v, end_);
      d_weight[i] = dx[i] = hn::Zero(d_);
      if (i > 0) x[i] = load_row(d_, before(i - width), v, end_);
    }
    const auto bias = load_row(d_, rows_.parameter(p_.bias), v, end_);
    auto d_bias = hn::Zero(d_);
    for (std::int64_t t = 0; t < block_.length; ++t) {
      for (std::int64_t i = 0; i + 1 < width; ++i) {
        x[i] = x[i + 1];
        dx[i] = dx[i + 1];
      }
      x[width - 1] = load_row(d_, rows_.token(p_.x, t), v, end_);
      dx[width - 1] = hn::Zero(d_);
      const auto d_sum =
          hn::Mul(load_row(d_, rows_.token(p_.d_out, t), v, end_), slope(weight, x, bias));
      d_bias = hn::Add(d_bias, d_sum);
      for (std::int64_t i = 0; i < width; ++i) {
        d_weight[i] = hn::MulAdd(d_sum, x[i], d_weight[i]);
        dx[i] = hn::MulAdd(d_sum, weight[i], dx[i]);
      }
      put(t - width + 1, dx[0], v);  // no later token reads it
    }
    for (std::int64_t i = 1; i < width; ++i) {
      const auto kept = load_row(d_, rows_.state(p_.d_state_out, i - 1), v, end_);
      put(block_.length - width + i, hn::Add(dx[i], kept), v);
    }
    for (std::int64_t i = 0; i < width; ++i)
      store_row(d_, d_weight[i], row_of<T>(p_.d_weight, block_.sequence, 0, i, block_.channel), v,
                end_);
    store_row(d_, d_bias, rows_.state(p_.d_bias, 0), v, end_);
  }

  // The derivative of the output by the sum.
  HWY_INLINE V slope(const V* weight, const V* x, V bias) const {
    const auto one = hn::Set(d_, T(1));
    if (!p_.silu) return one;
    auto sum = bias;
    for (std::int64_t i = 0; i < p_.width; ++i) sum = hn::MulAdd(weight[i], x[i], sum);
    const auto s = sigmoid(d_, sum);
    return hn::Mul(s, hn::MulAdd(sum, hn::Sub(one, s), one));
  }

  // The gradient of the input at token t.
  HWY_INLINE void put(std::int64_t t, V gradient, std::int64_t v) const {
    T* to = t >= 0 ? rows_.token(p_.dx, t) : rows_.state(p_.d_state, t + p_.width - 1);
    store_row(d_, gradient, to, v, end_);
  }

  static constexpr D d_{};
  const ConvolutionParams& p_;
  const ChannelBlock& block_;
  const BlockChannels<T> rows_;
  const std::int64_t end_;
};

template <class T>
void run_convolution(const ConvolutionParams& params, const ChannelBlock& block) {
  Convolution<T>(params, block).run();
}
template <class T>
void run_convolution_backward(const ConvolutionParams& params, const ChannelBlock& block) {
  Convolution<T>(params, block).backward();
}

template <class T>
const ConvolutionKernel& convolution_kernel_for() {
  static const ConvolutionKernel kKernel{Convolution<T>::lanes(), &run_convolution<T>,
                                         &run_convolution_backward<T>};
  return kKernel;
}

const ConvolutionKernel& convolution_kernel_of(DType dtype) {
  return dtype == DType::f64 ? convolution_kernel_for<double>() : convolution_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const ConvolutionKernel& convolution_kernel(Isa isa, DType dtype) {
  ATTN_RETURN_BY_ISA(isa, convolution_kernel_of(dtype));
}

}  // namespace attn::kernels
#endif
