// w x + b of rows, and its gradients.
#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "attention/parallel.h"
#include "attn/additive.h"
#include "base/checker.h"

namespace attn {

namespace {

constexpr Checker kCheck("project");

std::int64_t head_of(const ConstTensor& shared, std::int64_t h) {
  return shared.heads() == 1 ? 0 : h;
}

// In one order, eight sums side by side.
template <class T>
T dot(const T* a, const T* b, std::int64_t n) {
  constexpr std::int64_t kSums = 8;
  std::array<T, kSums> sums{};
  std::int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (std::int64_t j = 0; j < kSums; ++j)
      sums[static_cast<std::size_t>(j)] += a[i + j] * b[i + j];
  }
  T sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (const T x : sums) sum += x;
  return sum;
}

// A factor of 0 takes nothing, NaN included: rows that nothing saw may hold it.
template <class T>
void add(T factor, const T* x, std::int64_t n, T* y) {
  if (factor == 0) return;
  for (std::int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

void check(const ConstTensor& x, const ConstTensor& w, const ConstTensor& y, const char* y_name) {
  for (const auto& [what, t] : {std::pair("x", &x), std::pair("w", &w), std::pair(y_name, &y)}) {
    kCheck.view(what, *t);
    if (t->dtype != DType::f32 && t->dtype != DType::f64)
      kCheck.fail(std::string(what) + " is " + name(t->dtype) + ", must be float32 or float64");
    kCheck.dtype(what, *t, x.dtype);
  }
  kCheck.shape("w", w, {1, w.heads() == 1 ? 1 : x.heads(), w.length(), x.width()});
  kCheck.shape(y_name, y, {x.batch(), x.heads(), x.length(), w.length()});
}

int threads_for(const ConstTensor& x, const ConstTensor& w, const Context& context) {
  return threads_worth(context.threads(),
                       2.0 * static_cast<double>(x.size()) * static_cast<double>(w.length()));
}

template <class T>
void run(const ConstTensor& x, const ConstTensor& w, const ConstTensor& b, const Tensor& y,
         const Context& context) {
  parallel_units(threads_for(x, w, context), x.batch() * x.heads() * x.length(),
                 [&](int, std::int64_t unit) {
                   const std::int64_t l = unit % x.length(), h = unit / x.length() % x.heads(),
                                      n = unit / x.length() / x.heads();
                   T* to = y.row<T>(n, h, l);
                   for (std::int64_t o = 0; o < w.length(); ++o) {
                     to[o] = dot(x.row<T>(n, h, l), w.row<T>(0, head_of(w, h), o), x.width());
                     if (!b.empty()) to[o] += b.row<T>(0, head_of(b, h), 0)[o];
                   }
                 });
}

template <class T>
void run_backward(const ConstTensor& x, const ConstTensor& w, const ConstTensor& d_y,
                  const ProjectGradients& to, const Context& context) {
  if (!to.x.empty()) {
    parallel_units(threads_for(x, w, context), x.batch() * x.heads() * x.length(),
                   [&](int, std::int64_t unit) {
                     const std::int64_t l = unit % x.length(), h = unit / x.length() % x.heads(),
                                        n = unit / x.length() / x.heads();
                     T* row = to.x.row<T>(n, h, l);
                     std::fill_n(row, x.width(), T(0));
                     for (std::int64_t o = 0; o < w.length(); ++o)
                       add(d_y.row<T>(n, h, l)[o], w.row<T>(0, head_of(w, h), o), x.width(), row);
                   });
  }
  // One row of w, and its bias, at a time: sums over rows of x in one order.
  const auto each_row = [&](const Tensor& asked, const auto& add_row) {
    for (std::int64_t h = 0; h < x.heads() && !asked.empty(); ++h) {
      for (std::int64_t n = 0; n < x.batch(); ++n) {
        for (std::int64_t l = 0; l < x.length(); ++l) add_row(n, h, l);
      }
    }
  };
  parallel_units(threads_for(x, w, context), w.length(), [&](int, std::int64_t o) {
    for (std::int64_t h = 0; h < to.w.heads() && !to.w.empty(); ++h)
      std::fill_n(to.w.row<T>(0, h, o), x.width(), T(0));
    for (std::int64_t h = 0; h < to.b.heads() && !to.b.empty(); ++h) to.b.row<T>(0, h, 0)[o] = 0;
    each_row(to.w, [&](std::int64_t n, std::int64_t h, std::int64_t l) {
      add(d_y.row<T>(n, h, l)[o], x.row<T>(n, h, l), x.width(),
          to.w.row<T>(0, head_of(to.w, h), o));
    });
    each_row(to.b, [&](std::int64_t n, std::int64_t h, std::int64_t l) {
      to.b.row<T>(0, head_of(to.b, h), 0)[o] += d_y.row<T>(n, h, l)[o];
    });
  });
}

}  // namespace

void project(const ConstTensor& x, const ConstTensor& w, const ConstTensor& b, const Tensor& y,
             const Context& context) {
  check(x, w, y, "y");
  kCheck.rows_apart("y", y);
  if (!b.empty()) {
    kCheck.view("b", b);
    kCheck.dtype("b", b, x.dtype);
    kCheck.shape("b", b, {1, b.heads() == 1 ? 1 : x.heads(), 1, w.length()});
  }
  kCheck.apart("y", y, "x", x);
  kCheck.apart("y", y, "w", w);
  if (x.dtype == DType::f64)
    run<double>(x, w, b, y, context);
  else
    run<float>(x, w, b, y, context);
}

void project_backward(const ConstTensor& x, const ConstTensor& w, const ConstTensor& d_y,
                      const ProjectGradients& to, const Context& context) {
  check(x, w, d_y, "the gradient of y");
  kCheck.output("the gradient of x", to.x, x.shape, x.dtype);
  kCheck.output("the gradient of w", to.w, w.shape, x.dtype);
  kCheck.output("the gradient of b", to.b, {1, to.b.heads() == 1 ? 1 : x.heads(), 1, w.length()},
                x.dtype);
  if (x.dtype == DType::f64)
    run_backward<double>(x, w, d_y, to, context);
  else
    run_backward<float>(x, w, d_y, to, context);
}

}  // namespace attn
