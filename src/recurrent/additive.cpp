// Additive attention: a score of exact attention, whose own product of queries and keys is left out
// (it is over one column of zeros).
#include "attn/additive.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "attention/parallel.h"
#include "base/check_additive.h"
#include "base/checker.h"
#include "recurrent/additive_keys.h"

namespace attn {

namespace {

constexpr Checker kCheck("additive");

// A column of zeros that stands for queries or keys.
ConstTensor zeros(const ConstTensor& x) {
  static constexpr double kZero = 0;
  return {&kZero, x.dtype, {x.batch(), x.heads(), x.length(), 1}, {0, 0, 0, 1}};
}

double element(const ConstTensor& x, std::int64_t h, std::int64_t c) {
  return x.dtype == DType::f64 ? x.row<double>(0, h, 0)[c] : double{x.row<float>(0, h, 0)[c]};
}

// v_a of all heads as the kernel reads it, over a power of two.
class Weights {
 public:
  Weights(const ConstTensor& v_a, std::int64_t columns)
      : columns_(static_cast<std::size_t>(columns)) {
    const auto heads = static_cast<std::size_t>(v_a.heads());
    scale_.resize(heads);
    sum_.resize(heads);
    floats_.resize(v_a.dtype == DType::f32 ? heads * columns_ : 0);
    doubles_.resize(v_a.dtype == DType::f64 ? heads * columns_ : 0);
    for (std::size_t h = 0; h < heads; ++h) {
      double largest = 0;
      for (std::int64_t c = 0; c < v_a.width(); ++c) {
        const double x = element(v_a, static_cast<std::int64_t>(h), c);
        largest = std::max(largest, std::abs(x));
        sum_[h] += x;
      }
      int exponent = 0;
      if (std::isfinite(largest)) std::frexp(largest, &exponent);
      scale_[h] = std::ldexp(1.0, exponent);
      for (std::int64_t c = 0; c < v_a.width(); ++c) {
        const double x = element(v_a, static_cast<std::int64_t>(h), c) / scale_[h];
        const std::size_t place = h * columns_ + static_cast<std::size_t>(c);
        if (floats_.empty())
          doubles_[place] = x;
        else
          floats_[place] = static_cast<float>(x);
      }
    }
  }

  void set(std::size_t h, kernels::AdditiveHead& head) const {
    if (scale_.size() == 1) h = 0;
    head.scale = scale_[h];
    head.sum = sum_[h];
    head.weights = floats_.empty() ? static_cast<const void*>(doubles_.data() + h * columns_)
                                   : floats_.data() + h * columns_;
  }

 private:
  std::size_t columns_;
  std::vector<double> scale_, sum_;
  std::vector<float> floats_;  // of these two, those of the tensors' type
  std::vector<double> doubles_;
};

kernels::AdditiveRows rows_of(const ConstTensor& x, std::int64_t b, std::int64_t h) {
  if (x.empty()) return {};
  return {static_cast<const char*>(x.data) +
              x.offset(b, h, 0) * static_cast<std::int64_t>(size_of(x.dtype)),
          x.strides[2]};
}

std::vector<kernels::AdditiveHead> heads_of(const ConstTensor& q, const AdditiveKeys::Impl& keys,
                                            const Weights& weights) {
  std::vector<kernels::AdditiveHead> heads(keys.heads());
  for (std::size_t n = 0; n < heads.size(); ++n) {
    const auto b = static_cast<std::int64_t>(n) / q.heads(),
               h = static_cast<std::int64_t>(n) % q.heads();
    kernels::AdditiveHead& head = heads[n];
    head.width = q.width();
    head.k_len = keys.k.length();
    head.q = rows_of(q, b, h);
    head.k = rows_of(keys.k, b, h);
    head.panels = keys.panels_of(n);
    weights.set(static_cast<std::size_t>(h), head);
  }
  return heads;
}

// The options of the engine for these heads.
AttentionOptions with_score(AttentionOptions options, const kernels::AdditiveKernel& kernel,
                            const std::vector<kernels::AdditiveHead>& heads,
                            std::int64_t per_batch) {
  const auto head_of = [&heads, per_batch](const ScoreTile& t) -> const kernels::AdditiveHead& {
    return heads[static_cast<std::size_t>(t.batch * per_batch + t.head)];
  };
  options.score.scale = 1;
  options.score.custom = [&kernel, head_of](const ScoreTile& t) { kernel.scores(head_of(t), t); };
  options.score.custom_gradient = [&kernel, head_of](const ScoreGradientTile& t) {
    kernel.gradients(head_of(t.s), t);
  };
  return options;
}

void check_keys(const AdditiveKeys::Impl& keys, const Context& context) {
  if (keys.isa != context.isa()) {
    kCheck.fail(std::string("keys were prepared for ") + name(keys.isa) + ", the context is " +
                name(context.isa()));
  }
}

template <class T>
class Backward {
 public:
  Backward(const AdditiveInputs& inputs, const AdditiveGradients& to, const Context& context)
      : in_(inputs),
        to_(to),
        context_(context),
        keys_(inputs.k, context),
        weights_(inputs.v_a, keys_.impl().columns),
        heads_(heads_of(inputs.q, keys_.impl(), weights_)),
        tiles_((inputs.k.length() + kernel().tile - 1) / kernel().tile),
        dk_(heads_.size() * keys_.impl().panels_bytes()),
        dv_a_(heads_.size() * static_cast<std::size_t>(tiles_ * keys_.impl().columns), 0.0) {
    std::fill_n(dk_.data(), heads_.size() * keys_.impl().panels_bytes(), 0);
    for (std::size_t n = 0; n < heads_.size(); ++n) {
      const auto b = static_cast<std::int64_t>(n) / in_.q.heads(),
                 h = static_cast<std::int64_t>(n) % in_.q.heads();
      heads_[n].dq = rows_of(to.q, b, h);
      heads_[n].dk = dk_.data() + n * keys_.impl().panels_bytes();
      heads_[n].dv_a = dv_a_.data() + n * static_cast<std::size_t>(tiles_ * keys_.impl().columns);
      for (std::int64_t i = 0; !to.q.empty() && i < to.q.length(); ++i)
        std::fill_n(to.q.row<T>(b, h, i), to.q.width(), T(0));
    }
  }

  void run(const AttentionResults& results, const OutputGradients& from,
           const AttentionOptions& options) const {
    const ConstTensor q = zeros(in_.q), k = zeros(in_.k);
    plan(AttentionShape::of(q, k, in_.v), with_score(options, kernel(), heads_, in_.q.heads()),
         context_)
        .backward({q, k, in_.v}, results, from, {.v = to_.v});
    if (!to_.k.empty()) {
      parallel_units(threads_worth(context_.threads(), static_cast<double>(in_.k.size())),
                     static_cast<std::int64_t>(heads_.size()),
                     [&](int, std::int64_t n) { store_keys(n); });
    }
    if (!to_.v_a.empty()) store_v_a();
  }

 private:
  const kernels::AdditiveKernel& kernel() const { return keys_.impl().kernel; }

  void store_keys(std::int64_t n) const {
    const kernels::AdditiveHead& head = heads_[static_cast<std::size_t>(n)];
    const std::int64_t columns = keys_.impl().columns, panel = kernel().panel;
    const T* weights = static_cast<const T*>(head.weights);
    for (std::int64_t j = 0; j < in_.k.length(); ++j) {
      const T* from = static_cast<const T*>(head.dk) + j / panel * columns * panel + j % panel;
      T* row = to_.k.row<T>(n / in_.k.heads(), n % in_.k.heads(), j);
      for (std::int64_t c = 0; c < in_.k.width(); ++c)
        row[c] = static_cast<T>(4 * head.scale) * weights[c] * from[c * panel];
    }
  }

  // Over batch, heads that share it and tiles, in order.
  void store_v_a() const {
    const auto columns = static_cast<std::size_t>(keys_.impl().columns);
    const auto shared = static_cast<std::size_t>(to_.v_a.heads());
    std::vector<double> sums(shared * columns, 0.0);
    for (std::size_t n = 0; n < heads_.size(); ++n) {
      double* sum = sums.data() + n % static_cast<std::size_t>(in_.q.heads()) % shared * columns;
      for (std::int64_t tile = 0; tile < tiles_; ++tile) {
        for (std::size_t c = 0; c < columns; ++c)
          sum[c] += heads_[n].dv_a[static_cast<std::size_t>(tile) * columns + c];
      }
    }
    for (std::size_t h = 0; h < shared; ++h) {
      T* row = to_.v_a.row<T>(0, static_cast<std::int64_t>(h), 0);
      for (std::int64_t c = 0; c < to_.v_a.width(); ++c)
        row[c] = static_cast<T>(sums[h * columns + static_cast<std::size_t>(c)]);
    }
  }

  const AdditiveInputs& in_;
  const AdditiveGradients& to_;
  const Context& context_;
  AdditiveKeys keys_;
  Weights weights_;
  std::vector<kernels::AdditiveHead> heads_;
  std::int64_t tiles_;
  AlignedMemory dk_;
  std::vector<double> dv_a_;
};

}  // namespace

void additive(const ConstTensor& q, const AdditiveKeys& keys, const ConstTensor& v,
              const ConstTensor& v_a, const Tensor& out, const AttentionOptions& options,
              const Context& context, const Observed& observed) {
  const AdditiveInputs inputs{q, keys.k(), v, v_a};
  check_additive(inputs, options);
  check_additive_output(inputs, out);
  check_keys(keys.impl(), context);
  const Weights weights(v_a, keys.impl().columns);
  const std::vector<kernels::AdditiveHead> heads = heads_of(q, keys.impl(), weights);
  attention(zeros(q), zeros(keys.k()), v, out,
            with_score(options, keys.impl().kernel, heads, q.heads()), context, observed);
}

void additive(const AdditiveInputs& inputs, const Tensor& out, const AttentionOptions& options,
              const Context& context, const Observed& observed) {
  check_additive(inputs, options);
  additive(inputs.q, AdditiveKeys(inputs.k, context), inputs.v, inputs.v_a, out, options, context,
           observed);
}

void additive_backward(const AdditiveInputs& inputs, const AttentionResults& results,
                       const OutputGradients& from, const AdditiveGradients& to,
                       const AttentionOptions& options, const Context& context) {
  check_additive(inputs, options);
  check_additive_gradients(inputs, from, to);
  if (inputs.q.dtype == DType::f64)
    Backward<double>(inputs, to, context).run(results, from, options);
  else
    Backward<float>(inputs, to, context).run(results, from, options);
}

}  // namespace attn
