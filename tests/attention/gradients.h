// Gradients of a random problem, by a plan or by the oracle.
#pragma once

#include <vector>

#include "attention/cases.h"
#include "attn/gradient.h"

namespace attn::test {

template <class T>
struct Gradients {
  std::vector<T> q, k, v;
};

// d_out of a problem: the same numbers in every type.
template <class T>
std::vector<T> flowing_in(const AttentionShape& s, std::uint64_t seed = 99) {
  Random random(seed);
  std::vector<T> d(static_cast<std::size_t>(s.batch * s.q_heads * s.q_len * s.v_width));
  for (T& x : d) x = static_cast<T>(static_cast<float>(random.normal()));
  return d;
}

// `shared` takes gradients of the score's parameters.
template <class T>
Gradients<T> gradients_of(Problem<T>& p, std::vector<T>& d_out, const AttentionOptions& options,
                          const Context& context, InputGradients shared = {}, Gradients<T> g = {}) {
  g.q.resize(p.q.size(), T(7));
  g.k.resize(p.k.size(), T(7));
  g.v.resize(p.v.size(), T(7));
  const AttentionShape& s = p.shape;
  shared.q = p.view(g.q, s.q_heads, s.q_len, s.width);
  shared.k = p.view(g.k, s.kv_heads, s.k_len, s.width);
  shared.v = p.view(g.v, s.kv_heads, s.k_len, s.v_width);
  const Plan made = plan(s, options, context);
  made.run(p.qt(), p.kt(), p.vt(), p.ot(), {.lse = p.lt()});
  made.backward({p.qt(), p.kt(), p.vt()}, {.out = p.ot(), .lse = p.lt()},
                {.out = p.view(d_out, s.q_heads, s.q_len, s.v_width)}, shared);
  return g;
}

inline Gradients<double> oracle_gradients(Problem<double>& p, std::vector<double>& d_out,
                                          const AttentionOptions& options) {
  Gradients<double> g{std::vector<double>(p.q.size()), std::vector<double>(p.k.size()),
                      std::vector<double>(p.v.size())};
  const AttentionShape& s = p.shape;
  reference::backward({p.qt(), p.kt(), p.vt()},
                      {.out = p.view(d_out, s.q_heads, s.q_len, s.v_width)},
                      {.q = p.view(g.q, s.q_heads, s.q_len, s.width),
                       .k = p.view(g.k, s.kv_heads, s.k_len, s.width),
                       .v = p.view(g.v, s.kv_heads, s.k_len, s.v_width)},
                      options);
  return g;
}

template <class T>
bool same_bits(const Gradients<T>& a, const Gradients<T>& b) {
  return same_bits(a.q, b.q) && same_bits(a.k, b.k) && same_bits(a.v, b.v);
}

// The standard cases, the custom score with its derivative: it halves the score and adds to it.
inline std::vector<Case> gradient_cases() {
  std::vector<Case> cases = standard_cases();
  for (Case& c : cases) {
    if (!c.options.score.custom) continue;
    c.options.score.custom_gradient = [](const ScoreGradientTile& t) {
      for (std::size_t r = 0; r < t.s.q.size(); ++r) {
        for (std::int64_t j = 0; j < t.s.k_count; ++j) {
          const std::int64_t i = static_cast<std::int64_t>(r) * t.s.stride + j;
          if (t.d32 != nullptr)
            t.d32[i] *= 0.5f;
          else
            t.d64[i] *= 0.5;
        }
      }
    };
  }
  return cases;
}

}  // namespace attn::test
