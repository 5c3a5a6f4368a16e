// attn.causal_convolution, attn.selective_scan, attn.wkv4.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <stdexcept>
#include <tuple>

#include "attn/scan.h"
#include "bindings.h"

namespace attn::python {

using namespace nb::literals;

namespace {

using Pair = std::tuple<nb::any, nb::any>;

// An array of exactly `dimensions`; None gives an empty view.
Input import_exactly(nb::handle object, const char* what, std::size_t dimensions,
                     const char* meaning) {
  if (object.is_none()) return {};
  Input input = import_broadcast(object, what);
  if (input.array.ndim() != dimensions) {
    throw std::invalid_argument(std::string(what) + " has " + std::to_string(input.array.ndim()) +
                                " dimensions, must have " + std::to_string(dimensions) + ": " +
                                meaning);
  }
  return input;
}
// [batch, length, width] as [batch, 1, length, width].
Input import_rows(nb::handle object, const char* what) {
  Input input = import_exactly(object, what, 3, "[batch, length, width]");
  if (object.is_none()) return input;
  ConstTensor& x = input.view;
  x = {x.data,
       x.dtype,
       {x.shape[1], 1, x.shape[2], x.shape[3]},
       {x.strides[1], 0, x.strides[2], x.strides[3]}};
  return input;
}
// [batch, length, states], or [batch, length, groups, states] as [batch, groups, length, states].
Input import_mixed(nb::handle object, const char* what) {
  Input input = import_broadcast(object, what);
  if (input.array.ndim() == 3) return import_rows(object, what);
  if (input.array.ndim() != 4) {
    throw std::invalid_argument(std::string(what) +
                                " must have 3 dimensions, [batch, length, states], or 4: [batch, "
                                "length, groups, states]");
  }
  std::swap(input.view.shape[1], input.view.shape[2]);
  std::swap(input.view.strides[1], input.view.strides[2]);
  return input;
}
Input import_channels(nb::handle object, const char* what) {
  return import_exactly(object, what, 1, "[channels]");
}

// A place for [batch, length, width], seen as [batch, 1, length, width].
Output new_rows(Kind kind, DType type, std::int64_t batch, std::int64_t length,
                std::int64_t width) {
  Output out = new_output(kind, type, {batch, length, width});
  const Shape shape{batch, 1, length, width};
  out.view.shape = shape;
  out.view.strides = strides_bhld(shape);
  return out;
}

// Sequences of a call, for the size of its final state.
std::int64_t sequences(const ConstTensor& x, const std::vector<std::int64_t>& offsets) {
  return offsets.empty() ? x.batch() : static_cast<std::int64_t>(offsets.size()) - 1;
}

Pair pair_of(const Output& out, const Output& state) {
  return {nb::borrow<nb::any>(out.object()), nb::borrow<nb::any>(state.object())};
}

Pair convolution(nb::handle x, nb::handle weight, nb::handle bias, nb::handle state, bool silu,
                 nb::handle offsets, int threads, const std::string& isa) {
  const Input xi = import_rows(x, "[causal_convolution] x");
  const Input wi = import_exactly(weight, "[causal_convolution] weight", 2, "[width, channels]");
  const Input bi = import_channels(bias, "[causal_convolution] bias");
  const Input si = import_rows(state, "[causal_convolution] state");
  const ConvolutionOptions options{
      .silu = silu, .offsets = import_integers(offsets, "[causal_convolution] offsets")};
  const ConstTensor& v = xi.view;
  const std::int64_t before = std::max<std::int64_t>(0, wi.view.length() - 1);
  const Output out = new_rows(kind_of(x), v.dtype, v.batch(), v.length(), v.width());
  const Output last =
      new_rows(kind_of(x), v.dtype, sequences(v, options.offsets), before, v.width());
  const Context& where = context(threads, isa);
  {
    nb::gil_scoped_release release;
    causal_convolution({v, wi.view, bi.view, si.view}, {out.view, last.view}, options, where);
  }
  return pair_of(out, last);
}

Pair scan(nb::handle u, nb::handle delta, nb::handle a, nb::handle b, nb::handle c, nb::handle d,
          nb::handle z, nb::handle delta_bias, nb::handle state, bool softplus, nb::handle offsets,
          int threads, const std::string& isa) {
  const Input ui = import_rows(u, "[selective_scan] u"),
              di = import_rows(delta, "[selective_scan] delta"),
              ai = import_exactly(a, "[selective_scan] a", 2, "[states, channels]"),
              bi = import_mixed(b, "[selective_scan] b"),
              ci = import_mixed(c, "[selective_scan] c"),
              skip = import_channels(d, "[selective_scan] d"),
              zi = import_rows(z, "[selective_scan] z"),
              bias = import_channels(delta_bias, "[selective_scan] delta_bias"),
              si = import_rows(state, "[selective_scan] state");
  const ScanOptions options{.softplus = softplus,
                            .offsets = import_integers(offsets, "[selective_scan] offsets")};
  const ConstTensor& v = ui.view;
  const Output out = new_rows(kind_of(u), v.dtype, v.batch(), v.length(), v.width());
  const Output last =
      new_rows(kind_of(u), v.dtype, sequences(v, options.offsets), ai.view.length(), v.width());
  const Context& where = context(threads, isa);
  {
    nb::gil_scoped_release release;
    selective_scan({v, di.view, ai.view, bi.view, ci.view, skip.view, zi.view, bias.view, si.view},
                   {.out = out.view, .state = last.view}, options, where);
  }
  return pair_of(out, last);
}

Pair weighted_mean(nb::handle k, nb::handle v, nb::handle decay, nb::handle bonus, nb::handle state,
                   nb::handle offsets, int threads, const std::string& isa) {
  const Input ki = import_rows(k, "[wkv4] k"), vi = import_rows(v, "[wkv4] v"),
              di = import_channels(decay, "[wkv4] decay"),
              bi = import_channels(bonus, "[wkv4] bonus"), si = import_rows(state, "[wkv4] state");
  const Wkv4Options options{.offsets = import_integers(offsets, "[wkv4] offsets")};
  const ConstTensor& x = ki.view;
  const Output out = new_rows(kind_of(k), x.dtype, x.batch(), x.length(), x.width());
  const Output last = new_rows(kind_of(k), x.dtype, sequences(x, options.offsets), 3, x.width());
  const Context& where = context(threads, isa);
  {
    nb::gil_scoped_release release;
    wkv4({x, vi.view, di.view, bi.view, si.view}, {out.view, last.view}, options, where);
  }
  return pair_of(out, last);
}

}  // namespace

void bind_scans(nb::module_& m) {
  m.def("causal_convolution", &convolution, "x"_a, "weight"_a, "bias"_a = nb::none(),
        "state"_a = nb::none(), nb::kw_only(), "silu"_a = false, "offsets"_a = nb::none(),
        "threads"_a = 0, "isa"_a = "automatic",
        R"(Mamba's causal depthwise convolution of x [batch, length, channels].

weight [width, channels] (the transpose of a model's conv1d.weight[:, 0]), its last row for the token
itself; bias [channels]; silu: applied to the sums. Returns (out, state): give the state, the last
width - 1 inputs [sequences, width - 1, channels], to the call that continues. offsets: where
sequences begin and end within a batch of 1. float32, or float64 throughout.)");
  m.def(
      "selective_scan", &scan, "u"_a, "delta"_a, "a"_a, "b"_a, "c"_a, "d"_a = nb::none(),
      "z"_a = nb::none(), "delta_bias"_a = nb::none(), "state"_a = nb::none(), nb::kw_only(),
      "softplus"_a = false, "offsets"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
      R"(Mamba's selective scan (arXiv 2312.00752): h = exp(delta a) h + delta b u, out = c h + d u.

u, delta and the gate z [batch, length, channels]; a [states, channels], the transpose of the paper's
A; b and c [batch, length, states], or [batch, length, groups, states]; d and delta_bias [channels].
softplus: of delta + delta_bias. z: out is multiplied by z sigmoid(z). Returns (out, state): give the
state [sequences, states, channels] to the call that continues. offsets: where sequences begin and
end within a batch of 1. float32, or float64 throughout.)");
  m.def("wkv4", &weighted_mean, "k"_a, "v"_a, "decay"_a, "bonus"_a, "state"_a = nb::none(),
        nb::kw_only(), "offsets"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(RWKV-4's weighted mean (arXiv 2305.13048) of v, by weights exp(k) that decay.

k, v [batch, length, channels]; decay [channels], at most 0 (a model's -exp(time_decay)); bonus
[channels], of the current token (time_first). Returns (out, state): give the state, rows p, q, o
[sequences, 3, channels], to the call that continues. offsets: where sequences begin and end within
a batch of 1. float32, or float64 throughout.)");
}

}  // namespace attn::python
