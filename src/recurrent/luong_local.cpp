// Luong's local attention (local-p): a window around a predicted place, row by row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "attention/parallel.h"
#include "attn/additive.h"
#include "attn/luong.h"
#include "base/check_luong.h"
#include "recurrent/owned.h"

namespace attn {

namespace {

// The window of one query: what it makes of keys [first, first + p.size()).
struct Window {
  std::int64_t first = 0;
  std::vector<double> p;     // softmax
  std::vector<double> bell;  // exp(-(s - place)^2 / (2 sigma^2))
  double weight(std::size_t i) const { return p[i] * bell[i]; }
};

template <class T>
double dot(const T* a, const T* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

template <class T>
class Local {
 public:
  Local(const AttentionInputs& inputs, const LuongLocal& local, const Context& context)
      : in_(inputs), local_(local), context_(context), k_(inputs.k) {
    if (!local.w.empty()) {
      projected_keys_ =
          Owned(in_.q.dtype, {in_.k.batch(), in_.k.heads(), in_.k.length(), in_.q.width()});
      project(in_.k, local.w, {}, projected_keys_.view, context);
      k_ = projected_keys_.view;
    }
    // tanh(W_p h), then the place of every query.
    const Shape& q = in_.q.shape;
    tanh_ = Owned(in_.q.dtype, {q[0], q[1], q[2], local.w_p.length()});
    place_ = Owned(in_.q.dtype, {q[0], q[1], q[2], 1});
    project(in_.q, local.w_p, {}, tanh_.view, context);
    each_row([&](std::int64_t b, std::int64_t h, std::int64_t i) {
      T* row = tanh_.view.row<T>(b, h, i);
      for (std::int64_t c = 0; c < tanh_.view.width(); ++c) row[c] = std::tanh(row[c]);
    });
    project(tanh_.view, local.v_p, {}, place_.view, context);
    each_row([&](std::int64_t b, std::int64_t h, std::int64_t i) {
      T& a = *place_.view.row<T>(b, h, i);
      a = static_cast<T>(static_cast<double>(length(b)) / (1 + std::exp(-static_cast<double>(a))));
    });
  }

  void run(const Tensor& out, const LuongLocalObserved& observed) const {
    each_row([&](std::int64_t b, std::int64_t h, std::int64_t i) {
      const Window w = window(b, h, i);
      std::vector<double> sum(static_cast<std::size_t>(in_.v.width()), 0.0);
      for (std::size_t j = 0; j < w.p.size(); ++j) {
        const T* value = in_.v.row<T>(b, h, w.first + static_cast<std::int64_t>(j));
        for (std::size_t d = 0; d < sum.size(); ++d)
          sum[d] += w.weight(j) * static_cast<double>(value[d]);
      }
      std::transform(sum.begin(), sum.end(), out.row<T>(b, h, i),
                     [](double x) { return static_cast<T>(x); });
      if (!observed.positions.empty()) *observed.positions.row<T>(b, h, i) = place(b, h, i);
      if (observed.weights.empty()) return;
      T* weights = observed.weights.row<T>(b, h, i);
      std::fill_n(weights, in_.k.length(), T(0));
      for (std::size_t j = 0; j < w.p.size(); ++j)
        weights[w.first + static_cast<std::int64_t>(j)] = static_cast<T>(w.weight(j));
    });
  }

  void backward(const ConstTensor& d_out, const LuongLocalGradients& to) const {
    const DType type = in_.q.dtype;
    const Owned dq(type, in_.q.shape), dk(type, k_.shape), dv(type, in_.v.shape),
        d_place(type, place_.view.shape);
    // Windows of neighbouring queries share keys: one thread does a head's rows in order.
    parallel_units(threads(), in_.q.batch() * in_.q.heads(), [&](int, std::int64_t head) {
      for (std::int64_t i = 0; i < in_.q.length(); ++i) {
        row_backward(head / in_.q.heads(), head % in_.q.heads(), i, d_out, dq.view, dk.view,
                     dv.view, d_place.view);
      }
    });
    // Through v_p . tanh(W_p h), of which d_place is the gradient now.
    const Owned d_tanh(type, tanh_.view.shape), dq_of_place(type, in_.q.shape);
    project_backward(tanh_.view, local_.v_p, d_place.view, {.x = d_tanh.view, .w = to.v_p},
                     context_);
    each_row([&](std::int64_t b, std::int64_t h, std::int64_t i) {
      const T* t = tanh_.view.row<T>(b, h, i);
      T* d = d_tanh.view.row<T>(b, h, i);
      for (std::int64_t c = 0; c < tanh_.view.width(); ++c)
        d[c] = d[c] == 0 ? 0 : d[c] * (1 - t[c] * t[c]);
    });
    project_backward(in_.q, local_.w_p, d_tanh.view, {.x = dq_of_place.view, .w = to.w_p},
                     context_);
    each_row([&](std::int64_t b, std::int64_t h, std::int64_t i) {
      if (to.q.empty()) return;
      const T *a = dq.view.row<T>(b, h, i), *more = dq_of_place.view.row<T>(b, h, i);
      std::transform(a, a + in_.q.width(), more, to.q.row<T>(b, h, i), std::plus<T>());
    });
    if (!local_.w.empty())
      project_backward(in_.k, local_.w, dk.view, {.x = to.k, .w = to.w}, context_);
    else
      copy(dk.view, to.k);
    copy(dv.view, to.v);
  }

 private:
  std::int64_t length(std::int64_t b) const {
    return local_.lengths.empty() ? in_.k.length() : local_.lengths[static_cast<std::size_t>(b)];
  }
  T place(std::int64_t b, std::int64_t h, std::int64_t i) const {
    return *place_.view.row<T>(b, h, i);
  }

  // For windows; what else is done by row is less.
  int threads() const {
    const double keys = std::min(2 * local_.window + 1, static_cast<double>(in_.k.length()));
    return threads_worth(context_.threads(), 2 * keys * static_cast<double>(in_.q.size()));
  }

  template <class Work>
  void each_row(const Work& work) const {
    const std::int64_t rows = in_.q.length(), heads = in_.q.heads();
    parallel_units(threads(), in_.q.batch() * heads * rows, [&](int, std::int64_t unit) {
      work(unit / rows / heads, unit / rows % heads, unit % rows);
    });
  }

  Window window(std::int64_t b, std::int64_t h, std::int64_t i) const {
    const double at = place(b, h, i), reach = local_.window, sigma = reach / 2;
    const auto last = static_cast<double>(length(b) - 1);
    Window w;
    // A place that is no number is every key's.
    w.first = static_cast<std::int64_t>(at - reach > 0 ? std::ceil(at - reach) : 0);
    const auto end = static_cast<std::int64_t>(at + reach < last ? std::floor(at + reach) : last);
    double largest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (std::int64_t j = w.first; j <= end; ++j) {
      w.p.push_back(dot(in_.q.row<T>(b, h, i), k_.row<T>(b, h, j), k_.width()));
      largest = std::max(largest, w.p.back());
      const double distance = (static_cast<double>(j) - at) / sigma;
      w.bell.push_back(std::exp(-distance * distance / 2));
    }
    for (double& p : w.p) sum += p = std::exp(p - largest);
    for (double& p : w.p) p /= sum;
    return w;
  }

  // Last step first. Leaves in d_place dL/d(what the sigmoid is given).
  void row_backward(std::int64_t b, std::int64_t h, std::int64_t i, const ConstTensor& d_out,
                    const Tensor& dq, const Tensor& dk, const Tensor& dv,
                    const Tensor& d_place) const {
    const Window w = window(b, h, i);
    const T* from = d_out.row<T>(b, h, i);
    const double at = place(b, h, i), variance = local_.window * local_.window / 4;
    std::vector<double> d(w.p.size());  // dL/dweight
    double mean = 0, of_place = 0;
    for (std::size_t j = 0; j < d.size(); ++j) {
      const std::int64_t key = w.first + static_cast<std::int64_t>(j);
      d[j] = dot(from, in_.v.row<T>(b, h, key), in_.v.width());
      T* value = dv.row<T>(b, h, key);
      for (std::int64_t c = 0; c < in_.v.width(); ++c)
        value[c] += static_cast<T>(w.weight(j) * static_cast<double>(from[c]));
      mean += w.weight(j) * d[j];
      of_place += w.weight(j) * d[j] * (static_cast<double>(key) - at) / variance;
    }
    std::vector<double> sum(static_cast<std::size_t>(in_.q.width()), 0.0);
    for (std::size_t j = 0; j < d.size(); ++j) {
      const std::int64_t key = w.first + static_cast<std::int64_t>(j);
      const double ds = w.p[j] * (w.bell[j] * d[j] - mean);
      const T *q = in_.q.row<T>(b, h, i), *k = k_.row<T>(b, h, key);
      T* to = dk.row<T>(b, h, key);
      for (std::size_t c = 0; c < sum.size(); ++c) {
        sum[c] += ds * static_cast<double>(k[c]);
        to[c] += static_cast<T>(ds * static_cast<double>(q[c]));
      }
    }
    std::transform(sum.begin(), sum.end(), dq.row<T>(b, h, i),
                   [](double x) { return static_cast<T>(x); });
    // place = S sigmoid(a).
    const auto s = static_cast<double>(length(b));
    *d_place.row<T>(b, h, i) = static_cast<T>(s == 0 ? 0 : of_place * at * (1 - at / s));
  }

  void copy(const ConstTensor& from, const Tensor& to) const {
    if (to.empty()) return;
    for (std::int64_t b = 0; b < to.batch(); ++b) {
      for (std::int64_t h = 0; h < to.heads(); ++h) {
        for (std::int64_t l = 0; l < to.length(); ++l)
          std::copy_n(from.row<T>(b, h, l), to.width(), to.row<T>(b, h, l));
      }
    }
  }

  const AttentionInputs& in_;
  const LuongLocal& local_;
  const Context& context_;
  ConstTensor k_;
  Owned projected_keys_, tanh_, place_;
};

}  // namespace

void luong_local(const AttentionInputs& inputs, const LuongLocal& local, const Tensor& out,
                 const Context& context, const LuongLocalObserved& observed) {
  check_luong_local(inputs, local);
  check_luong_local_output(inputs, out, observed);
  if (inputs.q.dtype == DType::f64)
    Local<double>(inputs, local, context).run(out, observed);
  else
    Local<float>(inputs, local, context).run(out, observed);
}

void luong_local_backward(const AttentionInputs& inputs, const LuongLocal& local,
                          const ConstTensor& d_out, const LuongLocalGradients& to,
                          const Context& context) {
  check_luong_local(inputs, local);
  check_luong_local_gradients(inputs, local, d_out, to);
  if (inputs.q.dtype == DType::f64)
    Local<double>(inputs, local, context).backward(d_out, to);
  else
    Local<float>(inputs, local, context).backward(d_out, to);
}

}  // namespace attn
