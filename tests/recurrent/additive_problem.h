// Random problems of additive attention in element type T, and their results by whoever computes.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "attention/cases.h"
#include "attn/additive.h"
#include "attn/reference_recurrent.h"

namespace attn::test {

struct AdditiveShape {
  std::int64_t batch = 1, heads = 1, q_len = 1, k_len = 1, width = 1, v_width = 1;
  bool shared = true;  // v_a, by all heads

  std::string label() const {
    return to_string(Shape{batch, heads, q_len, k_len}) +
           to_string(Shape{width, v_width, shared, 0});
  }
};

template <class T>
struct AdditiveResult {
  std::vector<T> out, lse, dq, dk, dv, dv_a;
};

template <class T>
struct AdditiveProblem {
  AdditiveShape shape;
  AttentionOptions options = {};
  bool blhd = false;  // memory [B, L, H, D]
  std::vector<T> q, k, v, v_a, d_out, d_lse;

  explicit AdditiveProblem(const AdditiveShape& s, std::uint64_t seed = 1, double size = 1)
      : shape(s) {
    Random random(seed);
    // What float holds, so that every type has the same problem.
    const auto fill = [&](std::vector<T>& x, std::int64_t rows, std::int64_t width, double scale) {
      x.resize(static_cast<std::size_t>(s.batch * s.heads * rows * width));
      for (T& e : x) e = static_cast<T>(static_cast<float>(scale * random.normal()));
    };
    fill(q, s.q_len, s.width, size);
    fill(k, s.k_len, s.width, size);
    fill(v, s.k_len, s.v_width, 1);
    fill(d_out, s.q_len, s.v_width, 1);
    fill(d_lse, s.q_len, 1, 1);
    v_a.resize(static_cast<std::size_t>((s.shared ? 1 : s.heads) * s.width));
    for (T& e : v_a) e = static_cast<T>(static_cast<float>(random.normal()));
  }

  template <class X>
  Tensor view(X& x, std::int64_t length, std::int64_t width) const {
    const Shape of{shape.batch, shape.heads, length, width};
    T* data = const_cast<T*>(x.data());
    if (x.empty()) return {&empty_, dtype_of<T>(), of, strides_bhld(of)};
    return blhd ? Tensor::blhd(data, of) : Tensor(data, of);
  }
  AdditiveInputs inputs() const {
    const Shape of_v_a{1, shape.shared ? 1 : shape.heads, 1, shape.width};
    return {view(q, shape.q_len, shape.width), view(k, shape.k_len, shape.width),
            view(v, shape.k_len, shape.v_width), ConstTensor(v_a.data(), of_v_a)};
  }
  OutputGradients from() const {
    return {.out = view(d_out, shape.q_len, shape.v_width), .lse = view(d_lse, shape.q_len, 1)};
  }

  AdditiveResult<T> made() const {
    AdditiveResult<T> r{d_out, d_lse, q, k, v, v_a};
    for (auto* x : {&r.out, &r.lse, &r.dq, &r.dk, &r.dv, &r.dv_a})
      std::fill(x->begin(), x->end(), T(7));
    return r;
  }
  AdditiveGradients to(AdditiveResult<T>& r) const {
    return {view(r.dq, shape.q_len, shape.width), view(r.dk, shape.k_len, shape.width),
            view(r.dv, shape.k_len, shape.v_width), Tensor(r.dv_a.data(), inputs().v_a.shape)};
  }

  AdditiveResult<T> run(const Context& context) const {
    AdditiveResult<T> r = made();
    const Tensor out = view(r.out, shape.q_len, shape.v_width), lse = view(r.lse, shape.q_len, 1);
    additive(inputs(), out, options, context, {.lse = lse});
    additive_backward(inputs(), {.out = out, .lse = lse}, from(), to(r), options, context);
    return r;
  }
  AdditiveResult<T> oracle() const {
    AdditiveResult<T> r = made();
    reference::additive(inputs(), view(r.out, shape.q_len, shape.v_width), options,
                        {.lse = view(r.lse, shape.q_len, 1)});
    reference::additive_backward(inputs(), from(), to(r), options);
    return r;
  }

 private:
  static inline T empty_ = 0;
};

template <class T>
bool same_bits(const AdditiveResult<T>& a, const AdditiveResult<T>& b) {
  return same_bits(a.out, b.out) && same_bits(a.lse, b.lse) && same_bits(a.dq, b.dq) &&
         same_bits(a.dk, b.dk) && same_bits(a.dv, b.dv) && same_bits(a.dv_a, b.dv_a);
}

}  // namespace attn::test
