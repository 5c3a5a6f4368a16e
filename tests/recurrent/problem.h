// Random inputs of the matrix-state recurrence, and what a result may be off by.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "attn/recurrent.h"
#include "attn/reference_recurrent.h"

namespace attn::test {

enum class Decay : std::uint8_t { none, head, token, channel, channel_and_token };

struct RecurrentCase {
  std::string name;
  std::int64_t batch = 1, q_heads = 1, heads = 1, length = 1, width = 1, v_width = 1;
  Decay decay = Decay::none;
  double strongest = 0.5;  // decay of a token, in nats
  bool beta = false, bonus = false, normalise = false, state = false, rank_one = false;
  StateRule rule = StateRule::add;
  std::vector<std::int64_t> offsets = {};

  std::int64_t sequences() const {
    return offsets.empty() ? batch : static_cast<std::int64_t>(offsets.size()) - 1;
  }
  Shape qk() const { return {batch, q_heads, length, width}; }
  Shape values() const { return {batch, heads, length, v_width}; }
  Shape states() const { return {sequences(), heads, width, v_width + (normalise ? 1 : 0)}; }
  Shape decays() const {
    switch (decay) {
      case Decay::head: return {1, heads, 1, 1};
      case Decay::token: return {batch, heads, length, 1};
      case Decay::channel: return {1, heads, 1, width};
      default: return {batch, heads, length, width};
    }
  }
  RecurrentOptions options() const { return {rule, normalise, normalise ? 1e-6 : 0, offsets}; }
  friend std::ostream& operator<<(std::ostream& o, const RecurrentCase& c) { return o << c.name; }
};

inline std::size_t size_of(const Shape& s) {
  return static_cast<std::size_t>(s[0] * s[1] * s[2] * s[3]);
}

template <class T>
struct RecurrentProblem {
  RecurrentCase c;
  std::vector<T> q, k, v, log_decay, beta, bonus, a, b, before, out, after;

  explicit RecurrentProblem(const RecurrentCase& given, unsigned seed = 1) : c(given) {
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<double> signed_unit(-1, 1), unit(0, 1);
    const auto fill = [&](const Shape& shape, auto&& draw) {
      std::vector<T> x(test::size_of(shape));
      for (T& e : x) e = static_cast<T>(draw());
      return x;
    };
    const auto any = [&] { return signed_unit(random); };
    const auto positive = [&] { return 0.1 + unit(random); };
    q = c.normalise ? fill(c.qk(), positive) : fill(c.qk(), any);
    k = c.normalise ? fill(c.qk(), positive) : fill(c.qk(), any);
    v = fill(c.values(), any);
    if (c.rule == StateRule::delta) make_short(k);
    if (c.rank_one) {  // as RWKV-7: b of length 1, a = -b times something in (0, 1)
      b = fill(c.qk(), any);
      make_short(b);
      a = b;
      for (T& e : a) e *= static_cast<T>(-unit(random));
    }
    if (c.decay != Decay::none)
      log_decay = fill(c.decays(), [&] { return -c.strongest * unit(random); });
    if (c.beta) beta = fill({c.batch, c.heads, c.length, 1}, [&] { return unit(random); });
    if (c.bonus) bonus = fill({1, c.heads, 1, c.width}, any);
    if (c.state) before = c.normalise ? fill(c.states(), positive) : fill(c.states(), any);
    out.assign(v.size(), T(-77));
    after.assign(test::size_of(c.states()), T(-77));
  }

  // Rows of a length just below 1.
  void make_short(std::vector<T>& x) const {
    const auto width = static_cast<std::size_t>(c.width);
    for (std::size_t i = 0; i < x.size(); i += width) {
      double norm = 0;
      for (std::size_t d = i; d < i + width; ++d)
        norm += static_cast<double>(x[d]) * static_cast<double>(x[d]);
      for (std::size_t d = i; d < i + width; ++d) x[d] /= static_cast<T>(std::sqrt(norm) + 1e-3);
    }
  }

  RecurrentInputs inputs() const {
    RecurrentInputs in;
    if (!a.empty()) in.a = {a.data(), c.qk()};
    if (!b.empty()) in.b = {b.data(), c.qk()};
    in.q = {q.data(), c.qk()};
    in.k = {k.data(), c.qk()};
    in.v = {v.data(), c.values()};
    if (!log_decay.empty()) in.log_decay = {log_decay.data(), c.decays()};
    if (!beta.empty()) in.beta = {beta.data(), {c.batch, c.heads, c.length, 1}};
    if (!bonus.empty()) in.bonus = {bonus.data(), {1, c.heads, 1, c.width}};
    if (!before.empty()) in.state = {before.data(), c.states()};
    return in;
  }
  Tensor out_tensor() { return {out.data(), c.values()}; }
  Tensor after_tensor() { return {after.data(), c.states()}; }

  void run(const Context& context) {
    recurrent(inputs(), out_tensor(), after_tensor(), c.options(), context);
  }
  void run_reference() {
    reference::recurrent(inputs(), out_tensor(), after_tensor(), c.options());
  }
};

// The same problem in double precision.
template <class T>
RecurrentProblem<double> exact(const RecurrentProblem<T>& p) {
  RecurrentProblem<double> e(p.c);
  const auto copy = [](const std::vector<T>& from, std::vector<double>& to) {
    to.assign(from.begin(), from.end());
  };
  copy(p.q, e.q);
  copy(p.k, e.k);
  copy(p.v, e.v);
  copy(p.log_decay, e.log_decay);
  copy(p.beta, e.beta);
  copy(p.bonus, e.bonus);
  copy(p.a, e.a);
  copy(p.b, e.b);
  copy(p.before, e.before);
  e.run_reference();
  return e;
}

// The largest error that rounding explains. An output is a sum of terms, each rounded once for
// every step of its chain (width, length) and for the exponents of its decays; the sizes of the
// terms add up to what absolute values of all inputs give. Under the delta rule with |k| <= 1, or
// with such a rank-one term, the errors of L tokens add up without growing.
template <class T>
double recurrent_bound(const RecurrentProblem<T>& p) {
  const double epsilon = static_cast<double>(std::numeric_limits<T>::epsilon());
  RecurrentProblem<double> sizes = exact(p);
  double largest = 0;
  for (std::vector<double>* x : {&sizes.q, &sizes.k, &sizes.v, &sizes.bonus, &sizes.before}) {
    for (double& e : *x) e = std::abs(e);
  }
  sizes.c.rule = StateRule::add;
  sizes.a.clear();
  sizes.b.clear();
  sizes.run_reference();
  for (const std::vector<double>* x : {&sizes.out, &sizes.after}) {
    for (double e : *x) largest = std::max(largest, std::abs(e));
  }
  const double steps = static_cast<double>(p.c.width + p.c.length + 128);
  return epsilon * steps * largest * (p.c.rule == StateRule::delta || p.c.rank_one ? 4 : 1) *
         (p.c.normalise ? 4 : 1);
}

}  // namespace attn::test
