// Multiplicative attention as the paper writes it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attn/reference.h"
#include "attn/reference_recurrent.h"
#include "base/check_luong.h"
#include "reference/problem.h"

namespace attn::reference {

namespace {

std::int64_t head_of(const ConstTensor& shared, std::int64_t h) {
  return shared.heads() == 1 ? 0 : h;
}

// w x
std::vector<double> times(const ConstTensor& w, std::int64_t head, const std::vector<double>& x) {
  std::vector<double> y(at(w.length()));
  for (std::int64_t o = 0; o < w.length(); ++o)
    y[at(o)] = dot(row_of(w, 0, head_of(w, head), o), x);
  return y;
}

double score(const LuongWeights& weights, std::int64_t head, const std::vector<double>& query,
             const std::vector<double>& key) {
  if (weights.w.empty()) return dot(query, key);
  if (weights.v_a.empty()) return dot(query, times(weights.w, head, key));
  std::vector<double> both = query;
  both.insert(both.end(), key.begin(), key.end());
  std::vector<double> hidden = times(weights.w, head, both);
  for (double& x : hidden) x = std::tanh(x);
  return dot(row_of(weights.v_a, 0, head_of(weights.v_a, head), 0), hidden);
}

}  // namespace

void luong(const AttentionInputs& in, const LuongWeights& weights, const Tensor& out,
           const AttentionOptions& options, const Observed& observed) {
  check_luong(in, weights, options);
  // The attention of a score of its own; its product of queries and keys is 0.
  static constexpr double kZero = 0;
  const auto no_product = [](const ConstTensor& x) {
    return ConstTensor(&kZero, x.dtype, {x.batch(), x.heads(), x.length(), 1}, {0, 0, 0, 1});
  };
  AttentionOptions all = options;
  const std::int64_t group =
      std::max<std::int64_t>(1, in.q.heads() / std::max<std::int64_t>(1, in.k.heads()));
  all.score.scale = 1;
  all.score.custom = [&](const ScoreTile& t) {
    for (std::size_t r = 0; r < t.q.size(); ++r) {
      for (std::int64_t j = 0; j < t.k_count; ++j) {
        t.s64[static_cast<std::int64_t>(r) * t.stride + j] +=
            score(weights, t.head / group, row_of(in.q, t.batch, t.head, t.q[r]),
                  row_of(in.k, t.batch, t.head / group, t.k_begin + j));
      }
    }
  };
  attention(no_product(in.q), no_product(in.k), in.v, out, all, observed);
}

void luong_local(const AttentionInputs& in, const LuongLocal& local, const Tensor& out,
                 const LuongLocalObserved& observed) {
  check_luong_local(in, local);
  check_luong_local_output(in, out, observed);
  const double sigma = local.window / 2;
  for (std::int64_t b = 0; b < in.q.batch(); ++b) {
    const std::int64_t keys = local.lengths.empty() ? in.k.length() : local.lengths[at(b)];
    for (std::int64_t h = 0; h < in.q.heads(); ++h) {
      for (std::int64_t i = 0; i < in.q.length(); ++i) {
        // 1. The place: S sigmoid(v_p . tanh(W_p h)).
        const std::vector<double> query = row_of(in.q, b, h, i);
        std::vector<double> hidden = times(local.w_p, h, query);
        for (double& x : hidden) x = std::tanh(x);
        const double a = dot(row_of(local.v_p, 0, head_of(local.v_p, h), 0), hidden);
        const double place = static_cast<double>(keys) / (1 + std::exp(-a));
        // 2. Softmax over the window.
        std::vector<double> weight(at(in.k.length()), 0.0), s(weight.size(), 0.0);
        std::vector<bool> seen(weight.size(), false);
        double largest = -std::numeric_limits<double>::infinity(), sum = 0;
        for (std::int64_t j = 0; j < keys; ++j) {
          seen[at(j)] = !(std::abs(static_cast<double>(j) - place) > local.window);
          if (!seen[at(j)]) continue;
          s[at(j)] = score({.w = local.w}, h, query, row_of(in.k, b, h, j));
          largest = std::max(largest, s[at(j)]);
        }
        for (std::size_t j = 0; j < s.size(); ++j) {
          if (seen[j]) sum += weight[j] = std::exp(s[j] - largest);
        }
        // 3. Times the bell.
        for (std::size_t j = 0; j < s.size(); ++j) {
          const double distance = static_cast<double>(j) - place;
          if (seen[j]) weight[j] *= std::exp(-distance * distance / (2 * sigma * sigma)) / sum;
        }
        // 4. The sum of the values by weight.
        std::vector<double> mean(at(in.v.width()), 0.0);
        for (std::int64_t j = 0; j < keys; ++j) {
          if (!seen[at(j)]) continue;
          const std::vector<double> value = row_of(in.v, b, h, j);
          for (std::size_t d = 0; d < mean.size(); ++d) mean[d] += weight[at(j)] * value[d];
        }
        for (std::int64_t d = 0; d < in.v.width(); ++d) store(out, b, h, i, d, mean[at(d)]);
        if (!observed.positions.empty()) store(observed.positions, b, h, i, 0, place);
        for (std::int64_t j = 0; j < in.k.length() && !observed.weights.empty(); ++j)
          store(observed.weights, b, h, i, j, weight[at(j)]);
      }
    }
  }
}

}  // namespace attn::reference
