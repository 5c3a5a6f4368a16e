// Against Mamba-1 and RWKV-4 as Transformers' plain PyTorch forms compute them
// (tools/golden_scan.py): the recurrences and their gradients in float64, and a layer of each.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "golden.h"
#include "recurrent/scan_problem.h"

namespace attn::test {
namespace {

constexpr std::int64_t kBatch = 2, kLength = 11, kChannels = 5, kStates = 3, kWidth = 4;
const Shape kRows{kBatch, 1, kLength, kChannels}, kRow{1, 1, 1, kChannels},
    kMixed{kBatch, 1, kLength, kStates}, kState{kBatch, 1, kStates, kChannels};

const Golden& golden() {
  static const Golden all("scan.txt");
  return all;
}

Made<double> kept(const std::string& name, const Shape& shape) {
  Made<double> made(shape);
  EXPECT_EQ(golden()[name].size(), made.x.size()) << name;
  made.x = golden()[name];
  return made;
}

// The file has ten digits.
void expect_golden(const Made<double>& got, const std::string& name, double bound = 2e-9) {
  const std::vector<double>& expected = golden()[name];
  ASSERT_EQ(got.x.size(), expected.size()) << name;
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(got.x[i], expected[i], bound * (1 + std::abs(expected[i]))) << name << " " << i;
}

TEST(ScanGolden, SelectiveScanAndItsGradients) {
  const auto u = kept("scan.u", kRows), delta = kept("scan.delta", kRows),
             a = kept("scan.a", {1, 1, kStates, kChannels}), b = kept("scan.b", kMixed),
             c = kept("scan.c", kMixed), d = kept("scan.d", kRow), z = kept("scan.z", kRows),
             bias = kept("scan.bias", kRow), d_out = kept("scan.d_out", kRows),
             d_state = kept("scan.d_state", kState);
  const ScanInputs in{u.view(), delta.view(), a.view(), b.view(),
                      c.view(), d.view(),     z.view(), bias.view()};
  Made<double> out(kRows), state(kState);
  reference::selective_scan(in, {out.view(), state.view()}, {.softplus = true});
  expect_golden(out, "scan.out");
  expect_golden(state, "scan.state");
  selective_scan(in, {out.view(), state.view()}, {.softplus = true});
  expect_golden(out, "scan.out");
  expect_golden(state, "scan.state");
  Made<double> du = u, ddelta = u, da = a, db = b, dc = b, dd = d, dz = u, dbias = d;
  selective_scan_backward(in, {d_out.view(), d_state.view()},
                          {du.view(), ddelta.view(), da.view(), db.view(), dc.view(), dd.view(),
                           dz.view(), dbias.view()},
                          {.softplus = true});
  // Transformers casts u and b to float32, hence gradients on their way too.
  expect_golden(du, "scan.gradient.u", 1e-7);
  expect_golden(ddelta, "scan.gradient.delta");
  expect_golden(da, "scan.gradient.a");
  expect_golden(db, "scan.gradient.b", 1e-7);
  expect_golden(dc, "scan.gradient.c");
  expect_golden(dd, "scan.gradient.d");
  expect_golden(dz, "scan.gradient.z");
  expect_golden(dbias, "scan.gradient.bias");
}

TEST(ScanGolden, CausalConvolutionAndItsGradients) {
  const auto x = kept("convolution.x", kRows),
             weight = kept("convolution.weight", {1, 1, kWidth, kChannels}),
             bias = kept("convolution.bias", kRow), d_out = kept("convolution.d_out", kRows);
  const ConvolutionInputs in{x.view(), weight.view(), bias.view()};
  Made<double> out(kRows), dx = x, dweight = weight, dbias = bias;
  causal_convolution(in, {out.view()}, {.silu = true});
  expect_golden(out, "convolution.out");
  causal_convolution_backward(in, {d_out.view()}, {dx.view(), dweight.view(), dbias.view()},
                              {.silu = true});
  expect_golden(dx, "convolution.gradient.x");
  expect_golden(dweight, "convolution.gradient.weight");
  expect_golden(dbias, "convolution.gradient.bias");
}

// Transformers casts keys and sums to float32.
TEST(ScanGolden, Wkv4AndItsGradients) {
  constexpr double kFloat32 = 1e-5;
  const auto k = kept("wkv4.k", kRows), v = kept("wkv4.v", kRows), decay = kept("wkv4.decay", kRow),
             bonus = kept("wkv4.bonus", kRow), d_out = kept("wkv4.d_out", kRows);
  const Wkv4Inputs in{k.view(), v.view(), decay.view(), bonus.view()};
  Made<double> out(kRows), state({kBatch, 1, 3, kChannels});
  wkv4(in, {out.view(), state.view()});
  expect_golden(out, "wkv4.out", kFloat32);
  expect_golden(state, "wkv4.state", kFloat32);
  Made<double> dk = k, dv = k, ddecay = decay, dbonus = decay;
  wkv4_backward(in, {d_out.view()}, {dk.view(), dv.view(), ddecay.view(), dbonus.view()});
  expect_golden(dk, "wkv4.gradient.k", kFloat32);
  expect_golden(dv, "wkv4.gradient.v", kFloat32);
  expect_golden(ddecay, "wkv4.gradient.decay", kFloat32);
  expect_golden(dbonus, "wkv4.gradient.bonus", kFloat32);
}

// x [rows][in] times the matrix [out][in] of a layer.
std::vector<double> times(const std::vector<double>& x, const std::string& matrix, std::size_t in) {
  const std::vector<double>& w = golden()[matrix];
  const std::size_t out = w.size() / in;
  std::vector<double> y(x.size() / in * out);
  for (std::size_t i = 0; i < y.size(); ++i) {
    for (std::size_t j = 0; j < in; ++j) y[i] += x[i / out * in + j] * w[i % out * in + j];
  }
  return y;
}
// Columns [begin, begin + count) of rows `width` wide.
Made<double> columns(const std::vector<double>& x, std::size_t width, std::size_t begin,
                     std::size_t count) {
  Made<double> made({1, 1, kLength, static_cast<std::int64_t>(count)});
  for (std::size_t i = 0; i < made.x.size(); ++i)
    made.x[i] = x[i / count * width + begin + i % count];
  return made;
}
std::vector<double> transposed(const std::vector<double>& x, std::size_t columns) {
  const std::size_t rows = x.size() / columns;
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i % columns * rows + i / columns] = x[i];
  return y;
}
Made<double> made_of(std::vector<double> x, const Shape& shape) {
  Made<double> made(shape);
  made.x = std::move(x);
  return made;
}

// The layer ran in float32.
TEST(ScanGolden, MambaLayer) {
  constexpr std::size_t kInner = 12, kRank = 2;
  const Shape rows{1, 1, kLength, kInner}, row{1, 1, 1, kInner};
  const std::vector<double> xz = times(golden()["mamba.x"], "mamba.in_proj.weight", 6);
  const Made<double> x = columns(xz, 2 * kInner, 0, kInner),
                     z = columns(xz, 2 * kInner, kInner, kInner),
                     weight = made_of(transposed(golden()["mamba.conv1d.weight"], kWidth),
                                      {1, 1, kWidth, kInner}),
                     bias = kept("mamba.conv1d.bias", row);
  Made<double> u(rows), out(rows), a({1, 1, kStates, kInner});
  causal_convolution({x.view(), weight.view(), bias.view()}, {u.view()}, {.silu = true});
  const std::vector<double> mixed = times(u.x, "mamba.x_proj.weight", kInner);
  constexpr std::size_t kAll = kRank + 2 * kStates;
  const Made<double> step = columns(mixed, kAll, 0, kRank),
                     b = columns(mixed, kAll, kRank, kStates),
                     c = columns(mixed, kAll, kRank + kStates, kStates),
                     delta = made_of(times(step.x, "mamba.dt_proj.weight", kRank), rows),
                     d = kept("mamba.D", row), delta_bias = kept("mamba.dt_proj.bias", row);
  a.x = transposed(golden()["mamba.A_log"], kStates);
  for (double& number : a.x) number = -std::exp(number);
  selective_scan(
      {u.view(), delta.view(), a.view(), b.view(), c.view(), d.view(), z.view(), delta_bias.view()},
      {out.view()}, {.softplus = true});
  expect_golden(made_of(times(out.x, "mamba.out_proj.weight", kInner), {1, 1, kLength, 6}),
                "mamba.out", 1e-5);
}

TEST(ScanGolden, Rwkv4Layer) {
  constexpr std::size_t kWide = 6, kInner = 8;
  const std::vector<double>& x = golden()["rwkv.x"];
  const auto projected = [&](const std::string& name) {
    const std::vector<double>& mix = golden()["rwkv.time_mix_" + name];
    std::vector<double> mixed(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double before = i < kWide ? 0 : x[i - kWide];
      mixed[i] = x[i] * mix[i % kWide] + before * (1 - mix[i % kWide]);
    }
    return times(mixed, "rwkv." + name + ".weight", kWide);
  };
  const Shape rows{1, 1, kLength, kInner}, row{1, 1, 1, kInner};
  const Made<double> k = made_of(projected("key"), rows), v = made_of(projected("value"), rows),
                     bonus = kept("rwkv.time_first", row);
  Made<double> decay = kept("rwkv.time_decay", row), out(rows);
  for (double& number : decay.x) number = -std::exp(number);
  wkv4({k.view(), v.view(), decay.view(), bonus.view()}, {out.view()});
  const std::vector<double> receptance = projected("receptance");
  for (std::size_t i = 0; i < out.x.size(); ++i) out.x[i] /= 1 + std::exp(-receptance[i]);
  expect_golden(made_of(times(out.x, "rwkv.output.weight", kInner), {1, 1, kLength, 6}), "rwkv.out",
                1e-5);
}

}  // namespace
}  // namespace attn::test
