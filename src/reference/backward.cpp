// Gradients of exact attention: each step of the forward pass and its derivative, one row at a
// time.
#include <cmath>
#include <limits>

#include "attn/position.h"
#include "attn/reference.h"
#include "base/check.h"
#include "reference/problem.h"

namespace attn::reference {

namespace {

// A gradient that is asked (or not: then nothing is kept), summed in double.
class Sum {
 public:
  explicit Sum(const Tensor& to) : to_(to), values_(to.empty() ? 0 : at(to.size()), 0.0) {}

  void add(std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t d, double x) {
    if (!to_.empty()) values_[place(b, h, l, d)] += x;
  }
  // Adds scale * x to the row (b, h, l).
  void add_row(std::int64_t b, std::int64_t h, std::int64_t l, double scale,
               const std::vector<double>& x) {
    for (std::size_t d = 0; d < x.size(); ++d) {
      add(b, h, l, static_cast<std::int64_t>(d), scale * x[d]);
    }
  }
  void write(bool accumulate) const {
    if (to_.empty()) return;
    for (std::int64_t b = 0; b < to_.batch(); ++b) {
      for (std::int64_t h = 0; h < to_.heads(); ++h) {
        for (std::int64_t l = 0; l < to_.length(); ++l) {
          for (std::int64_t d = 0; d < to_.width(); ++d) {
            const double before = accumulate ? element(to_, b, h, l, d) : 0;
            store(to_, b, h, l, d, before + values_[place(b, h, l, d)]);
          }
        }
      }
    }
  }

 private:
  std::size_t place(std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t d) const {
    return at(((b * to_.heads() + h) * to_.length() + l) * to_.width() + d);
  }
  const Tensor& to_;
  std::vector<double> values_;
};

class Backward {
 public:
  Backward(const Problem& problem, const OutputGradients& from, const InputGradients& to)
      : problem_(problem),
        from_(from),
        accumulate_(to.accumulate),
        q_(to.q),
        k_(to.k),
        v_(to.v),
        bias_(to.bias),
        slopes_(to.alibi_slopes),
        t5_(to.t5),
        sinks_(to.sinks) {}

  void run() {
    for (const Sequence& s : problem_.sequences()) {
      for (std::int64_t h = 0; h < problem_.shape().q_heads; ++h) {
        for (std::int64_t i = 0; i < s.geometry.q_len; ++i) run_row(s, h, i);
      }
    }
    for (const Sum* sum : {&q_, &k_, &v_, &bias_, &slopes_, &t5_, &sinks_}) {
      sum->write(accumulate_);
    }
  }

 private:
  static double flowing(const ConstTensor& into, const Sequence& s, std::int64_t h,
                        std::int64_t i) {
    return into.empty() ? 0 : element(into, s.tensor, h, s.q_begin + i, 0);
  }

  // The last step first. `d` is the gradient with respect to what the step before returned.
  void run_row(const Sequence& s, std::int64_t h, std::int64_t i) {
    const Row row = problem_.row(s, h, i);
    if (row.lse == -std::numeric_limits<double>::infinity()) return;
    std::vector<double> d(row.p.size(), 0.0);
    // 1. out = sum_j weight_j v_j.
    if (!from_.out.empty()) through_values(s, h, i, row, d);
    // 2. Softmax: dp_a/ds_b = p_a ([a = b] - p_b); the sink is one more entry, which weighs no
    // value.
    double mean = 0;
    for (std::size_t j = 0; j < d.size(); ++j) mean += row.seen[j] ? row.p[j] * d[j] : 0;
    for (std::size_t j = 0; j < d.size(); ++j) d[j] = row.seen[j] ? row.p[j] * (d[j] - mean) : 0;
    double d_sink = -row.sink_p * mean;
    // 3. lse = ln sum_j e^s_j, without the sink: dlse/ds_j = e^(s_j - lse).
    const double d_lse = flowing(from_.lse, s, h, i);
    for (std::size_t j = 0; j < d.size(); ++j) {
      if (row.seen[j] && d_lse != 0) d[j] += d_lse * std::exp(row.score[j] - row.lse);
    }
    // 4. entropy = -sum_j p_j ln p_j: dentropy/ds_j = -p_j (ln p_j + entropy), the sink likewise.
    const double d_entropy = flowing(from_.entropy, s, h, i), entropy = row.entropy();
    for (std::size_t j = 0; j < d.size(); ++j) {
      if (row.p[j] != 0) d[j] -= d_entropy * row.p[j] * (row.log_p[j] + entropy);
    }
    if (row.sink_p != 0) d_sink -= d_entropy * row.sink_p * (row.sink_log_p + entropy);
    sinks_.add(0, 0, 0, h, d_sink);
    // 5. The custom score.
    through_custom(s, h, i, row, d);
    // 6. Bias, ALiBi, T5.
    through_additions(s, h, i, row, d);
    // 7. Soft cap c tanh(x / c): its derivative is 1 - tanh^2.
    const double cap = problem_.options().score.soft_cap;
    for (std::size_t j = 0; j < d.size() && cap > 0; ++j) {
      if (!row.seen[j]) continue;
      const double t = std::tanh(row.product[j] / cap);
      d[j] *= 1 - t * t;
    }
    // 8. x_j = scale q.k_j.
    const std::vector<double> query = problem_.query(s, h, i);
    const std::int64_t kv_head = problem_.kv_head(h);
    for (std::int64_t j = 0; j < s.geometry.k_len; ++j) {
      if (!row.seen[at(j)]) continue;
      const double x = problem_.scale() * d[at(j)];
      q_.add_row(s.tensor, h, s.q_begin + i, x, problem_.key(s, kv_head, j));
      k_.add_row(s.tensor, kv_head, s.k_begin + j, x, query);
    }
  }

  void through_values(const Sequence& s, std::int64_t h, std::int64_t i, const Row& row,
                      std::vector<double>& d) {
    const std::vector<double> d_out = row_of(from_.out, s.tensor, h, s.q_begin + i);
    const std::int64_t kv_head = problem_.kv_head(h);
    const DropoutRule& dropout = problem_.dropout();
    for (std::int64_t j = 0; j < s.geometry.k_len; ++j) {
      if (!row.seen[at(j)]) continue;
      v_.add_row(s.tensor, kv_head, s.k_begin + j, row.weight[at(j)], d_out);
      // weight = p, dropped or scaled; 0 * NaN is NaN here as it was in the output.
      const bool kept = !dropout.active() || problem_.keeps(s, h, i, j);
      d[at(j)] = (kept ? dropout.scale() : 0) * dot(d_out, problem_.value(s, kv_head, j));
    }
  }

  void through_custom(const Sequence& s, std::int64_t h, std::int64_t i, const Row& row,
                      std::vector<double>& d) {
    const Score& score = problem_.options().score;
    if (!score.custom || d.empty()) return;
    std::vector<double> given = row.given;
    score.custom_gradient({.s = {.batch = s.index,
                                 .head = h,
                                 .q = {&i, 1},
                                 .k_begin = 0,
                                 .k_count = s.geometry.k_len,
                                 .stride = s.geometry.k_len,
                                 .s64 = given.data()},
                           .d64 = d.data()});
  }

  void through_additions(const Sequence& s, std::int64_t h, std::int64_t i, const Row& row,
                         const std::vector<double>& d) {
    const Score& score = problem_.options().score;
    for (std::int64_t j = 0; j < s.geometry.k_len; ++j) {
      if (!row.seen[at(j)]) continue;
      const std::int64_t distance = s.geometry.k_position(j) - s.geometry.q_position(i);
      if (!score.bias.empty()) {
        // What was broadcast gets the sum.
        const Shape& n = score.bias.shape;
        bias_.add(n[0] == 1 ? 0 : s.index, n[1] == 1 ? 0 : h, n[2] == 1 ? 0 : i, n[3] == 1 ? 0 : j,
                  d[at(j)]);
      }
      if (score.alibi_slopes) {
        slopes_.add(0, 0, 0, h, -std::abs(static_cast<double>(distance)) * d[at(j)]);
      }
      if (score.t5) {
        const T5Bias& t5 = *score.t5;
        const int bucket = t5_bucket(distance, t5.bidirectional, t5.buckets, t5.max_distance);
        t5_.add(0, 0, bucket, h, d[at(j)]);
      }
    }
  }

  const Problem& problem_;
  const OutputGradients& from_;
  bool accumulate_;
  Sum q_, k_, v_, bias_, slopes_, t5_, sinks_;
};

}  // namespace

void backward(const AttentionInputs& inputs, const OutputGradients& from, const InputGradients& to,
              const AttentionOptions& options) {
  const AttentionShape shape = AttentionShape::of(inputs.q, inputs.k, inputs.v);
  check_options(shape, options);
  check_backward(shape, options, inputs, from, to);
  const Problem problem(shape, options, inputs.q, {.k = inputs.k, .v = inputs.v});
  Backward(problem, from, to).run();
}

}  // namespace attn::reference
