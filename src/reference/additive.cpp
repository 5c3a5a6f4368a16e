// Additive attention as it is defined: exact attention whose score of a pair is v_a . tanh(q + k).
#include <cmath>
#include <vector>

#include "attn/reference.h"
#include "attn/reference_recurrent.h"
#include "base/check_additive.h"
#include "reference/problem.h"

namespace attn::reference {

namespace {

// Queries and keys whose product is 0: the score does not read it.
constexpr double kZero = 0;
ConstTensor no_product(const ConstTensor& x) {
  return {&kZero, x.dtype, {x.batch(), x.heads(), x.length(), 1}, {0, 0, 0, 1}};
}

class AdditiveScore {
 public:
  explicit AdditiveScore(const AdditiveInputs& inputs) : in_(inputs) {}

  AttentionOptions with(AttentionOptions options) {
    options.score.scale = 1;
    options.score.custom = [this](const ScoreTile& t) { add_scores(t); };
    options.score.custom_gradient = [this](const ScoreGradientTile& t) { add_gradients(t); };
    return options;
  }

  void want_gradients() {
    dq_.assign(at(in_.q.size()), 0.0);
    dk_.assign(at(in_.k.size()), 0.0);
    dv_a_.assign(at(in_.v_a.size()), 0.0);
  }
  void write(const AdditiveGradients& to) const {
    write(dq_, to.q);
    write(dk_, to.k);
    write(dv_a_, to.v_a);
  }

 private:
  std::int64_t head_of(const ScoreTile& t) const { return in_.v_a.heads() == 1 ? 0 : t.head; }

  void add_scores(const ScoreTile& t) const {
    const std::vector<double> v_a = row_of(in_.v_a, 0, head_of(t), 0);
    for (std::size_t r = 0; r < t.q.size(); ++r) {
      const std::vector<double> q = row_of(in_.q, t.batch, t.head, t.q[r]);
      for (std::int64_t j = 0; j < t.k_count; ++j) {
        const std::vector<double> k = row_of(in_.k, t.batch, t.head, t.k_begin + j);
        double sum = 0;
        for (std::size_t c = 0; c < q.size(); ++c) sum += v_a[c] * std::tanh(q[c] + k[c]);
        t.s64[static_cast<std::int64_t>(r) * t.stride + j] += sum;
      }
    }
  }

  // d tanh(x)/dx = 1 - tanh(x)^2.
  void add_gradients(const ScoreGradientTile& given) {
    const ScoreTile& t = given.s;
    const std::vector<double> v_a = row_of(in_.v_a, 0, head_of(t), 0);
    const std::size_t width = v_a.size();
    for (std::size_t r = 0; r < t.q.size(); ++r) {
      const std::vector<double> q = row_of(in_.q, t.batch, t.head, t.q[r]);
      const std::size_t query = place(in_.q, t.batch, t.head, t.q[r]);
      for (std::int64_t j = 0; j < t.k_count; ++j) {
        const double ds = given.d64[static_cast<std::int64_t>(r) * t.stride + j];
        if (ds == 0) continue;  // hidden, or of no weight
        const std::vector<double> k = row_of(in_.k, t.batch, t.head, t.k_begin + j);
        const std::size_t key = place(in_.k, t.batch, t.head, t.k_begin + j);
        for (std::size_t c = 0; c < width; ++c) {
          const double tanh = std::tanh(q[c] + k[c]), slope = ds * v_a[c] * (1 - tanh * tanh);
          dq_[query + c] += slope;
          dk_[key + c] += slope;
          dv_a_[at(head_of(t)) * width + c] += ds * tanh;
        }
      }
    }
  }

  static std::size_t place(const ConstTensor& x, std::int64_t b, std::int64_t h, std::int64_t l) {
    return at(((b * x.heads() + h) * x.length() + l) * x.width());
  }

  static void write(const std::vector<double>& sums, const Tensor& to) {
    if (to.empty()) return;
    for (std::int64_t b = 0; b < to.batch(); ++b) {
      for (std::int64_t h = 0; h < to.heads(); ++h) {
        for (std::int64_t l = 0; l < to.length(); ++l) {
          for (std::int64_t d = 0; d < to.width(); ++d)
            store(to, b, h, l, d, sums[place(to, b, h, l) + at(d)]);
        }
      }
    }
  }

  const AdditiveInputs& in_;
  std::vector<double> dq_, dk_, dv_a_;  // contiguous
};

}  // namespace

void additive(const AdditiveInputs& inputs, const Tensor& out, const AttentionOptions& options,
              const Observed& observed) {
  check_additive(inputs, options);
  check_additive_output(inputs, out);
  AdditiveScore score(inputs);
  attention(no_product(inputs.q), no_product(inputs.k), inputs.v, out, score.with(options),
            observed);
}

void additive_backward(const AdditiveInputs& inputs, const OutputGradients& from,
                       const AdditiveGradients& to, const AttentionOptions& options) {
  check_additive(inputs, options);
  check_additive_gradients(inputs, from, to);
  AdditiveScore score(inputs);
  score.want_gradients();
  backward({no_product(inputs.q), no_product(inputs.k), inputs.v}, from, {.v = to.v},
           score.with(options));
  score.write(to);
}

}  // namespace attn::reference
