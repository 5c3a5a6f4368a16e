#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "attn/reference_recurrent.h"
#include "base/check_recurrent.h"

namespace attn::reference {

namespace {

// Element (b, h, l, d), where a dimension of 1 counts for all.
double at(const ConstTensor& x, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t d) {
  const std::int64_t index[] = {b, h, l, d};
  std::int64_t offset = 0;
  for (std::size_t i = 0; i < 4; ++i) offset += x.shape[i] == 1 ? 0 : index[i] * x.strides[i];
  return x.dtype == DType::f64 ? static_cast<const double*>(x.data)[offset]
                               : static_cast<double>(static_cast<const float*>(x.data)[offset]);
}

void put(const Tensor& x, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t d,
         double value) {
  const std::int64_t offset = x.offset(b, h, l) + d;
  if (x.dtype == DType::f64)
    static_cast<double*>(x.data)[offset] = value;
  else
    static_cast<float*>(x.data)[offset] = static_cast<float>(value);
}

// One head of one sequence; b is its batch entry, s its state.
class Head {
 public:
  Head(const RecurrentInputs& in, const RecurrentOptions& options, std::int64_t b, std::int64_t s,
       std::int64_t h)
      : in_(in),
        options_(options),
        b_(b),
        h_(h),
        q_head_(h / (in.v.heads() / in.q.heads())),
        rows_(in.q.width()),
        columns_(in.v.width() + (options.normalise ? 1 : 0)),
        state_(static_cast<std::size_t>(rows_ * columns_)) {
    for (std::int64_t r = 0; r < rows_ && !in.state.empty(); ++r)
      for (std::int64_t c = 0; c < columns_; ++c) state(r, c) = at(in.state, s, h, r, c);
  }

  double& state(std::int64_t r, std::int64_t c) {
    return state_[static_cast<std::size_t>(r * columns_ + c)];
  }

  // Runs one token; its output.
  std::vector<double> token(std::int64_t l) {
    const bool delta = options_.rule == StateRule::delta, before = !in_.bonus.empty();
    std::vector<double> y(static_cast<std::size_t>(columns_));
    const double beta = in_.beta.empty() ? 1 : at(in_.beta, b_, h_, l, 0);
    for (std::int64_t c = 0; c < columns_; ++c) {
      double& out = y[static_cast<std::size_t>(c)];
      const double v = c < in_.v.width() ? at(in_.v, b_, h_, l, c) : 1;
      if (before) {
        for (std::int64_t r = 0; r < rows_; ++r)
          out += q(l, r) * (state(r, c) + at(in_.bonus, 0, h_, 0, r) * k(l, r) * beta * v);
      }
      double held = 0, read = 0;
      for (std::int64_t r = 0; r < rows_ && !in_.b.empty(); ++r)
        read += at(in_.b, b_, q_head_, l, r) * state(r, c);
      for (std::int64_t r = 0; r < rows_; ++r) {
        if (!in_.log_decay.empty()) state(r, c) *= std::exp(at(in_.log_decay, b_, h_, l, r));
        held += k(l, r) * state(r, c);
      }
      const double written = beta * (delta ? v - held : v);
      for (std::int64_t r = 0; r < rows_; ++r) {
        state(r, c) += k(l, r) * written;
        if (!in_.a.empty()) state(r, c) += at(in_.a, b_, q_head_, l, r) * read;
        if (!before) out += q(l, r) * state(r, c);
      }
    }
    if (options_.normalise) {
      const double sum = y.back() + options_.epsilon;
      for (double& out : y) out = sum == 0 ? 0 : out / sum;
    }
    return y;
  }

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }

 private:
  double q(std::int64_t l, std::int64_t r) const { return at(in_.q, b_, q_head_, l, r); }
  double k(std::int64_t l, std::int64_t r) const { return at(in_.k, b_, q_head_, l, r); }

  const RecurrentInputs& in_;
  const RecurrentOptions& options_;
  std::int64_t b_, h_, q_head_, rows_, columns_;
  std::vector<double> state_;
};

}  // namespace

void recurrent(const RecurrentInputs& in, const Tensor& out, const Tensor& state,
               const RecurrentOptions& options) {
  constexpr Checker kCheck("recurrent");
  check_recurrent(in, options, kCheck);
  kCheck.output("out", out, in.v.shape, in.q.dtype);
  kCheck.output("state", state, state_shape(in, options), in.q.dtype);
  const bool ragged = !options.offsets.empty();
  for (std::int64_t s = 0; s < sequence_count(in.q.batch(), options.offsets); ++s) {
    const auto place = static_cast<std::size_t>(s);
    const std::int64_t b = ragged ? 0 : s;
    const std::int64_t begin = ragged ? options.offsets[place] : 0;
    const std::int64_t end = ragged ? options.offsets[place + 1] : in.q.length();
    for (std::int64_t h = 0; h < in.v.heads(); ++h) {
      Head head(in, options, b, s, h);
      for (std::int64_t l = begin; l < end; ++l) {
        const std::vector<double> y = head.token(l);
        for (std::int64_t c = 0; c < in.v.width() && !out.empty(); ++c)
          put(out, b, h, l, c, y[static_cast<std::size_t>(c)]);
      }
      for (std::int64_t r = 0; r < head.rows() && !state.empty(); ++r)
        for (std::int64_t c = 0; c < head.columns(); ++c) put(state, s, h, r, c, head.state(r, c));
    }
  }
}

}  // namespace attn::reference
