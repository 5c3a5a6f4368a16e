#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "attn/reference_recurrent.h"
#include "base/check_recurrent.h"

namespace attn::reference {

namespace {

std::vector<double> row(const ConstTensor& x, std::int64_t b, std::int64_t h, std::int64_t l) {
  std::vector<double> values(static_cast<std::size_t>(x.width()));
  for (std::size_t c = 0; c < values.size(); ++c)
    values[c] = x.dtype == DType::f64 ? x.row<double>(b, h, l)[c]
                                      : static_cast<double>(x.row<float>(b, h, l)[c]);
  return values;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// phi(x)
std::vector<double> features(std::vector<double> x, const LinearAttentionOptions& options) {
  if (options.map == FeatureMap::favor) {
    const RandomFeatures& random = *options.random;
    for (double& e : x) e *= std::pow(static_cast<double>(x.size()), -0.25);
    std::vector<double> phi(static_cast<std::size_t>(random.count()));
    for (std::size_t m = 0; m < phi.size(); ++m) {
      double along = 0;
      for (std::size_t c = 0; c < x.size(); ++c)
        along += random.directions()[m * x.size() + c] * x[c];
      phi[m] = std::exp(along - dot(x, x) / 2) / std::sqrt(static_cast<double>(phi.size()));
    }
    return phi;
  }
  for (double& e : x) {
    if (options.map == FeatureMap::relu) e = e < 0 ? 0 : e;
    if (options.map == FeatureMap::elu_plus_one) e = e > 0 ? e + 1 : std::exp(e);
  }
  return x;
}

// Tokens [begin, end) of a batch entry, which see each other alone.
void attend(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const Tensor& out,
            const LinearAttentionOptions& options, std::int64_t b, std::int64_t begin,
            std::int64_t end) {
  for (std::int64_t h = 0; h < v.heads(); ++h) {
    const std::int64_t q_head = h / (v.heads() / q.heads());
    for (std::int64_t i = begin; i < end; ++i) {
      const std::vector<double> query = features(row(q, b, q_head, i), options);
      std::vector<double> y(static_cast<std::size_t>(v.width()));
      double weights = 0;
      for (std::int64_t j = begin; j < (options.causal ? i + 1 : end); ++j) {
        const double weight = dot(query, features(row(k, b, q_head, j), options));
        const std::vector<double> value = row(v, b, h, j);
        for (std::size_t c = 0; c < y.size(); ++c) y[c] += weight * value[c];
        weights += weight;
      }
      weights += options.epsilon;
      for (std::size_t c = 0; c < y.size(); ++c) {
        const double result = !options.normalise ? y[c] : weights == 0 ? 0 : y[c] / weights;
        if (out.dtype == DType::f64)
          out.row<double>(b, h, i)[c] = result;
        else
          out.row<float>(b, h, i)[c] = static_cast<float>(result);
      }
    }
  }
}

}  // namespace

void linear_attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                      const Tensor& out, const LinearAttentionOptions& options) {
  constexpr Checker kCheck("linear_attention");
  check_linear_attention(q, k, v, options, kCheck);
  kCheck.output("out", out, v.shape, q.dtype);
  for (std::int64_t b = 0; b < v.batch() && options.offsets.empty(); ++b)
    attend(q, k, v, out, options, b, 0, q.length());
  for (std::size_t s = 0; s + 1 < options.offsets.size(); ++s)
    attend(q, k, v, out, options, 0, options.offsets[s], options.offsets[s + 1]);
}

}  // namespace attn::reference
