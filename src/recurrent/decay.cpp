#include "attn/decay.h"

#include <cmath>
#include <cstddef>
#include <string>

#include "base/checker.h"

namespace attn {

namespace {

constexpr double kGlaTemperature = 16;

// ln(1 + e^x)
double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double decay_of(DecayKind kind, double x) {
  switch (kind) {
    case DecayKind::gla: return -softplus(-x) / kGlaTemperature;
    case DecayKind::rwkv: return -std::exp(x);
    case DecayKind::rwkv7: return -std::exp(-0.5) * sigmoid(x);
    default: return -softplus(x);
  }
}

double derivative_of(DecayKind kind, double x) {
  switch (kind) {
    case DecayKind::gla: return sigmoid(-x) / kGlaTemperature;
    case DecayKind::rwkv: return -std::exp(x);
    case DecayKind::rwkv7: return -std::exp(-0.5) * sigmoid(x) * sigmoid(-x);
    default: return -sigmoid(x);
  }
}

void check_alike(const Checker& check, const char* what, const ConstTensor& x,
                 const ConstTensor& other) {
  check.view(what, other);
  check.dtype(what, other, x.dtype);
  check.shape(what, other, x.shape);
}

void check_input(const Checker& check, const ConstTensor& x) {
  check.view("x", x);
  if (x.dtype != DType::f32 && x.dtype != DType::f64)
    check.fail("x is " + std::string(name(x.dtype)) + ", must be float32 or float64");
}

// Calls each(row pointers' indices) for all rows.
template <class Each>
void for_rows(const ConstTensor& x, const Each& each) {
  for (std::int64_t b = 0; b < x.batch(); ++b) {
    for (std::int64_t h = 0; h < x.heads(); ++h) {
      for (std::int64_t l = 0; l < x.length(); ++l) each(b, h, l);
    }
  }
}

template <class T>
void run(DecayKind kind, const ConstTensor& x, const Tensor& out) {
  for_rows(x, [&](std::int64_t b, std::int64_t h, std::int64_t l) {
    for (std::int64_t c = 0; c < x.width(); ++c)
      out.row<T>(b, h, l)[c] =
          static_cast<T>(decay_of(kind, static_cast<double>(x.row<T>(b, h, l)[c])));
  });
}

template <class T>
void run_backward(DecayKind kind, const ConstTensor& x, const ConstTensor& d, const Tensor& d_x) {
  for_rows(x, [&](std::int64_t b, std::int64_t h, std::int64_t l) {
    for (std::int64_t c = 0; c < x.width(); ++c)
      d_x.row<T>(b, h, l)[c] =
          d.row<T>(b, h, l)[c] *
          static_cast<T>(derivative_of(kind, static_cast<double>(x.row<T>(b, h, l)[c])));
  });
}

}  // namespace

std::vector<double> retnet_log_decay(std::int64_t heads) {
  if (heads < 0) Checker("retnet_log_decay").fail("there are " + text(heads) + " heads");
  std::vector<double> decays(static_cast<std::size_t>(heads));
  for (std::size_t h = 0; h < decays.size(); ++h)
    decays[h] = std::log1p(-std::exp2(-5 - static_cast<double>(h)));
  return decays;
}

void log_decay(DecayKind kind, const ConstTensor& x, const Tensor& to) {
  constexpr Checker kCheck("log_decay");
  check_input(kCheck, x);
  check_alike(kCheck, "log_decay", x, to);
  x.dtype == DType::f64 ? run<double>(kind, x, to) : run<float>(kind, x, to);
}

void log_decay_backward(DecayKind kind, const ConstTensor& x, const ConstTensor& d_log_decay,
                        const Tensor& d_x) {
  constexpr Checker kCheck("log_decay_backward");
  check_input(kCheck, x);
  check_alike(kCheck, "d_log_decay", x, d_log_decay);
  check_alike(kCheck, "d_x", x, d_x);
  x.dtype == DType::f64 ? run_backward<double>(kind, x, d_log_decay, d_x)
                        : run_backward<float>(kind, x, d_log_decay, d_x);
}

}  // namespace attn
