#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "attn/reference_recurrent.h"
#include "base/check_recurrent.h"

namespace attn::reference {

namespace {

double at(const ConstTensor& x, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t c) {
  return x.dtype == DType::f64 ? x.row<double>(b, h, l)[c]
                               : static_cast<double>(x.row<float>(b, h, l)[c]);
}

void put(const Tensor& x, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t c,
         double value) {
  if (x.empty()) return;
  if (x.dtype == DType::f64)
    x.row<double>(b, h, l)[c] = value;
  else
    x.row<float>(b, h, l)[c] = static_cast<float>(value);
}

}  // namespace

void mamba2(const Mamba2Inputs& in, const Tensor& y, const Tensor& state,
            const Mamba2Options& options) {
  constexpr Checker kCheck("mamba2");
  check_mamba2(in, options, kCheck);
  const std::int64_t N = in.b.width(), P = in.x.width(), group = in.x.heads() / in.b.heads();
  const bool ragged = !options.offsets.empty();
  const std::int64_t sequences =
      ragged ? static_cast<std::int64_t>(options.offsets.size()) - 1 : in.x.batch();
  kCheck.output("y", y, in.x.shape, in.x.dtype);
  kCheck.output("state", state, {sequences, in.x.heads(), N, P}, in.x.dtype);
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t batch = ragged ? 0 : s;
    const std::int64_t begin = ragged ? options.offsets[static_cast<std::size_t>(s)] : 0;
    const std::int64_t end =
        ragged ? options.offsets[static_cast<std::size_t>(s) + 1] : in.x.length();
    for (std::int64_t h = 0; h < in.x.heads(); ++h) {
      std::vector<double> S(static_cast<std::size_t>(N * P));
      const auto cell = [&](std::int64_t n, std::int64_t p) -> double& {
        return S[static_cast<std::size_t>(n * P + p)];
      };
      for (std::int64_t n = 0; n < N && !in.state.empty(); ++n)
        for (std::int64_t p = 0; p < P; ++p) cell(n, p) = at(in.state, s, h, n, p);
      for (std::int64_t l = begin; l < end; ++l) {
        double dt = at(in.dt, batch, h, l, 0);
        if (!in.dt_bias.empty()) dt += at(in.dt_bias, 0, h, 0, 0);
        if (options.softplus) dt = std::log1p(std::exp(-std::abs(dt))) + std::max(dt, 0.0);
        dt = std::clamp(dt, options.dt_min, options.dt_max);
        for (std::int64_t p = 0; p < P; ++p) {
          const double x = at(in.x, batch, h, l, p);
          double sum = in.d.empty() ? 0 : at(in.d, 0, h, 0, 0) * x;
          for (std::int64_t n = 0; n < N; ++n) {
            cell(n, p) = std::exp(dt * at(in.a, 0, h, 0, 0)) * cell(n, p) +
                         dt * at(in.b, batch, h / group, l, n) * x;
            sum += at(in.c, batch, h / group, l, n) * cell(n, p);
          }
          put(y, batch, h, l, p, sum);
        }
      }
      for (std::int64_t n = 0; n < N; ++n)
        for (std::int64_t p = 0; p < P; ++p) put(state, s, h, n, p, cell(n, p));
    }
  }
}

}  // namespace attn::reference
