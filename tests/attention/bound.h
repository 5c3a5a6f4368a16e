// How far a float32 result may be from the exact one.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "attn/attention.h"

namespace attn::test {

// Worst case of float32: a score is a sum of D rounded terms of size |q||k| scale (and some more
// roundings: of the scale, a rotation, the exponential), the output a weighted mean of Lk rounded
// values, whose weights are off by at most twice what the scores are.
struct Bound {
  double scores = 0, out = 0;

  Bound(const AttentionShape& s, const std::vector<float>& q, const std::vector<float>& k,
        const std::vector<float>& v) {
    const auto largest = [](const std::vector<float>& x, std::int64_t width) {
      double most = 0;
      for (std::size_t i = 0; i < x.size(); i += static_cast<std::size_t>(width)) {
        most = std::max(most, std::inner_product(&x[i], &x[i] + width, &x[i], 0.0));
      }
      return std::sqrt(most);
    };
    const double size =
        largest(q, s.width) * largest(k, s.width) / std::sqrt(static_cast<double>(s.width));
    scores = kEpsilon * (static_cast<double>(s.width + 8) * size + static_cast<double>(s.k_len));
    out = 2 * scores * largest(v, s.v_width);
  }
  double lse(double value) const { return scores + 2 * kEpsilon * std::abs(value); }

  static constexpr double kEpsilon = std::numeric_limits<float>::epsilon() / 2;
};

}  // namespace attn::test
