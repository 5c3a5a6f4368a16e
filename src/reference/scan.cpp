// The oracle of the recurrences over single channels.
#include <algorithm>
#include <cmath>
#include <vector>

#include "attn/reference_scan.h"
#include "base/check_scan.h"

namespace attn::reference {

namespace {

double read(const ConstTensor& x, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t i) {
  return x.dtype == DType::f64 ? x.row<double>(b, h, l)[i]
                               : static_cast<double>(x.row<float>(b, h, l)[i]);
}
// Of something optional.
double read_or(double otherwise, const ConstTensor& x, std::int64_t b, std::int64_t l,
               std::int64_t i) {
  return x.empty() ? otherwise : read(x, b, 0, l, i);
}
void write(const Tensor& x, std::int64_t b, std::int64_t l, std::int64_t i, double value) {
  if (x.empty()) return;
  if (x.dtype == DType::f64)
    x.row<double>(b, 0, l)[i] = value;
  else
    x.row<float>(b, 0, l)[i] = static_cast<float>(value);
}

double silu(double x) { return x / (1 + std::exp(-x)); }
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

}  // namespace

void causal_convolution(const ConvolutionInputs& in, const ConvolutionOutputs& to,
                        const ConvolutionOptions& options) {
  const Checker check("causal_convolution");
  const std::vector<Stretch> sequences = check_convolution(check, in, options);
  check_outputs(check, in, to, static_cast<std::int64_t>(sequences.size()));
  const std::int64_t width = in.weight.length();
  for (std::size_t n = 0; n < sequences.size(); ++n) {
    const Stretch& s = sequences[n];
    const auto index = static_cast<std::int64_t>(n);
    for (std::int64_t c = 0; c < in.x.width(); ++c) {
      std::vector<double> x;  // with what came before
      for (std::int64_t i = 0; i < width - 1; ++i) x.push_back(read_or(0, in.state, index, i, c));
      for (std::int64_t t = 0; t < s.length; ++t)
        x.push_back(read(in.x, s.batch, 0, s.begin + t, c));
      for (std::int64_t t = 0; t < s.length; ++t) {
        double sum = read_or(0, in.bias, 0, 0, c);
        for (std::int64_t i = 0; i < width; ++i)
          sum += read(in.weight, 0, 0, i, c) * x[static_cast<std::size_t>(t + i)];
        write(to.out, s.batch, s.begin + t, c, options.silu ? silu(sum) : sum);
      }
      for (std::int64_t i = 0; i < width - 1; ++i)
        write(to.state, index, i, c, x[static_cast<std::size_t>(s.length + i)]);
    }
  }
}

void selective_scan(const ScanInputs& in, const ScanOutputs& to, const ScanOptions& options) {
  const Checker check("selective_scan");
  const std::vector<Stretch> sequences = check_scan(check, in, options);
  check_outputs(check, in, to, static_cast<std::int64_t>(sequences.size()));
  const std::int64_t states = in.a.length(), in_group = in.u.width() / in.b.heads();
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const Stretch& s = sequences[i];
    const auto index = static_cast<std::int64_t>(i);
    for (std::int64_t ch = 0; ch < in.u.width(); ++ch) {
      std::vector<double> h;
      for (std::int64_t n = 0; n < states; ++n) h.push_back(read_or(0, in.state, index, n, ch));
      double elapsed = 0;
      for (std::int64_t t = s.begin; t < s.begin + s.length; ++t) {
        const double raw = read(in.delta, s.batch, 0, t, ch) + read_or(0, in.delta_bias, 0, 0, ch);
        const double step = options.softplus ? softplus(raw) : raw;
        const double u = read(in.u, s.batch, 0, t, ch);
        double y = read_or(0, in.d, 0, 0, ch) * u;
        for (std::int64_t n = 0; n < states; ++n) {
          double& state = h[static_cast<std::size_t>(n)];
          state = std::exp(step * read(in.a, 0, 0, n, ch)) * state +
                  step * read(in.b, s.batch, ch / in_group, t, n) * u;
          y += read(in.c, s.batch, ch / in_group, t, n) * state;
        }
        if (!in.z.empty()) y *= silu(read(in.z, s.batch, 0, t, ch));
        write(to.out, s.batch, t, ch, y);
        elapsed += step;
      }
      for (std::int64_t n = 0; n < states; ++n)
        write(to.state, index, n, ch, h[static_cast<std::size_t>(n)]);
      if (!to.elapsed.empty()) to.elapsed.row<double>(index, 0, 0)[ch] += elapsed;
    }
  }
}

void wkv4(const Wkv4Inputs& in, const Wkv4Outputs& to, const Wkv4Options& options) {
  const Checker check("wkv4");
  const std::vector<Stretch> sequences = check_wkv4(check, in, options);
  check_outputs(check, in, to, static_cast<std::int64_t>(sequences.size()));
  for (std::size_t n = 0; n < sequences.size(); ++n) {
    const Stretch& s = sequences[n];
    const auto index = static_cast<std::int64_t>(n);
    for (std::int64_t c = 0; c < in.k.width(); ++c) {
      const double decay = read(in.decay, 0, 0, 0, c), bonus = read(in.bonus, 0, 0, 0, c);
      // The initial state is a token before the first, of weight q e^o and value p / q.
      const double p = read_or(0, in.state, index, 0, c), q = read_or(0, in.state, index, 1, c),
                   o = read_or(kWkv4Fresh, in.state, index, 2, c);
      // Sums before token `t`, as e^top times numbers: the state that would be there.
      struct Sums {
        double values, weights, top;
      };
      const auto before = [&](std::int64_t t) {
        Sums sums{0, 0, o + static_cast<double>(t) * decay};
        const auto exponent = [&](std::int64_t i) {
          return static_cast<double>(t - 1 - i) * decay + read(in.k, s.batch, 0, s.begin + i, c);
        };
        const double start = sums.top;
        for (std::int64_t i = 0; i < t; ++i) sums.top = std::max(sums.top, exponent(i));
        sums.values = p * std::exp(start - sums.top);
        sums.weights = q * std::exp(start - sums.top);
        for (std::int64_t i = 0; i < t; ++i) {
          const double weight = std::exp(exponent(i) - sums.top);
          sums.values += weight * read(in.v, s.batch, 0, s.begin + i, c);
          sums.weights += weight;
        }
        return sums;
      };
      for (std::int64_t t = 0; t < s.length; ++t) {
        const Sums sums = before(t);
        const double own = bonus + read(in.k, s.batch, 0, s.begin + t, c);
        const double top = std::max(sums.top, own);
        const double past = std::exp(sums.top - top), now = std::exp(own - top);
        const double v = read(in.v, s.batch, 0, s.begin + t, c);
        write(to.out, s.batch, s.begin + t, c,
              (past * sums.values + now * v) / (past * sums.weights + now));
      }
      const Sums last = before(s.length);
      write(to.state, index, 0, c, last.values);
      write(to.state, index, 1, c, last.weights);
      write(to.state, index, 2, c, last.top);
    }
  }
}

}  // namespace attn::reference
