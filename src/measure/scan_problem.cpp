#include "measure/scan_problem.h"

#include <cmath>

#include "attn/scan.h"
#include "measure/buffer.h"

namespace attn::measuring {

namespace {

class ScanProblem : public Problem {
 public:
  ScanProblem(const Workload& workload, const Context& context, double flops)
      : context_(context), workload_(workload), dtype_(workload.shape.dtype), flops_(flops) {
    const AttentionShape& s = workload.shape;
    const std::int64_t width = s.v_width > 0 ? s.v_width : s.width;
    tokens_ = {s.batch, 1, s.q_len, s.q_heads * width};
    v_ = Buffer::random(dtype_, tokens_, 1);
    out_ = Buffer(dtype_, tokens_);
    if (!workload.backward) return;
    d_out_ = Buffer::random(dtype_, tokens_, 2);
    d_v_ = Buffer(dtype_, tokens_);
  }

  double flops() const override {
    return flops_ * static_cast<double>(elements(tokens_)) * (workload_.backward ? 2.5 : 1);
  }
  double bytes() const override {
    if (workload_.decode) return 2 * state_.bytes();
    return v_.bytes() + out_.bytes() + d_out_.bytes() + d_v_.bytes();
  }
  void run() final { workload_.backward ? backward() : forward(); }

 protected:
  virtual void forward() = 0;
  virtual void backward() = 0;
  Buffer channels(std::int64_t rows = 1) const { return Buffer(dtype_, {1, 1, rows, tokens_[3]}); }
  void make_state(std::int64_t rows) {
    if (workload_.decode) state_ = Buffer(dtype_, {tokens_[0], 1, rows, tokens_[3]});
  }
  Tensor state() const { return workload_.decode ? state_.view() : Tensor(); }

  Context context_;
  Workload workload_;
  DType dtype_;
  Shape tokens_{};  // [B, 1, L, channels]
  Buffer v_, out_, state_, d_out_, d_v_;

 private:
  double flops_;
};

class Scan : public ScanProblem {
 public:
  Scan(const Workload& workload, const Context& context)
      : ScanProblem(workload, context, kScanFlops) {
    const Shape group{tokens_[0], 1, tokens_[2], kScanStates};
    const Shape one{1, 1, 1, tokens_[3]};
    // As initialised: a = -1 ... -16, softplus(delta) in [0.001, 0.1].
    delta_ = drawn(dtype_, tokens_, 3, [](double x) {
      return std::log(std::expm1(std::exp(between(x, std::log(1e-3), std::log(0.1)))));
    });
    std::int64_t number = 0;
    a_ = drawn(dtype_, {1, 1, kScanStates, tokens_[3]}, 4,
               [&](double) { return -1.0 - static_cast<double>(number++ / tokens_[3]); });
    b_ = Buffer::random(dtype_, group, 5);
    c_ = Buffer::random(dtype_, group, 6);
    skip_ = Buffer::random(dtype_, one, 7);
    gate_ = Buffer::random(dtype_, tokens_, 8);
    make_state(kScanStates);
    if (!workload.backward) return;
    d_delta_ = Buffer(dtype_, tokens_);
    d_a_ = channels(kScanStates);
    d_b_ = Buffer(dtype_, group);
    d_c_ = Buffer(dtype_, group);
    d_skip_ = channels();
    d_gate_ = Buffer(dtype_, tokens_);
  }

 private:
  ScanInputs inputs() const {
    return {.u = v_.view(),
            .delta = delta_.view(),
            .a = a_.view(),
            .b = b_.view(),
            .c = c_.view(),
            .d = skip_.view(),
            .z = gate_.view(),
            .state = state()};
  }
  void forward() override {
    selective_scan(inputs(), {.out = out_.view(), .state = state()}, {.softplus = true}, context_);
  }
  void backward() override {
    selective_scan_backward(inputs(), {.out = d_out_.view()},
                            {.u = d_v_.view(),
                             .delta = d_delta_.view(),
                             .a = d_a_.view(),
                             .b = d_b_.view(),
                             .c = d_c_.view(),
                             .d = d_skip_.view(),
                             .z = d_gate_.view()},
                            {.softplus = true}, context_);
  }

  Buffer delta_, a_, b_, c_, skip_, gate_, d_delta_, d_a_, d_b_, d_c_, d_skip_, d_gate_;
};

class Rwkv4 : public ScanProblem {
 public:
  Rwkv4(const Workload& workload, const Context& context)
      : ScanProblem(workload, context, kRwkv4Flops) {
    const Shape one{1, 1, 1, tokens_[3]};
    k_ = Buffer::random(dtype_, tokens_, 3);
    decay_ = drawn(dtype_, one, 4, [](double x) { return -std::exp(between(x, -6, -1)); });
    bonus_ = Buffer::random(dtype_, one, 5);
    make_state(3);
    if (!workload.backward) return;
    d_k_ = Buffer(dtype_, tokens_);
    d_decay_ = channels();
    d_bonus_ = channels();
  }

 private:
  Wkv4Inputs inputs() const {
    return {.k = k_.view(),
            .v = v_.view(),
            .decay = decay_.view(),
            .bonus = bonus_.view(),
            .state = state()};
  }
  void forward() override { wkv4(inputs(), {.out = out_.view(), .state = state()}, {}, context_); }
  void backward() override {
    wkv4_backward(
        inputs(), {.out = d_out_.view()},
        {.k = d_k_.view(), .v = d_v_.view(), .decay = d_decay_.view(), .bonus = d_bonus_.view()},
        {}, context_);
  }

  Buffer k_, decay_, bonus_, d_k_, d_decay_, d_bonus_;
};

}  // namespace

std::unique_ptr<Problem> mamba_scan(const Workload& workload, const Context& context) {
  return std::make_unique<Scan>(workload, context);
}

std::unique_ptr<Problem> rwkv4_mean(const Workload& workload, const Context& context) {
  return std::make_unique<Rwkv4>(workload, context);
}

}  // namespace attn::measuring
