// Random attention problems, described once for all tests of the room.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <string>
#include <vector>

#include "attn/attention.h"
#include "attn/reference.h"

namespace attn::test {

// SplitMix64: the same numbers on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double normal() {
    const double u = 1.0 - uniform(), v = uniform();
    return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
  }
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(n));
  }

 private:
  std::uint64_t state_;
};

struct Case {
  std::string label;
  AttentionShape shape;
  AttentionOptions options = {};
  double q_size = 1;  // standard deviation of the queries; large ones make huge logits
};

inline AttentionShape make_shape(std::int64_t b, std::int64_t hq, std::int64_t hkv, std::int64_t lq,
                                 std::int64_t lk, std::int64_t d, std::int64_t dv = 0,
                                 DType dtype = DType::f32) {
  return {b, hq, hkv, lq, lk, d, dv == 0 ? d : dv, dtype};
}

inline Geometry geometry_of(const AttentionShape& s, const AttentionOptions& options) {
  return {.batch = s.batch,
          .heads = s.q_heads,
          .q_len = s.q_len,
          .k_len = s.k_len,
          .query_start = options.query_start,
          .q_positions = options.q_positions,
          .k_positions = options.k_positions};
}

// Owned tensors of one problem, in element type T. Layout: [B,H,L,D], or [B,L,H,D] memory.
template <class T>
struct Problem {
  AttentionShape shape;
  bool blhd = false;
  std::vector<T> q, k, v, out, lse;

  Problem(const AttentionShape& s, std::uint64_t seed, double q_size = 1, bool blhd_memory = false)
      : shape(s), blhd(blhd_memory) {
    shape.dtype = dtype_of<T>();
    Random random(seed);
    const auto fill = [&](std::vector<T>& x, std::int64_t n, double size) {
      x.resize(static_cast<std::size_t>(n));
      for (T& e : x) e = static_cast<T>(size * random.normal());
    };
    fill(q, shape.batch * shape.q_heads * shape.q_len * shape.width, q_size);
    fill(k, shape.batch * shape.kv_heads * shape.k_len * shape.width, 1);
    fill(v, shape.batch * shape.kv_heads * shape.k_len * shape.v_width, 1);
    clear();
  }
  void clear() {
    out.assign(static_cast<std::size_t>(shape.batch * shape.q_heads * shape.q_len * shape.v_width),
               T(7));
    lse.assign(static_cast<std::size_t>(shape.batch * shape.q_heads * shape.q_len), T(7));
  }
  template <class X>
  auto view(std::vector<X>& x, std::int64_t h, std::int64_t l, std::int64_t d) const {
    const Shape s{shape.batch, h, l, d};
    return Tensor(x.data(), s, blhd ? strides_blhd(s) : strides_bhld(s));
  }
  Tensor qt() { return view(q, shape.q_heads, shape.q_len, shape.width); }
  Tensor kt() { return view(k, shape.kv_heads, shape.k_len, shape.width); }
  Tensor vt() { return view(v, shape.kv_heads, shape.k_len, shape.v_width); }
  Tensor ot() { return view(out, shape.q_heads, shape.q_len, shape.v_width); }
  Tensor lt() { return view(lse, shape.q_heads, shape.q_len, 1); }

  void run(const AttentionOptions& options, const Context& context) {
    plan(shape, options, context).run(qt(), kt(), vt(), ot(), {.lse = lt()});
  }
  void run_reference(const AttentionOptions& options) {
    reference::attention(qt(), kt(), vt(), ot(), options, {.lse = lt()});
  }
};

// The same numbers in double.
inline Problem<double> in_double(const Problem<float>& p) {
  Problem<double> d(p.shape, 0);
  d.blhd = p.blhd;
  d.q.assign(p.q.begin(), p.q.end());
  d.k.assign(p.k.begin(), p.k.end());
  d.v.assign(p.v.begin(), p.v.end());
  return d;
}

// Bits, with -0 equal to +0.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == 0 && b[i] == 0) continue;
    if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0) return false;
  }
  return true;
}

// GoogleTest would print bytes.
inline void PrintTo(const Case& c, std::ostream* out) { *out << c.label; }

inline std::vector<Case> standard_cases() {
  std::vector<Case> cases;
  const auto add = [&](std::string label, AttentionShape shape, AttentionOptions options = {},
                       double q_size = 1) {
    cases.push_back({std::move(label), shape, std::move(options), q_size});
  };
  for (std::int64_t n : {1, 2, 7, 13, 63, 64, 65, 127, 128, 129, 257}) {
    add("full_" + std::to_string(n), make_shape(1, 2, 2, n, n, 16));
    add("causal_" + std::to_string(n), make_shape(1, 1, 1, n, n, 32), {.mask = Mask::causal()});
  }
  for (std::int64_t d : {1, 2, 3, 7, 8, 15, 17, 20, 31, 33, 64, 80, 127, 128, 257, 1024}) {
    add("width_" + std::to_string(d), make_shape(1, 1, 1, 37, 53, d));
    add("v_width_" + std::to_string(d), make_shape(1, 1, 1, 37, 53, 24, d));
  }
  add("long", make_shape(1, 1, 1, 300, 2500, 64));
  add("long_causal", make_shape(1, 1, 1, 1300, 1300, 32), {.mask = Mask::causal()});
  add("long_decode", make_shape(2, 8, 2, 1, 3001, 64),
      {.mask = Mask::causal(), .query_start = 3000});
  add("group_7", make_shape(2, 14, 2, 50, 50, 24), {.mask = Mask::causal()});
  add("multi_query", make_shape(2, 9, 1, 33, 200, 20));
  add("group_33", make_shape(1, 33, 1, 5, 70, 8));
  add("one_query", make_shape(3, 4, 4, 1, 129, 16));
  add("offset", make_shape(1, 2, 1, 40, 140, 16), {.mask = Mask::causal(), .query_start = 100});
  add("window", make_shape(1, 2, 2, 400, 400, 16), {.mask = Mask::causal() & Mask::window(31, 0)});
  add("window_both", make_shape(1, 1, 1, 300, 300, 16), {.mask = Mask::window(17, 5)});
  add("dilated", make_shape(1, 1, 1, 300, 300, 16), {.mask = Mask::dilated_window(9, 4, 7)});
  add("longformer", make_shape(1, 2, 1, 300, 300, 16),
      {.mask = Mask::window(20, 20) | Mask::global_tokens({0, 150})});
  add("longformer_dilated", make_shape(1, 2, 1, 300, 300, 16),
      {.mask = Mask::per_head({Mask::longformer(10, {0}), Mask::longformer(10, {0}, 4)})});
  add("bigbird", make_shape(1, 2, 1, 290, 290, 16), {.mask = Mask::bigbird(16, 2, 3)});
  add("bigbird_extended", make_shape(1, 2, 2, 210, 210, 16),
      {.mask = Mask::bigbird_extended(5, 16, 2, 3) & Mask::causal()});
  add("documents", make_shape(1, 2, 2, 260, 260, 16),
      {.mask = Mask::causal() & Mask::documents({100, 1, 59, 100})});
  add("prefix", make_shape(1, 1, 1, 200, 200, 16), {.mask = Mask::causal() | Mask::prefix(70)});
  add("padding", make_shape(3, 2, 2, 90, 150, 16), {.mask = Mask::padding({150, 0, 31})});
  add("left_padding", make_shape(2, 2, 2, 90, 150, 16),
      {.mask = Mask::causal() & Mask::padding({100, 150}, PaddingSide::left), .query_start = 60});
  add("per_head", make_shape(1, 4, 2, 200, 200, 16),
      {.mask = Mask::per_head({Mask::full(), Mask::causal(), Mask::window(3, 3),
                               Mask::causal() & Mask::window(40, 0)})});
  add("predicate", make_shape(2, 2, 1, 150, 190, 16),
      {.mask = Mask::predicate([](std::int64_t b, std::int64_t h, std::int64_t q,
                                  std::span<std::uint8_t> visible) {
                 for (std::size_t k = 0; k < visible.size(); ++k) {
                   visible[k] =
                       (static_cast<std::int64_t>(k) * 7 + q * 3 + b + h) % 5 < 2 && q % 11 != 3;
                 }
               }) &
               Mask::window(100, 50)});
  add("positions", make_shape(1, 2, 2, 60, 130, 16), [] {
    AttentionOptions o{.mask = Mask::causal() & Mask::window(90, 0)};
    for (std::int64_t i = 0; i < 60; ++i) o.q_positions.push_back((i * 37) % 200);
    for (std::int64_t j = 0; j < 130; ++j) o.k_positions.push_back(j + j / 3);
    return o;
  }());
  add("alibi", make_shape(1, 6, 3, 200, 200, 16),
      {.mask = Mask::causal(), .score = Score::alibi()});
  add("alibi_full", make_shape(1, 3, 3, 150, 200, 16),
      {.score = Score::alibi(), .query_start = 20});
  add("soft_cap", make_shape(1, 2, 2, 100, 150, 16), {.score = {.soft_cap = 5}}, 4);
  add("scale", make_shape(1, 2, 2, 100, 150, 16), {.score = {.scale = 0.7}});
  add("zero_scale", make_shape(1, 1, 1, 20, 30, 16), {.score = {.scale = 0.0}});
  add("sinks", make_shape(1, 2, 2, 100, 150, 16),
      {.mask = Mask::causal(), .score = {.sinks = {0.5f, -3.0f}}});
  {
    T5Bias t5;
    Random random(5);
    for (int i = 0; i < 32 * 4; ++i) t5.table.push_back(static_cast<float>(random.normal()));
    add("t5", make_shape(1, 4, 2, 200, 260, 16),
        {.score = {.scale = 1.0, .t5 = t5}, .query_start = 30}, 0.3);
    t5.bidirectional = false;
    add("t5_causal_alibi_cap", make_shape(1, 4, 2, 200, 260, 16),
        {.mask = Mask::causal(),
         .score = {.soft_cap = 20, .alibi_slopes = std::vector<float>{}, .t5 = t5},
         .query_start = 30});
  }
  add("custom", make_shape(1, 4, 2, 150, 170, 16),
      {.mask = Mask::causal(),
       .score = {.custom = [](const ScoreTile& t) {
         for (std::size_t r = 0; r < t.q.size(); ++r) {
           for (std::int64_t j = 0; j < t.k_count; ++j) {
             const std::int64_t k = t.k_begin + j, i = static_cast<std::int64_t>(r) * t.stride + j;
             const bool hidden = (k + t.q[r]) % 13 == 5;
             const double extra = 0.01 * static_cast<double>((k * 3 + t.q[r]) % 17) +
                                  0.1 * static_cast<double>(t.head);
             if (t.s32 != nullptr)
               t.s32[i] = hidden ? -INFINITY : t.s32[i] * 0.5f + static_cast<float>(extra);
             else
               t.s64[i] = hidden ? -INFINITY : t.s64[i] * 0.5 + extra;
           }
         }
       }}});
  add("huge_logits", make_shape(1, 4, 4, 400, 500, 64),
      {.mask = Mask::causal(), .query_start = 100}, 3000);
  add("no_keys", make_shape(1, 2, 2, 5, 0, 16));
  add("no_queries", make_shape(1, 2, 2, 0, 5, 16));
  add("no_batch", make_shape(0, 2, 2, 5, 5, 16));
  return cases;
}

}  // namespace attn::test
