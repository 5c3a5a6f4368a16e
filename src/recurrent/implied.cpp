#include "recurrent/implied.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/check_recurrent.h"
#include "base/check_scan.h"
#include "base/context_use.h"
#include "kernels/arena.h"
#include "recurrent/time_steps.h"

namespace attn {

namespace {

constexpr Checker kCheck("implied");

// Rows are filled up with zeros to whole vectors of any instruction set.
template <class T>
constexpr std::int64_t filled(std::int64_t width) {
  return kernels::round_up(width, 64 / static_cast<std::int64_t>(sizeof(T)));
}

// A copy of a tensor with a batch of 1, each number through `f`. What counts for all heads, or for
// all tokens, is there once.
template <class T>
class Copied {
 public:
  Copied() = default;
  template <class F>
  Copied(const ConstTensor& x, const F& f) {
    if (x.empty()) return;
    const std::int64_t width = filled<T>(x.width());
    data_.resize(static_cast<std::size_t>(x.heads() * x.length() * width));
    T* to = data_.data();
    for (std::int64_t h = 0; h < x.heads(); ++h) {
      for (std::int64_t l = 0; l < x.length(); ++l, to += width)
        std::transform(x.row<T>(0, h, l), x.row<T>(0, h, l) + x.width(), to, f);
    }
    token_ = x.length() > 1 ? width : 0;
    head_ = x.heads() > 1 ? x.length() * width : 0;
    heads_ = x.heads();
  }
  explicit Copied(const ConstTensor& x) : Copied(x, [](T value) { return value; }) {}

  // For one of `heads` heads, which share what is there.
  kernels::TokenRows of(std::int64_t head, std::int64_t heads) const {
    if (data_.empty()) return {};
    return {data_.data() + head / (heads / heads_) * head_, token_};
  }

 private:
  std::vector<T> data_;
  std::int64_t head_ = 0, token_ = 0, heads_ = 1;
};

template <class T>
struct StateImpl final : ImpliedAttention::Impl {
  std::size_t workspace_bytes(const kernels::ImpliedKernel& kernel, std::int64_t) const override {
    return kernel.state_bytes(width);
  }
  void rows(const kernels::ImpliedKernel& kernel, std::int64_t head, std::int64_t begin,
            std::int64_t count, void* out, std::int64_t stride, void* workspace) const override {
    const auto part = [&](const Copied<T>& x) { return x.of(head, heads); };
    kernels::ImpliedState state{.width = width,
                                .q = part(q),
                                .k = part(k),
                                .decay = part(decay),
                                .beta = part(beta),
                                .bonus = part(bonus),
                                .a = part(a),
                                .b = part(b),
                                .delta = delta};
    if (one_decay) state.decay.component = 0;
    kernel.state_rows(state, begin, count, out, stride, workspace);
  }

  std::int64_t width = 0;  // filled up
  bool delta = false, one_decay = false;
  Copied<T> q, k, decay, beta, bonus, a, b;
};

template <class T>
struct ScanImpl final : ImpliedAttention::Impl {
  std::size_t workspace_bytes(const kernels::ImpliedKernel& kernel,
                              std::int64_t count) const override {
    return kernel.scan_bytes(states, count);
  }
  void rows(const kernels::ImpliedKernel& kernel, std::int64_t, std::int64_t begin,
            std::int64_t count, void* out, std::int64_t stride, void* workspace) const override {
    for (std::int64_t g = 0; g < groups; ++g) {
      const kernels::ImpliedScan scan{.channels = channels,
                                      .states = states,
                                      .steps = steps.data() + g * tokens * channels,
                                      .a = a.data() + g * states * channels,
                                      .b = b.data() + g * tokens * states,
                                      .c = c.data() + g * tokens * states};
      kernel.scan_rows(scan, begin, count, out, stride, workspace);
    }
  }

  std::int64_t groups = 1, channels = 0, states = 0;  // channels of a group, filled up
  std::vector<T> steps, a;                            // [groups][tokens or states][channels]
  std::vector<T> b, c;                                // [groups][tokens][states]
};

void check_one_text(std::int64_t batch, const std::vector<std::int64_t>& offsets) {
  if (batch != 1 || !offsets.empty())
    kCheck.fail("inputs are of several texts; the attention of one is asked at a time");
}

template <class T>
std::shared_ptr<const ImpliedAttention::Impl> state_impl(const RecurrentInputs& in,
                                                         const RecurrentOptions& options) {
  auto impl = std::make_shared<StateImpl<T>>();
  impl->heads = in.v.heads();
  impl->tokens = in.q.length();
  impl->dtype = in.q.dtype;
  impl->width = filled<T>(in.q.width());
  impl->delta = options.rule == StateRule::delta;
  impl->one_decay = in.log_decay.width() == 1;
  impl->q = Copied<T>(in.q);
  impl->k = Copied<T>(in.k);
  impl->decay = Copied<T>(in.log_decay, [](T x) { return std::exp(x); });
  impl->beta = Copied<T>(in.beta);
  impl->bonus = Copied<T>(in.bonus);
  impl->a = Copied<T>(in.a);
  impl->b = Copied<T>(in.b);
  return impl;
}

template <class T>
std::shared_ptr<const ImpliedAttention::Impl> mamba2_impl(const Mamba2Inputs& in,
                                                          const Mamba2Options& options) {
  const Shape shape{1, in.x.heads(), in.x.length(), 1};
  const auto count = static_cast<std::size_t>(shape[1] * shape[2]);
  std::vector<T> steps(count), decays(count);
  for (std::int64_t h = 0; h < shape[1]; ++h) {
    TimeSteps<T>(in, options)
        .fill(0, h, 0, shape[2], decays.data() + h * shape[2], steps.data() + h * shape[2]);
  }
  RecurrentInputs to{.q = in.c, .k = in.b, .v = in.x};
  to.log_decay = {decays.data(), shape};
  to.beta = {steps.data(), shape};
  return state_impl<T>(to, {});
}

template <class T>
std::shared_ptr<const ImpliedAttention::Impl> scan_impl(const ScanInputs& in,
                                                        const ScanOptions& options) {
  auto impl = std::make_shared<ScanImpl<T>>();
  const std::int64_t groups = in.b.heads(), own = in.u.width() / groups, tokens = in.u.length(),
                     states = in.a.length(), channels = filled<T>(own);
  impl->tokens = tokens;
  impl->dtype = in.u.dtype;
  impl->groups = groups;
  impl->channels = channels;
  impl->states = states;
  impl->steps.resize(static_cast<std::size_t>(groups * tokens * channels));
  impl->a.resize(static_cast<std::size_t>(groups * states * channels));
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t l = 0; l < tokens; ++l) {
      const T* const from = in.delta.row<T>(0, 0, l) + g * own;
      T* const to = impl->steps.data() + (g * tokens + l) * channels;
      for (std::int64_t c = 0; c < own; ++c) {
        const T bias = in.delta_bias.empty() ? T(0) : in.delta_bias.row<T>(0, 0, 0)[g * own + c];
        to[c] = options.softplus ? softplus(from[c] + bias) : from[c] + bias;
      }
      impl->b.insert(impl->b.end(), in.b.row<T>(0, g, l), in.b.row<T>(0, g, l) + states);
      impl->c.insert(impl->c.end(), in.c.row<T>(0, g, l), in.c.row<T>(0, g, l) + states);
    }
    for (std::int64_t s = 0; s < states; ++s)
      std::copy_n(in.a.row<T>(0, 0, s) + g * own, own,
                  impl->a.data() + (g * states + s) * channels);
  }
  return impl;
}

// A mean over tokens with weights e^(k_j + decays) is a state with q_i = 1 / their sum and keys
// e^k. Both are taken times e^(the largest k of the channel), so that they are numbers.
template <class T>
std::shared_ptr<const ImpliedAttention::Impl> wkv4_impl(const Wkv4Inputs& in) {
  const std::int64_t channels = in.k.width(), tokens = in.k.length();
  const auto numbers = [](std::int64_t count) {
    return std::vector<double>(static_cast<std::size_t>(count));
  };
  std::vector<double> q = numbers(tokens * channels), k = numbers(tokens * channels),
                      decay = numbers(channels), bonus = numbers(channels);
  constexpr double kNothing = -1e300, kMost = 700;  // e^700 is a number
  for (std::int64_t c = 0; c < channels; ++c) {
    const double w = in.decay.row<T>(0, 0, 0)[c], u = in.bonus.row<T>(0, 0, 0)[c];
    decay[static_cast<std::size_t>(c)] = std::exp(w);
    bonus[static_cast<std::size_t>(c)] = std::exp(u);
    double largest = kNothing;
    for (std::int64_t l = 0; l < tokens; ++l)
      largest = std::max(largest, static_cast<double>(in.k.row<T>(0, 0, l)[c]));
    // ln(e^a + e^b)
    const auto sum = [](double a, double b) {
      return std::max(a, b) + std::log1p(std::exp(-std::abs(a - b)));
    };
    double past = kNothing;
    for (std::int64_t l = 0; l < tokens; ++l) {
      const double key = in.k.row<T>(0, 0, l)[c];
      const auto at = static_cast<std::size_t>(l * channels + c);
      q[at] = std::exp(std::min(kMost, largest - sum(past, u + key)));
      k[at] = std::exp(key - largest);
      past = sum(past + w, key);
    }
  }
  const Shape of_tokens{1, 1, tokens, channels}, of_all{1, 1, 1, channels};
  auto impl = std::make_shared<StateImpl<double>>();
  impl->tokens = tokens;
  impl->dtype = DType::f64;
  impl->width = filled<double>(channels);
  impl->q = Copied<double>(ConstTensor(q.data(), of_tokens));
  impl->k = Copied<double>(ConstTensor(k.data(), of_tokens));
  impl->decay = Copied<double>(ConstTensor(decay.data(), of_all));
  impl->bonus = Copied<double>(ConstTensor(bonus.data(), of_all));
  return impl;
}

}  // namespace

ImpliedAttention ImpliedAttention::of(const RecurrentInputs& in, const RecurrentOptions& options) {
  check_recurrent(in, options, kCheck);
  check_one_text(in.q.batch(), options.offsets);
  return ImpliedAttention(in.q.dtype == DType::f64 ? state_impl<double>(in, options)
                                                   : state_impl<float>(in, options));
}

ImpliedAttention ImpliedAttention::of(const Mamba2Inputs& in, const Mamba2Options& options) {
  check_mamba2(in, options, kCheck);
  check_one_text(in.x.batch(), options.offsets);
  return ImpliedAttention(in.x.dtype == DType::f64 ? mamba2_impl<double>(in, options)
                                                   : mamba2_impl<float>(in, options));
}

ImpliedAttention ImpliedAttention::of(const ScanInputs& in, const ScanOptions& options) {
  check_scan(kCheck, in, options);
  check_one_text(in.u.batch(), options.offsets);
  return ImpliedAttention(in.u.dtype == DType::f64 ? scan_impl<double>(in, options)
                                                   : scan_impl<float>(in, options));
}

ImpliedAttention ImpliedAttention::of(const Wkv4Inputs& in) {
  check_wkv4(kCheck, in, {});
  check_one_text(in.k.batch(), {});
  return ImpliedAttention(in.k.dtype == DType::f64 ? wkv4_impl<double>(in) : wkv4_impl<float>(in));
}

std::int64_t ImpliedAttention::heads() const { return impl_->heads; }
std::int64_t ImpliedAttention::tokens() const { return impl_->tokens; }

void ImpliedAttention::row(std::int64_t head, std::int64_t query, double* weights,
                           const Context& context) const {
  const auto outside = [](const char* what, std::int64_t value, std::int64_t limit) {
    if (value < 0 || value >= limit)
      kCheck.fail(std::string(what) + " is " + text(value) + ", there are " + text(limit));
  };
  outside("head", head, impl_->heads);
  outside("query", query, impl_->tokens);
  const ContextUse use(context);
  const kernels::ImpliedKernel& kernel = kernels::implied_kernel(context.isa(), impl_->dtype);
  const auto run = [&]<class T>(T) {
    std::vector<T> row(static_cast<std::size_t>(impl_->tokens));
    impl_->rows(kernel, head, query, 1, row.data(), impl_->tokens,
                context.workspace(0, impl_->workspace_bytes(kernel, 1)));
    const double sum = std::accumulate(row.begin(), row.end(), 0.0);
    std::transform(row.begin(), row.end(), weights,
                   [&](T x) { return sum != 0 ? static_cast<double>(x) / sum : 0; });
  };
  impl_->dtype == DType::f64 ? run(double()) : run(float());
}

}  // namespace attn
