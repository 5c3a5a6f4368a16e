#include "attn/linear_attention.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "attn/recurrent.h"
#include "base/check_recurrent.h"
#include "recurrent/favor_attention.h"
#include "recurrent/recurrent_problem.h"

namespace attn {

namespace {

RecurrentOptions recurrence(const LinearAttentionOptions& options) {
  return {StateRule::add, options.normalise, options.epsilon, options.offsets};
}

RecurrentInputs inputs_of(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v) {
  RecurrentInputs in;
  in.q = q;
  in.k = k;
  in.v = v;
  return in;
}

Shape sums_shape(const ConstTensor& q, const ConstTensor& v,
                 const LinearAttentionOptions& options) {
  return {sequence_count(v.batch(), options.offsets), v.heads(),
          options.map == FeatureMap::favor ? options.random->count() : q.width(),
          v.width() + (options.normalise ? 1 : 0)};
}

// The state of all keys, which queries read that nothing follows.
template <class T>
class AllKeys {
 public:
  AllKeys(const ConstTensor& k, const ConstTensor& v, const LinearAttentionOptions& options,
          const Context& context)
      : shape_(sums_shape(k, v, options)), sums_(static_cast<std::size_t>(size())) {
    run_recurrent(inputs_of(k, k, v), {}, {sums_.data(), shape_}, recurrence(options), context,
                  {.map = options.map});
  }

  // What queries read: of it alone, as what keys write has the factor 0.
  RecurrentInputs read_by(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v) const {
    RecurrentInputs in = inputs_of(q, k, v);
    in.beta = {&nothing_, {1, 1, 1, 1}};
    in.state = {sums_.data(), shape_};
    return in;
  }

  const Shape& shape() const { return shape_; }
  std::int64_t size() const { return shape_[0] * shape_[1] * shape_[2] * shape_[3]; }

 private:
  T nothing_ = 0;
  Shape shape_;
  std::vector<T> sums_;
};

template <class T>
void run_both_ways(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                   const Tensor& out, const LinearAttentionOptions& options,
                   const Context& context) {
  const AllKeys<T> keys(k, v, options, context);
  run_recurrent(keys.read_by(q, q, v), out, {}, recurrence(options), context, {.map = options.map});
}

// From queries to the state, and from the state to keys and values.
template <class T>
void run_both_ways_backward(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                            const ConstTensor& d_out, const RecurrentGradients& to,
                            const LinearAttentionOptions& options, const Context& context) {
  const AllKeys<T> keys(k, v, options, context);
  std::vector<T> d_sums(static_cast<std::size_t>(keys.size()));
  RecurrentGradients to_reads, to_keys = to;
  to_reads.q = to.q;
  to_reads.state = {d_sums.data(), keys.shape()};
  run_recurrent_backward(keys.read_by(q, q, v), d_out, {}, to_reads, recurrence(options), context,
                         options.map);
  to_keys.q = {};
  run_recurrent_backward(inputs_of(k, k, v), {}, ConstTensor(to_reads.state), to_keys,
                         recurrence(options), context, options.map);
}

}  // namespace

void linear_attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                      const Tensor& out, const LinearAttentionOptions& options,
                      const LinearState& state, const Context& context) {
  constexpr Checker kCheck("linear_attention");
  check_linear_attention(q, k, v, options, kCheck);
  if (out.empty() && v.size() > 0) kCheck.fail("out has no data");
  kCheck.output("out", out, v.shape, q.dtype);
  for (const ConstTensor& x : {q, k, v}) kCheck.apart("out", out, "an input", x);
  if (!state.sums.empty()) {
    if (!options.causal) kCheck.fail("a state is for causal attention");
    kCheck.output("state.sums", state.sums, sums_shape(q, v, options), q.dtype);
    if ((options.map == FeatureMap::favor) == state.log_scale.empty())
      kCheck.fail(state.log_scale.empty() ? "favor needs state.log_scale"
                                          : "state.log_scale is for favor");
    kCheck.output("state.log_scale", state.log_scale,
                  {sequence_count(v.batch(), options.offsets), v.heads(), 1, 1}, q.dtype);
  } else if (!state.log_scale.empty()) {
    kCheck.fail("state.log_scale is given without state.sums");
  }
  if (options.map == FeatureMap::favor)
    return favor_attention(q, k, v, out, options, state, context);
  if (!options.causal)
    return q.dtype == DType::f64 ? run_both_ways<double>(q, k, v, out, options, context)
                                 : run_both_ways<float>(q, k, v, out, options, context);
  RecurrentInputs in = inputs_of(q, k, v);
  in.state = state.sums;
  run_recurrent(in, out, state.sums, recurrence(options), context, {.map = options.map});
}

void linear_attention_backward(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                               const ConstTensor& d_out, const Tensor& d_q, const Tensor& d_k,
                               const Tensor& d_v, const LinearAttentionOptions& options,
                               const Context& context) {
  constexpr Checker kCheck("linear_attention_backward");
  check_linear_attention(q, k, v, options, kCheck);
  kCheck.view("d_out", d_out);
  kCheck.dtype("d_out", d_out, q.dtype);
  kCheck.shape("d_out", d_out, v.shape);
  kCheck.output("d_q", d_q, q.shape, q.dtype);
  kCheck.output("d_k", d_k, k.shape, q.dtype);
  kCheck.output("d_v", d_v, v.shape, q.dtype);
  for (const Tensor& to : {d_q, d_k, d_v}) {
    for (const ConstTensor& x : {q, k, v, d_out}) kCheck.apart("a gradient", to, "an input", x);
  }
  if (options.map == FeatureMap::favor)
    return favor_attention_backward(q, k, v, d_out, d_q, d_k, d_v, options, context);
  RecurrentGradients to;
  to.q = d_q;
  to.k = d_k;
  to.v = d_v;
  if (!options.causal)
    return q.dtype == DType::f64
               ? run_both_ways_backward<double>(q, k, v, d_out, to, options, context)
               : run_both_ways_backward<float>(q, k, v, d_out, to, options, context);
  run_recurrent_backward(inputs_of(q, k, v), d_out, {}, to, recurrence(options), context,
                         options.map);
}

namespace {

template <class T>
void merge_scaled(const LinearState& first, const LinearState& second, const LinearState& to) {
  for (std::int64_t b = 0; b < to.sums.batch(); ++b) {
    for (std::int64_t h = 0; h < to.sums.heads(); ++h) {
      T one = 1, two = 1;
      if (!to.log_scale.empty()) {
        const T x = *first.log_scale.row<T>(b, h, 0), y = *second.log_scale.row<T>(b, h, 0);
        const T top = std::max(x, y);
        one = x == top ? T(1) : std::exp(x - top);
        two = y == top ? T(1) : std::exp(y - top);
        *to.log_scale.row<T>(b, h, 0) = top;
      }
      for (std::int64_t r = 0; r < to.sums.length(); ++r) {
        const T *x = first.sums.row<T>(b, h, r), *y = second.sums.row<T>(b, h, r);
        T* sum = to.sums.row<T>(b, h, r);
        for (std::int64_t c = 0; c < to.sums.width(); ++c) sum[c] = one * x[c] + two * y[c];
      }
    }
  }
}

}  // namespace

void merge_linear_states(const LinearState& first, const LinearState& second,
                         const LinearState& state) {
  constexpr Checker kCheck("merge_linear_states");
  const DType dtype = first.sums.dtype;
  if (dtype != DType::f32 && dtype != DType::f64)
    kCheck.fail("first is " + std::string(name(dtype)) + ", must be float32 or float64");
  const Shape scale_shape{first.sums.batch(), first.sums.heads(), 1, 1};
  for (const LinearState* x : {&first, &second, &state}) {
    kCheck.view("sums", x->sums);
    kCheck.dtype("sums", x->sums, dtype);
    kCheck.shape("sums", x->sums, first.sums.shape);
    if (x->log_scale.empty() != first.log_scale.empty())
      kCheck.fail("some states have a log_scale, some have none");
    if (x->log_scale.empty()) continue;
    kCheck.dtype("log_scale", x->log_scale, dtype);
    kCheck.shape("log_scale", x->log_scale, scale_shape);
  }
  if (dtype == DType::f64)
    merge_scaled<double>(first, second, state);
  else
    merge_scaled<float>(first, second, state);
}

}  // namespace attn
