#include "base/check_scan.h"

#include <initializer_list>

namespace attn {

namespace {

constexpr std::int64_t kLeastWidth = 2, kLargestWidth = 8;

// Something that is read.
struct Read {
  const char* name;
  const ConstTensor& x;
  Shape shape;
  bool needed = true;
};

// Something that is written; it may be the memory of what is read as `over`.
struct Written {
  const char* name;
  const Tensor& x;
  Shape shape;
  const ConstTensor* over = nullptr;
};

void check_read(const Checker& check, DType type, std::initializer_list<Read> all) {
  for (const Read& read : all) {
    if (!read.needed && read.x.empty()) continue;
    check.shape(read.name, read.x, read.shape);
    check.dtype(read.name, read.x, type);
    check.view(read.name, read.x);
  }
}

bool same_view(const ConstTensor& a, const ConstTensor& b) {
  return a.data == b.data && a.shape == b.shape && a.strides == b.strides;
}

void check_written(const Checker& check, DType type, std::initializer_list<Written> all,
                   std::initializer_list<Read> inputs) {
  for (const Written& written : all) {
    check.output(written.name, written.x, written.shape, type);
    for (const Read& read : inputs) {
      if (written.over == &read.x && same_view(written.x, read.x)) continue;
      check.apart(written.name, written.x, read.name, read.x);
    }
  }
}

void check_there(const Checker& check, const Tensor& out, const ConstTensor& x) {
  if (out.empty() && x.size() > 0) check.fail("out has no data");
}

// [B, 1, L, channels] of float32 or float64.
void check_rows(const Checker& check, const char* name, const ConstTensor& x) {
  check.view(name, x);
  if (x.dtype != DType::f32 && x.dtype != DType::f64)
    check.fail(std::string(name) + " is " + attn::name(x.dtype) + ", must be float32 or float64");
  if (x.heads() != 1) check.shape(name, x, {x.batch(), 1, x.length(), x.width()});
}

Shape of_channels(const ConstTensor& x) { return {1, 1, 1, x.width()}; }

}  // namespace

std::vector<Stretch> sequences_of(const Checker& check, const ConstTensor& x,
                                  const std::vector<std::int64_t>& offsets) {
  std::vector<Stretch> all;
  if (offsets.empty()) {
    for (std::int64_t b = 0; b < x.batch(); ++b) all.push_back({b, 0, x.length()});
    return all;
  }
  if (x.batch() != 1)
    check.fail("offsets need a batch of 1, which is " + text(x.batch()) + " here");
  if (offsets.front() != 0 || offsets.back() != x.length()) {
    check.fail("offsets go from " + text(offsets.front()) + " to " + text(offsets.back()) +
               ", must go from 0 to the length " + text(x.length()));
  }
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    if (offsets[i] > offsets[i + 1]) {
      check.fail("offsets descend from " + text(offsets[i]) + " to " + text(offsets[i + 1]));
    }
    all.push_back({0, offsets[i], offsets[i + 1] - offsets[i]});
  }
  return all;
}

// --- Convolution --------------------------------------------------------------------------------

std::vector<Stretch> check_convolution(const Checker& check, const ConvolutionInputs& in,
                                       const ConvolutionOptions& options) {
  check_rows(check, "x", in.x);
  const std::int64_t width = in.weight.length();
  if (width < kLeastWidth || width > kLargestWidth) {
    check.fail("weight has width " + text(width) + ", must be " + text(kLeastWidth) + " to " +
               text(kLargestWidth));
  }
  std::vector<Stretch> sequences = sequences_of(check, in.x, options.offsets);
  const auto count = static_cast<std::int64_t>(sequences.size());
  check_read(check, in.x.dtype,
             {{"weight", in.weight, {1, 1, width, in.x.width()}},
              {"bias", in.bias, of_channels(in.x), false},
              {"state", in.state, {count, 1, width - 1, in.x.width()}, false}});
  return sequences;
}

void check_outputs(const Checker& check, const ConvolutionInputs& in,
                   const ConvolutionOutputs& outputs, std::int64_t sequences) {
  const Shape state{sequences, 1, in.weight.length() - 1, in.x.width()};
  check_there(check, outputs.out, in.x);
  check_written(
      check, in.x.dtype,
      {{"out", outputs.out, in.x.shape}, {"the final state", outputs.state, state, &in.state}},
      {{"x", in.x, {}}, {"weight", in.weight, {}}, {"bias", in.bias, {}}, {"state", in.state, {}}});
}

void check_gradients(const Checker& check, const ConvolutionInputs& in,
                     const ConvolutionOutputGradients& from, const ConvolutionGradients& to,
                     std::int64_t sequences) {
  const Shape state{sequences, 1, in.weight.length() - 1, in.x.width()};
  check_read(check, in.x.dtype,
             {{"d_out", from.out, in.x.shape, false}, {"d_state", from.state, state, false}});
  check_written(check, in.x.dtype,
                {{"the gradient of x", to.x, in.x.shape},
                 {"the gradient of weight", to.weight, in.weight.shape},
                 {"the gradient of bias", to.bias, of_channels(in.x)},
                 {"the gradient of state", to.state, state}},
                {{"x", in.x, {}},
                 {"weight", in.weight, {}},
                 {"bias", in.bias, {}},
                 {"state", in.state, {}},
                 {"d_out", from.out, {}},
                 {"d_state", from.state, {}}});
}

// --- Selective scan -----------------------------------------------------------------------------

std::vector<Stretch> check_scan(const Checker& check, const ScanInputs& in,
                                const ScanOptions& options) {
  check_rows(check, "u", in.u);
  const std::int64_t channels = in.u.width(), states = in.a.length(), groups = in.b.heads();
  if (states < 1) check.fail("a has " + text(states) + " states, must have at least 1");
  if (groups < 1 || channels % groups != 0) {
    check.fail("b has " + text(groups) + " groups, which do not divide " + text(channels) +
               " channels");
  }
  std::vector<Stretch> sequences = sequences_of(check, in.u, options.offsets);
  const auto count = static_cast<std::int64_t>(sequences.size());
  const Shape of_states{in.u.batch(), groups, in.u.length(), states};
  check_read(check, in.u.dtype,
             {{"delta", in.delta, in.u.shape},
              {"a", in.a, {1, 1, states, channels}},
              {"b", in.b, of_states},
              {"c", in.c, of_states},
              {"d", in.d, of_channels(in.u), false},
              {"z", in.z, in.u.shape, false},
              {"delta_bias", in.delta_bias, of_channels(in.u), false},
              {"state", in.state, {count, 1, states, channels}, false}});
  return sequences;
}

void check_outputs(const Checker& check, const ScanInputs& in, const ScanOutputs& outputs,
                   std::int64_t sequences) {
  const Shape state{sequences, 1, in.a.length(), in.u.width()};
  check_there(check, outputs.out, in.u);
  const std::initializer_list<Read> read = {
      {"u", in.u, {}},        {"delta", in.delta, {}},
      {"a", in.a, {}},        {"b", in.b, {}},
      {"c", in.c, {}},        {"d", in.d, {}},
      {"z", in.z, {}},        {"delta_bias", in.delta_bias, {}},
      {"state", in.state, {}}};
  check_written(
      check, in.u.dtype,
      {{"out", outputs.out, in.u.shape}, {"the final state", outputs.state, state, &in.state}},
      read);
  check_written(check, DType::f64, {{"elapsed", outputs.elapsed, {sequences, 1, 1, in.u.width()}}},
                read);
}

void check_gradients(const Checker& check, const ScanInputs& in, const ScanOutputGradients& from,
                     const ScanGradients& to, std::int64_t sequences) {
  const Shape state{sequences, 1, in.a.length(), in.u.width()};
  check_read(check, in.u.dtype,
             {{"d_out", from.out, in.u.shape, false}, {"d_state", from.state, state, false}});
  check_written(check, in.u.dtype,
                {{"the gradient of u", to.u, in.u.shape},
                 {"the gradient of delta", to.delta, in.u.shape},
                 {"the gradient of a", to.a, in.a.shape},
                 {"the gradient of b", to.b, in.b.shape},
                 {"the gradient of c", to.c, in.b.shape},
                 {"the gradient of d", to.d, of_channels(in.u)},
                 {"the gradient of z", to.z, in.u.shape},
                 {"the gradient of delta_bias", to.delta_bias, of_channels(in.u)},
                 {"the gradient of state", to.state, state}},
                {{"u", in.u, {}},
                 {"delta", in.delta, {}},
                 {"a", in.a, {}},
                 {"b", in.b, {}},
                 {"c", in.c, {}},
                 {"d", in.d, {}},
                 {"z", in.z, {}},
                 {"delta_bias", in.delta_bias, {}},
                 {"state", in.state, {}},
                 {"d_out", from.out, {}},
                 {"d_state", from.state, {}}});
  if (in.z.empty() && !to.z.empty()) check.fail("there is no z to have a gradient");
}

// --- RWKV-4 -------------------------------------------------------------------------------------

std::vector<Stretch> check_wkv4(const Checker& check, const Wkv4Inputs& in,
                                const Wkv4Options& options) {
  check_rows(check, "k", in.k);
  std::vector<Stretch> sequences = sequences_of(check, in.k, options.offsets);
  const auto count = static_cast<std::int64_t>(sequences.size());
  check_read(check, in.k.dtype,
             {{"v", in.v, in.k.shape},
              {"decay", in.decay, of_channels(in.k)},
              {"bonus", in.bonus, of_channels(in.k)},
              {"state", in.state, {count, 1, 3, in.k.width()}, false}});
  return sequences;
}

void check_outputs(const Checker& check, const Wkv4Inputs& in, const Wkv4Outputs& outputs,
                   std::int64_t sequences) {
  check_there(check, outputs.out, in.k);
  check_written(check, in.k.dtype,
                {{"out", outputs.out, in.k.shape},
                 {"the final state", outputs.state, {sequences, 1, 3, in.k.width()}, &in.state}},
                {{"k", in.k, {}},
                 {"v", in.v, {}},
                 {"decay", in.decay, {}},
                 {"bonus", in.bonus, {}},
                 {"state", in.state, {}}});
}

void check_gradients(const Checker& check, const Wkv4Inputs& in, const Wkv4OutputGradients& from,
                     const Wkv4Gradients& to, std::int64_t sequences) {
  const Shape state{sequences, 1, 3, in.k.width()};
  check_read(check, in.k.dtype,
             {{"d_out", from.out, in.k.shape, false}, {"d_state", from.state, state, false}});
  check_written(check, in.k.dtype,
                {{"the gradient of k", to.k, in.k.shape},
                 {"the gradient of v", to.v, in.k.shape},
                 {"the gradient of decay", to.decay, of_channels(in.k)},
                 {"the gradient of bonus", to.bonus, of_channels(in.k)},
                 {"the gradient of state", to.state, state}},
                {{"k", in.k, {}},
                 {"v", in.v, {}},
                 {"decay", in.decay, {}},
                 {"bonus", in.bonus, {}},
                 {"state", in.state, {}},
                 {"d_out", from.out, {}},
                 {"d_state", from.state, {}}});
}

}  // namespace attn
