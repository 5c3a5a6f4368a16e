#include "measure/state_problem.h"

#include <cmath>

#include "attn/linear_attention.h"
#include "attn/mamba2.h"
#include "attn/recurrent.h"
#include "measure/buffer.h"

namespace attn::measuring {

namespace {

// What is common: queries, keys, values, outputs, their gradients, and the state that a step reads
// and writes.
class StateProblem : public Problem {
 public:
  // `key_heads` that all heads share; the state has `state_rows` of `state_columns`.
  StateProblem(const Workload& workload, const Context& context, std::int64_t key_heads,
               std::int64_t state_rows, std::int64_t state_columns)
      : context_(context), workload_(workload), shape_(workload.shape) {
    if (shape_.v_width == 0) shape_.v_width = shape_.width;
    const Shape keys{shape_.batch, key_heads, shape_.q_len, shape_.width};
    const Shape values{shape_.batch, shape_.q_heads, shape_.q_len, shape_.v_width};
    q_ = Buffer::random(shape_.dtype, keys, 1);
    k_ = Buffer::random(shape_.dtype, keys, 2);
    v_ = Buffer::random(shape_.dtype, values, 3);
    out_ = Buffer(shape_.dtype, values);
    state_rows_ = state_rows;
    if (workload.decode) {
      state_ = Buffer(shape_.dtype, {shape_.batch, shape_.q_heads, state_rows, state_columns});
    }
    if (workload.backward) {
      d_out_ = Buffer::random(shape_.dtype, values, 4);
      d_q_ = Buffer(shape_.dtype, keys);
      d_k_ = Buffer(shape_.dtype, keys);
      d_v_ = Buffer(shape_.dtype, values);
    }
  }

  double flops() const override {
    const double tokens = static_cast<double>(shape_.batch * shape_.q_heads * shape_.q_len);
    if (workload_.decode) return tokens * static_cast<double>(4 * state_rows_ * shape_.v_width);
    return tokens * chunked_flops(state_rows_, shape_.v_width) * (workload_.backward ? 2.5 : 1);
  }
  double bytes() const override {
    if (workload_.decode) return 2 * state_.bytes();
    double bytes = 0;
    for (const Buffer* b : {&q_, &k_, &v_, &out_, &d_out_, &d_q_, &d_k_, &d_v_}) {
      bytes += b->bytes();
    }
    return bytes;
  }
  void run() final { workload_.backward ? backward() : forward(); }

 protected:
  virtual void forward() = 0;
  virtual void backward() = 0;
  Tensor state() const { return workload_.decode ? state_.view() : Tensor(); }
  bool backward_wanted() const { return workload_.backward; }

  Context context_;
  Workload workload_;
  AttentionShape shape_;
  Buffer q_, k_, v_, out_, state_, d_out_, d_q_, d_k_, d_v_;
  std::int64_t state_rows_ = 0;
};

class MatrixState : public StateProblem {
 public:
  MatrixState(const Gates& gates, const Workload& workload, const Context& context)
      : StateProblem(workload, context, workload.shape.q_heads, workload.shape.width,
                     workload.shape.v_width > 0 ? workload.shape.v_width : workload.shape.width) {
    const AttentionShape& s = shape_;
    make_decay(gates.decay);
    if (gates.bonus) bonus_ = Buffer::random(s.dtype, {1, s.q_heads, 1, s.width}, 6);
    if (gates.delta) {
      options_.rule = StateRule::delta;
      beta_ = drawn(s.dtype, {s.batch, s.q_heads, s.q_len, 1}, 7,
                    [](double x) { return between(x, 0.05, 0.95); });
      s.dtype == DType::f64 ? normalise<double>(k_) : normalise<float>(k_);
    }
    if (gates.rank_one) s.dtype == DType::f64 ? make_rank_one<double>() : make_rank_one<float>();
    inputs_ = {.q = q_.view(), .k = k_.view(), .v = v_.view(), .state = state()};
    if (gates.decay != Decay::none) inputs_.log_decay = decay_.view();
    if (gates.bonus) inputs_.bonus = bonus_.view();
    if (gates.delta) inputs_.beta = beta_.view();
    if (gates.rank_one) inputs_.a = a_.view(), inputs_.b = b_.view();
    if (backward_wanted()) make_gradients(gates);
  }

 private:
  // As in the models: RetNet's heads; GLA's sigmoid(x)^(1/16); RWKV's exp(-exp(x)), here above
  // RWKV-7's least, exp(-exp(-1/2)).
  void make_decay(Decay decay) {
    const AttentionShape& s = shape_;
    if (decay == Decay::none) return;
    if (decay == Decay::head) {
      std::int64_t head = 0;
      decay_ = drawn(s.dtype, {1, s.q_heads, 1, 1}, 5, [&](double) {
        return std::log1p(-std::exp2(-5 - static_cast<double>(head++)));
      });
      return;
    }
    const bool by_token = decay != Decay::channel, by_channel = decay != Decay::token;
    decay_ =
        drawn(s.dtype,
              {by_token ? s.batch : 1, s.q_heads, by_token ? s.q_len : 1, by_channel ? s.width : 1},
              5, [](double x) { return -std::exp(between(x, -6, -1)); });
  }

  // Every row to length 1.
  template <class T>
  void normalise(const Buffer& rows) const {
    T* x = static_cast<T*>(rows.view().data);
    const std::int64_t width = shape_.width;
    for (std::int64_t row = 0; row < elements(rows.view().shape) / width; ++row, x += width) {
      T sum = 0;
      for (std::int64_t c = 0; c < width; ++c) sum += x[c] * x[c];
      for (std::int64_t c = 0; c < width; ++c) x[c] /= std::sqrt(sum);
    }
  }

  template <class T>
  void make_rank_one() {
    const Shape keys = k_.view().shape;
    b_ = Buffer::random(shape_.dtype, keys, 8);
    normalise<T>(b_);
    const T* b = static_cast<const T*>(b_.view().data);
    a_ = drawn(shape_.dtype, keys, 9,
               [&](double x) { return -between(x, 0.05, 0.95) * static_cast<double>(*b++); });
  }

  void make_gradients(const Gates& gates) {
    gradients_ = {.q = d_q_.view(), .k = d_k_.view(), .v = d_v_.view()};
    const auto like = [&](Buffer& to, const ConstTensor& from) {
      to = Buffer(shape_.dtype, from.shape);
      return to.view();
    };
    if (gates.decay != Decay::none) gradients_.log_decay = like(d_decay_, inputs_.log_decay);
    if (gates.bonus) gradients_.bonus = like(d_bonus_, inputs_.bonus);
    if (gates.delta) gradients_.beta = like(d_beta_, inputs_.beta);
    if (gates.rank_one) {
      gradients_.a = like(d_a_, inputs_.a);
      gradients_.b = like(d_b_, inputs_.b);
    }
  }

  void forward() override { recurrent(inputs_, out_.view(), state(), options_, context_); }
  void backward() override {
    recurrent_backward(inputs_, d_out_.view(), {}, gradients_, options_, context_);
  }

  RecurrentOptions options_;
  RecurrentInputs inputs_;
  RecurrentGradients gradients_;
  Buffer decay_, bonus_, beta_, a_, b_, d_decay_, d_bonus_, d_beta_, d_a_, d_b_;
};

class Linear : public StateProblem {
 public:
  Linear(const LinearAttentionOptions& options, const Workload& workload, const Context& context)
      : StateProblem(
            workload, context, workload.shape.q_heads,
            options.random ? options.random->count() : workload.shape.width,
            (workload.shape.v_width > 0 ? workload.shape.v_width : workload.shape.width) + 1),
        options_(options) {
    if (options.random && workload.decode) {
      log_scale_ =
          drawn(shape_.dtype, {shape_.batch, shape_.q_heads, 1, 1}, 5, [](double) { return 0; });
    }
  }

  // With FAVOR+ also the features of queries and keys.
  double flops() const override {
    if (!options_.random) return StateProblem::flops();
    const double features = 4.0 * static_cast<double>(shape_.width * options_.random->count()) *
                            static_cast<double>(shape_.batch * shape_.q_heads * shape_.q_len);
    return StateProblem::flops() + features * (workload_.backward ? 2.5 : 1);
  }

 private:
  void forward() override {
    LinearState state;
    if (workload_.decode) state.sums = state_.view();
    if (workload_.decode && options_.random) state.log_scale = log_scale_.view();
    linear_attention(q_.view(), k_.view(), v_.view(), out_.view(), options_, state, context_);
  }
  void backward() override {
    linear_attention_backward(q_.view(), k_.view(), v_.view(), d_out_.view(), d_q_.view(),
                              d_k_.view(), d_v_.view(), options_, context_);
  }

  LinearAttentionOptions options_;
  Buffer log_scale_;
};

class Mamba2State : public StateProblem {
 public:
  Mamba2State(const Workload& workload, const Context& context)
      : StateProblem(workload, context, 1, workload.shape.width,
                     workload.shape.v_width > 0 ? workload.shape.v_width : workload.shape.width) {
    const AttentionShape& s = shape_;
    const Shape heads{1, s.q_heads, 1, 1};
    // As initialised: a in [-16, -1], softplus(dt) in [0.001, 0.1].
    a_ = drawn(s.dtype, heads, 5, [](double x) { return -between(x, 1, 16); });
    dt_ = drawn(s.dtype, {s.batch, s.q_heads, s.q_len, 1}, 6, [](double x) {
      return std::log(std::expm1(std::exp(between(x, std::log(1e-3), std::log(0.1)))));
    });
    skip_ = Buffer::random(s.dtype, heads, 7);
    bias_ = Buffer(s.dtype, heads);
    if (!backward_wanted()) return;
    d_a_ = Buffer(s.dtype, heads);
    d_skip_ = Buffer(s.dtype, heads);
    d_bias_ = Buffer(s.dtype, heads);
    d_dt_ = Buffer(s.dtype, {s.batch, s.q_heads, s.q_len, 1});
  }

 private:
  Mamba2Inputs inputs() const {
    return {.x = v_.view(),
            .dt = dt_.view(),
            .a = a_.view(),
            .b = k_.view(),
            .c = q_.view(),
            .d = skip_.view(),
            .dt_bias = bias_.view(),
            .state = state()};
  }
  void forward() override { mamba2(inputs(), out_.view(), state(), {}, context_); }
  void backward() override {
    mamba2_backward(inputs(), d_out_.view(), {},
                    {.x = d_v_.view(),
                     .dt = d_dt_.view(),
                     .a = d_a_.view(),
                     .b = d_k_.view(),
                     .c = d_q_.view(),
                     .d = d_skip_.view(),
                     .dt_bias = d_bias_.view()},
                    {}, context_);
  }

  Buffer a_, dt_, skip_, bias_, d_a_, d_dt_, d_skip_, d_bias_;
};

}  // namespace

double chunked_flops(std::int64_t width, std::int64_t v_width) {
  constexpr std::int64_t kChunk = 64;
  return static_cast<double>(4 * width * v_width + kChunk * (width + v_width));
}

std::unique_ptr<Problem> matrix_state(const Gates& gates, const Workload& workload,
                                      const Context& context) {
  return std::make_unique<MatrixState>(gates, workload, context);
}

std::unique_ptr<Problem> linear_elu(const Workload& workload, const Context& context) {
  return std::make_unique<Linear>(LinearAttentionOptions(), workload, context);
}

std::unique_ptr<Problem> linear_favor(std::int64_t features, const Workload& workload,
                                      const Context& context) {
  LinearAttentionOptions options;
  options.map = FeatureMap::favor;
  options.random =
      std::make_shared<const RandomFeatures>(workload.shape.width, features, std::uint64_t{1});
  return std::make_unique<Linear>(options, workload, context);
}

std::unique_ptr<Problem> mamba2_state(const Workload& workload, const Context& context) {
  return std::make_unique<Mamba2State>(workload, context);
}

}  // namespace attn::measuring
