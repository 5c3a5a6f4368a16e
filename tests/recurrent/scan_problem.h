// Made inputs of the recurrences over single channels, with everything that is optional or nothing
// of it, and runs of them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "attn/reference_scan.h"
#include "attn/scan.h"

namespace attn::test {

// Numbers in [low, high), the same everywhere.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ULL + 1) {}
  double next(double low, double high) {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return low + (high - low) * static_cast<double>(state_ >> 40) / (1 << 24);
  }

 private:
  std::uint64_t state_;
};

// A tensor that owns its numbers.
template <class T>
struct Made {
  std::vector<T> x;
  Shape shape{};

  Made() = default;
  explicit Made(const Shape& s)
      : x(static_cast<std::size_t>(s[0] * s[1] * s[2] * s[3])), shape(s) {}
  Made(const Shape& s, Numbers& numbers, double low, double high) : Made(s) {
    for (T& number : x) number = static_cast<T>(numbers.next(low, high));
  }
  bool there() const { return shape[3] > 0; }
  Tensor view() { return there() ? Tensor(x.data(), shape) : Tensor(); }
  ConstTensor view() const { return there() ? ConstTensor(x.data(), shape) : ConstTensor(); }
  // Tokens [begin, end) of every batch entry; no copy.
  ConstTensor part(std::int64_t begin, std::int64_t end) const {
    if (!there()) return {};
    return {x.data() + begin * shape[3],
            {shape[0], shape[1], end - begin, shape[3]},
            strides_bhld(shape)};
  }
  Tensor part(std::int64_t begin, std::int64_t end) {
    return {x.data() + begin * shape[3],
            {shape[0], shape[1], end - begin, shape[3]},
            strides_bhld(shape)};
  }
};

struct ScanCase {
  std::int64_t batch, length, channels, states, groups;
  bool optional;  // skip, gate, bias, softplus and an initial state
  std::string name() const {
    return std::to_string(batch) + " x " + std::to_string(length) + " x " +
           std::to_string(channels) + ", " + std::to_string(states) + " states, " +
           std::to_string(groups) + " groups" + (optional ? ", all options" : "");
  }
};

template <class T>
struct ScanProblem {
  ScanCase shape;
  Made<T> u, delta, a, b, c, d, z, bias, state;
  ScanOptions options;

  explicit ScanProblem(const ScanCase& s, std::uint64_t seed = 1) : shape(s) {
    Numbers numbers(seed);
    const Shape rows{s.batch, 1, s.length, s.channels}, row{1, 1, 1, s.channels},
        mixed{s.batch, s.groups, s.length, s.states};
    u = {rows, numbers, -1, 1};
    delta = {rows, numbers, s.optional ? -3.0 : 0.01, s.optional ? 2.0 : 1.0};
    a = {{1, 1, s.states, s.channels}, numbers, -2, -0.01};
    b = {mixed, numbers, -1, 1};
    c = {mixed, numbers, -1, 1};
    if (!s.optional) return;
    options.softplus = true;
    d = {row, numbers, -1, 1};
    z = {rows, numbers, -3, 3};
    bias = {row, numbers, -1, 1};
    state = {{s.batch, 1, s.states, s.channels}, numbers, -1, 1};
  }
  ScanInputs inputs() const {
    return {u.view(), delta.view(), a.view(),    b.view(),    c.view(),
            d.view(), z.view(),     bias.view(), state.view()};
  }
  ScanInputs part(std::int64_t begin, std::int64_t end, ConstTensor from) const {
    return {u.part(begin, end),
            delta.part(begin, end),
            a.view(),
            b.part(begin, end),
            c.part(begin, end),
            d.view(),
            z.part(begin, end),
            bias.view(),
            from};
  }
};

// What a run leaves.
template <class T>
struct Results {
  Made<T> out, state;
  Made<double> elapsed;
};

template <class T>
Results<T> scan_of(const ScanProblem<T>& p, const Context* context) {
  const ScanCase& s = p.shape;
  const auto sequences =
      p.options.offsets.empty() ? s.batch : static_cast<std::int64_t>(p.options.offsets.size()) - 1;
  Results<T> r{Made<T>({s.batch, 1, s.length, s.channels}),
               Made<T>({sequences, 1, s.states, s.channels}),
               Made<double>({sequences, 1, 1, s.channels})};
  const ScanOutputs to{r.out.view(), r.state.view(), r.elapsed.view()};
  if (context != nullptr)
    selective_scan(p.inputs(), to, p.options, *context);
  else
    reference::selective_scan(p.inputs(), to, p.options);
  return r;
}

template <class T>
struct ConvolutionProblem {
  Made<T> x, weight, bias, state;
  ConvolutionOptions options;
  ConvolutionProblem(std::int64_t batch, std::int64_t length, std::int64_t channels,
                     std::int64_t width, bool optional) {
    Numbers numbers(2);
    x = {{batch, 1, length, channels}, numbers, -1, 1};
    weight = {{1, 1, width, channels}, numbers, -1, 1};
    if (!optional) return;
    options.silu = true;
    bias = {{1, 1, 1, channels}, numbers, -1, 1};
    state = {{batch, 1, width - 1, channels}, numbers, -1, 1};
  }
  ConvolutionInputs inputs() const { return {x.view(), weight.view(), bias.view(), state.view()}; }
};

template <class T>
Results<T> convolution_of(const ConvolutionProblem<T>& p, const Context* context) {
  const auto sequences = p.options.offsets.empty()
                             ? p.x.shape[0]
                             : static_cast<std::int64_t>(p.options.offsets.size()) - 1;
  Results<T> r{
      Made<T>(p.x.shape), Made<T>({sequences, 1, p.weight.shape[2] - 1, p.x.shape[3]}), {}};
  const ConvolutionOutputs to{r.out.view(), r.state.view()};
  if (context != nullptr)
    causal_convolution(p.inputs(), to, p.options, *context);
  else
    reference::causal_convolution(p.inputs(), to, p.options);
  return r;
}

template <class T>
struct Wkv4Problem {
  Made<T> k, v, decay, bonus, state;
  Wkv4Options options;
  Wkv4Problem(std::int64_t batch, std::int64_t length, std::int64_t channels, bool with_state) {
    Numbers numbers(3);
    k = {{batch, 1, length, channels}, numbers, -3, 3};
    v = {{batch, 1, length, channels}, numbers, -1, 1};
    decay = {{1, 1, 1, channels}, numbers, -2, -0.01};
    bonus = {{1, 1, 1, channels}, numbers, -2, 2};
    if (!with_state) return;
    state = {{batch, 1, 3, channels}, numbers, 0.5, 1.5};
  }
  Wkv4Inputs inputs() const {
    return {k.view(), v.view(), decay.view(), bonus.view(), state.view()};
  }
};

template <class T>
Results<T> wkv4_of(const Wkv4Problem<T>& p, const Context* context) {
  const auto sequences = p.options.offsets.empty()
                             ? p.k.shape[0]
                             : static_cast<std::int64_t>(p.options.offsets.size()) - 1;
  Results<T> r{Made<T>(p.k.shape), Made<T>({sequences, 1, 3, p.k.shape[3]}), {}};
  const Wkv4Outputs to{r.out.view(), r.state.view()};
  if (context != nullptr)
    wkv4(p.inputs(), to, p.options, *context);
  else
    reference::wkv4(p.inputs(), to, p.options);
  return r;
}

inline std::vector<ScanCase> scan_cases() {
  std::vector<ScanCase> cases;
  for (const bool optional : {false, true}) {
    for (const ScanCase& s : std::initializer_list<ScanCase>{{1, 0, 5, 3, 1, false},
                                                             {1, 1, 1, 1, 1, false},
                                                             {2, 7, 17, 16, 1, false},
                                                             {1, 33, 48, 16, 3, false},
                                                             {1, 41, 5, 257, 1, false},
                                                             {3, 20, 6, 4, 6, false},
                                                             {1, 129, 131, 1, 1, false},
                                                             {5, 1, 67, 9, 1, false},
                                                             {0, 4, 8, 2, 1, false}}) {
      cases.push_back(s);
      cases.back().optional = optional;
    }
  }
  return cases;
}

}  // namespace attn::test
