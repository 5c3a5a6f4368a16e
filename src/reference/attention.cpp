// Exact attention as it is defined, one row at a time, in double precision.
#include "attn/reference.h"
#include "base/check.h"
#include "base/checker.h"
#include "reference/observe.h"
#include "reference/problem.h"

namespace attn::reference {

void attention(const AttentionShape& given, const ConstTensor& q, const KeyValue& kv,
               const Tensor& out, const AttentionOptions& options, const Observed& observed) {
  check_options(given, options);
  const AttentionShape shape = checked_shape(given);
  check_inputs(shape, options, q, kv);
  check_output(shape, out);
  check_observed(shape, observed);
  const Problem problem(shape, options, q, kv);
  Observers observers(problem, observed);

  for (const Sequence& s : problem.sequences()) {
    for (std::int64_t h = 0; h < shape.q_heads; ++h) {
      for (std::int64_t i = 0; i < s.geometry.q_len; ++i) {
        const Row row = problem.row(s, h, i);
        // The mean of the values by weight; a hidden value is never read.
        std::vector<double> sum(at(shape.v_width), 0.0);
        for (std::int64_t j = 0; j < s.geometry.k_len; ++j) {
          if (!row.seen[at(j)]) continue;
          const std::vector<double> value = problem.value(s, problem.kv_head(h), j);
          for (std::size_t d = 0; d < sum.size(); ++d) sum[d] += row.weight[at(j)] * value[d];
        }
        for (std::int64_t d = 0; d < shape.v_width; ++d) {
          store(out, s.tensor, h, s.q_begin + i, d, sum[at(d)]);
        }
        observers.see(s, h, i, row);
      }
    }
  }
}

void attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const Tensor& out,
               const AttentionOptions& options, const Observed& observed) {
  attention(AttentionShape::of(q, k, v), q, {.k = k, .v = v}, out, options, observed);
}

void weights(const AttentionShape& given, const ConstTensor& q, const KeyValue& kv,
             const AttentionOptions& options, const Tensor& out) {
  check_options(given, options);
  const AttentionShape shape = checked_shape(given);
  check_inputs(shape, options, q, kv);
  const Checker check("weights");
  if (out.dtype != DType::f64) check.dtype("out", out, DType::f64);
  check.shape("out", out, {shape.batch, shape.q_heads, shape.q_len, shape.k_len});
  check.view("out", out);
  const Problem problem(shape, options, q, kv);

  for (const Sequence& s : problem.sequences()) {
    for (std::int64_t h = 0; h < shape.q_heads; ++h) {
      for (std::int64_t i = 0; i < s.geometry.q_len; ++i) {
        const Row row = problem.row(s, h, i);
        for (std::int64_t j = 0; j < shape.k_len; ++j) {
          const bool own = s.k_begin <= j && j < s.k_begin + s.geometry.k_len;
          store(out, s.tensor, h, s.q_begin + i, j, own ? row.weight[at(j - s.k_begin)] : 0.0);
        }
      }
    }
  }
}

void weights(const ConstTensor& q, const ConstTensor& k, const AttentionOptions& options,
             const Tensor& out) {
  weights(AttentionShape::of(q, k, k), q, {.k = k, .v = k}, options, out);
}

}  // namespace attn::reference
