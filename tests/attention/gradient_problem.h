// A differentiable problem in float64, and every option that it may have: for tests of gradients.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "attention/cases.h"
#include "attn/reference.h"

namespace attn::test {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Multiples of 2^-8 below 2 in size, so that float32 holds them and what is added to them exactly.
inline std::vector<double> coarse(std::int64_t n, Random& random) {
  std::vector<double> x(at(n));
  for (double& e : x) e = static_cast<double>(random.below(513) - 256) / 256;
  return x;
}

// s -> s^2 / 4 + 0.1 (k - q) s, hiding some pairs; and its derivative.
inline bool custom_hides(std::int64_t q, std::int64_t k) { return (q + 2 * k) % 7 == 3; }
inline void custom_score(const ScoreTile& t) {
  for (std::size_t r = 0; r < t.q.size(); ++r) {
    for (std::int64_t j = 0; j < t.k_count; ++j) {
      double& s = t.s64[static_cast<std::int64_t>(r) * t.stride + j];
      const std::int64_t k = t.k_begin + j;
      const double slope = 0.1 * static_cast<double>(k - t.q[r] + t.head);
      s = custom_hides(t.q[r], k) ? -kInf : s * s / 4 + slope * s;
    }
  }
}
inline void custom_derivative(const ScoreGradientTile& t) {
  for (std::size_t r = 0; r < t.s.q.size(); ++r) {
    for (std::int64_t j = 0; j < t.s.k_count; ++j) {
      const std::int64_t i = static_cast<std::int64_t>(r) * t.s.stride + j;
      const double slope = 0.1 * static_cast<double>(t.s.k_begin + j - t.s.q[r] + t.s.head);
      t.d64[i] *= t.s.s64[i] / 2 + slope;
    }
  }
}

// A differentiable problem: every parameter in one place, as float64.
struct Problem64 {
  // Who computes: the oracle, or a plan.
  static inline std::optional<Context> fast = {};

  AttentionShape shape;
  AttentionOptions options;
  Shape bias_shape{};
  std::vector<double> q, k, v, bias, slopes, t5, sinks;
  std::vector<double> d_out, d_lse, d_entropy;  // empty: nothing flows in

  explicit Problem64(const AttentionShape& s, std::uint64_t seed = 1) : shape(s) {
    shape.dtype = DType::f64;
    Random random(seed);
    q = coarse(s.batch * s.q_heads * s.q_len * s.width, random);
    k = coarse(s.batch * s.kv_heads * s.k_len * s.width, random);
    v = coarse(s.batch * s.kv_heads * s.k_len * s.v_width, random);
    d_out = coarse(s.batch * s.q_heads * s.q_len * s.v_width, random);
  }

  struct Part {
    const char* name;
    std::vector<double> Problem64::*values;
  };
  static std::vector<Part> parts() {
    return {{"q", &Problem64::q},        {"k", &Problem64::k},           {"v", &Problem64::v},
            {"bias", &Problem64::bias},  {"slopes", &Problem64::slopes}, {"t5", &Problem64::t5},
            {"sinks", &Problem64::sinks}};
  }

  template <class X>
  static auto view(X& x, const Shape& s) {
    return x.empty() ? Tensor() : Tensor(const_cast<double*>(x.data()), s);
  }
  Shape q_shape(std::int64_t width) const {
    return {shape.batch, shape.q_heads, shape.q_len, width};
  }
  Shape k_shape(std::int64_t width) const {
    return {shape.batch, shape.kv_heads, shape.k_len, width};
  }
  Tensor qt() const { return {const_cast<double*>(q.data()), q_shape(shape.width)}; }
  Tensor kt() const { return {const_cast<double*>(k.data()), k_shape(shape.width)}; }
  Tensor vt() const { return {const_cast<double*>(v.data()), k_shape(shape.v_width)}; }

  AttentionOptions with_parameters() const {
    AttentionOptions o = options;
    if (!bias.empty()) o.score.bias = ConstTensor(bias.data(), bias_shape);
    if (!slopes.empty()) o.score.alibi_slopes = std::vector<float>(slopes.begin(), slopes.end());
    if (!t5.empty()) o.score.t5->table.assign(t5.begin(), t5.end());
    if (!sinks.empty()) o.score.sinks.assign(sinks.begin(), sinks.end());
    return o;
  }

  void run(const Tensor& out, const Tensor& lse, const Tensor& entropy) const {
    const Observed observed{.lse = lse, .entropy = entropy};
    if (fast)
      plan(shape, with_parameters(), *fast).run(qt(), kt(), vt(), out, observed);
    else
      reference::attention(qt(), kt(), vt(), out, with_parameters(), observed);
  }

  // The loss is linear in what the run returns.
  double loss() const {
    std::vector<double> out(d_out.size()), lse(at(shape.batch * shape.q_heads * shape.q_len)),
        entropy(lse.size());
    run(Tensor(out.data(), q_shape(shape.v_width)), view(lse, q_shape(1)),
        view(entropy, q_shape(1)));
    double sum = 0;
    for (std::size_t i = 0; i < d_out.size(); ++i) sum += d_out[i] * out[i];
    for (std::size_t i = 0; i < d_lse.size(); ++i)
      sum += std::isinf(lse[i]) ? 0 : d_lse[i] * lse[i];
    for (std::size_t i = 0; i < d_entropy.size(); ++i) sum += d_entropy[i] * entropy[i];
    return sum;
  }

  // Gradients take the places of the parameters.
  Problem64 gradient(bool accumulate = false, double before = 99) const {
    Problem64 g = *this;
    for (const auto& part : parts()) {
      for (double& x : g.*part.values) x = before;
    }
    const InputGradients to = {
        .q = view(g.q, q_shape(shape.width)),
        .k = view(g.k, k_shape(shape.width)),
        .v = view(g.v, k_shape(shape.v_width)),
        .bias = view(g.bias, bias_shape),
        .alibi_slopes = view(g.slopes, {1, 1, 1, shape.q_heads}),
        .t5 = view(g.t5, {1, 1, options.score.t5 ? options.score.t5->buckets : 0, shape.q_heads}),
        .sinks = view(g.sinks, {1, 1, 1, shape.q_heads}),
        .accumulate = accumulate};
    const OutputGradients from = {.out = view(d_out, q_shape(shape.v_width)),
                                  .lse = view(d_lse, q_shape(1)),
                                  .entropy = view(d_entropy, q_shape(1))};
    if (!fast) {
      reference::backward({qt(), kt(), vt()}, from, to, with_parameters());
      return g;
    }
    std::vector<double> out(at(shape.batch * shape.q_heads * shape.q_len * shape.v_width)),
        lse(at(shape.batch * shape.q_heads * shape.q_len)), entropy(lse.size());
    const Tensor o(out.data(), q_shape(shape.v_width)), l(lse.data(), q_shape(1)),
        e(entropy.data(), q_shape(1));
    run(o, l, e);
    plan(shape, with_parameters(), *fast)
        .backward({qt(), kt(), vt()}, {.out = o, .lse = l, .entropy = e}, from, to);
    return g;
  }
};

struct Option {
  const char* name;
  std::function<void(Problem64&)> set;
};

inline std::vector<Option> all_options() {
  const auto bias_of = [](const Shape& shape) {
    return [shape](Problem64& p) {
      Random random(3);
      p.bias_shape = shape;
      p.bias = coarse(shape[0] * shape[1] * shape[2] * shape[3], random);
      // Hides some pairs.
      if (p.bias.size() > 8) p.bias[3] = p.bias[8] = -kInf;
    };
  };
  const auto t5_of = [](bool both) {
    return [both](Problem64& p) {
      Random random(4);
      p.options.score.t5 =
          T5Bias{.table = {}, .buckets = 6, .max_distance = 4, .bidirectional = both};
      p.t5 = coarse(6 * p.shape.q_heads, random);
    };
  };
  return {
      {"causal", [](Problem64& p) { p.options.mask = p.options.mask & Mask::causal(); }},
      {"window", [](Problem64& p) { p.options.mask = p.options.mask & Mask::window(2, 1); }},
      {"random_blocks",
       [](Problem64& p) {
         const RandomBlocks drawn{
             .size = 1, .count = 2, .seed = 3, .band = 0, .first = 0, .last = 0};
         p.options.mask = p.options.mask & Mask::random_blocks(drawn);
       }},
      {"start", [](Problem64& p) { p.options.query_start = 2; }},
      {"early", [](Problem64& p) { p.options.query_start = -2; }},
      {"scale", [](Problem64& p) { p.options.score.scale = 1.75; }},
      {"cap", [](Problem64& p) { p.options.score.soft_cap = 0.75; }},
      {"bias", bias_of({2, 4, 3, 5})},
      {"bias_heads", bias_of({1, 4, 3, 1})},
      {"bias_keys", bias_of({2, 1, 1, 5})},
      {"slopes",
       [](Problem64& p) {
         Random random(5);
         p.options.score.alibi_slopes = std::vector<float>{};
         p.slopes = coarse(p.shape.q_heads, random);
       }},
      {"t5", t5_of(true)},
      {"t5_decoder", t5_of(false)},
      {"sinks",
       [](Problem64& p) {
         p.sinks = {0.5, -1, 2, 0};
       }},
      {"custom",
       [](Problem64& p) {
         p.options.score.custom = custom_score;
         p.options.score.custom_gradient = custom_derivative;
       }},
      {"dropout", [](Problem64& p) { p.options.dropout = {.p = 0.3, .seed = 11, .offset = 5}; }},
      {"lse",
       [](Problem64& p) {
         Random random(6);
         p.d_lse = coarse(p.shape.batch * p.shape.q_heads * p.shape.q_len, random);
       }},
      {"entropy",
       [](Problem64& p) {
         Random random(7);
         p.d_entropy = coarse(p.shape.batch * p.shape.q_heads * p.shape.q_len, random);
       }},
  };
}

}  // namespace attn::test
