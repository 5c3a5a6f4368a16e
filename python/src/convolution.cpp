// attn.causal_convolution with its gradients, the merging of its states, and the oracle.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>

#include "attn/reference_scan.h"
#include "attn/scan.h"
#include "bindings.h"
#include "gradients.h"
#include "scan_arrays.h"

namespace attn::python {

using namespace nb::literals;

namespace {

constexpr std::array kConvolutionInputs{"x", "weight", "bias", "state"};
using Gradients = NamedGradients<kConvolutionInputs>;

// The arguments that causal_convolution, its gradients and the oracle share.
struct Call {
  Input x, weight, bias, state;
  ConvolutionOptions options;

  Call(const std::string& function, nb::handle x_in, nb::handle weight_in, nb::handle bias_in,
       nb::handle state_in, bool silu, nb::handle offsets)
      : x(import_rows(x_in, function + " x")),
        weight(import_exactly(weight_in, function + " weight", 2, "[width, channels]")),
        bias(import_optional(import_channels, bias_in, function + " bias")),
        state(import_optional(import_rows, state_in, function + " state")),
        options{.silu = silu, .offsets = import_integers(offsets, function + " offsets")} {}

  ConvolutionInputs inputs() const {
    return {.x = x.view, .weight = weight.view, .bias = bias.view, .state = state.view};
  }
  std::vector<std::int64_t> of_state(bool asked = true) const {
    const std::int64_t before = std::max<std::int64_t>(0, weight.view.length() - 1);
    return state_dimensions(x.view, options.offsets, before, asked);
  }
};

nb::any run(nb::handle x, nb::handle weight, nb::handle bias, bool silu, nb::handle state,
            bool return_state, nb::handle offsets, int threads, const std::string& isa) {
  const Call call("[causal_convolution]", x, weight, bias, state, silu, offsets);
  const Context& where = context(threads, isa);
  const StateResults results(kind_of(x), call.x.view.dtype, call.x.dimensions(),
                             call.of_state(return_state));
  {
    nb::gil_scoped_release release;
    causal_convolution(call.inputs(), {rows_of(results.out.view), rows_of(results.state_view())},
                       call.options, where);
  }
  return results.object();
}

Gradients run_backward(nb::handle x, nb::handle weight, nb::handle d_out, nb::handle d_state,
                       const std::vector<std::string>& wrt, nb::handle bias, bool silu,
                       nb::handle state, nb::handle offsets, int threads, const std::string& isa) {
  const std::string function = "[causal_convolution_backward]";
  const Call call(function, x, weight, bias, state, silu, offsets);
  const Input d_oi = import_optional(import_rows, d_out, function + " d_out");
  const Input d_si = import_optional(import_rows, d_state, function + " d_state");
  const Context& where = context(threads, isa);
  Gradients gradients(function.c_str(), wrt, kind_of(x), call.x.view.dtype);
  const ConvolutionGradients to{.x = gradients.place("x", call.x),
                                .weight = gradients.place("weight", call.weight),
                                .bias = place_channels(gradients, "bias", call.x.view.width()),
                                .state = place_rows(gradients, "state", call.of_state())};
  {
    nb::gil_scoped_release release;
    causal_convolution_backward(call.inputs(), {d_oi.view, d_si.view}, to, call.options, where);
  }
  return gradients;
}

nb::any run_reference(nb::handle x, nb::handle weight, nb::handle bias, bool silu, nb::handle state,
                      bool return_state, nb::handle offsets) {
  const Call call("[causal_convolution]", x, weight, bias, state, silu, offsets);
  const StateResults results(kind_of(x), DType::f64, call.x.dimensions(),
                             call.of_state(return_state));
  ConvolutionInputs in = call.inputs();
  const std::vector<Doubles> copies = widen({&in.x, &in.weight, &in.bias, &in.state});
  {
    nb::gil_scoped_release release;
    reference::causal_convolution(in, {rows_of(results.out.view), rows_of(results.state_view())},
                                  call.options);
  }
  return results.object();
}

nb::any merged(nb::handle first, nb::handle second, nb::handle lengths) {
  const std::string function = "[merge_convolution_states]";
  const Input one = import_rows(first, function + " first");
  const Input two = import_rows(second, function + " second");
  const std::vector<std::int64_t> tokens = import_integers(lengths, function + " lengths");
  const Output state = new_output(kind_of(first), one.view.dtype, one.dimensions());
  {
    nb::gil_scoped_release release;
    merge_convolution_states(one.view, two.view, tokens, rows_of(state.view));
  }
  return nb::borrow<nb::any>(state.object());
}

}  // namespace

void bind_convolution(nb::module_& m) {
  m.def("causal_convolution", &run, "x"_a, "weight"_a, "bias"_a = nb::none(), nb::kw_only(),
        "silu"_a = false, "state"_a = nb::none(), "return_state"_a = false,
        "offsets"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(Mamba's causal depthwise convolution of x [B, L, channels].

    out_t = f(bias + sum over i of weight_i x_(t - width + 1 + i))

weight [width, channels], width 2 to 8 (the transpose of a model's conv1d.weight[:, 0]): its last row
meets the token itself; bias [channels], default 0. silu: f(x) = x sigmoid(x) instead of x. float32, or
float64 throughout; arrays as in recurrent(). Returns [B, L, channels] of x's kind and type.

state: the width - 1 inputs before the first token, oldest first, [B, width - 1, channels]; default 0.
return_state: returns (out, state after the last token), to go on from, to save, or to merge: at once,
in pieces or token by token the bits are the same. offsets: as in recurrent().)");
  const std::vector<std::string> first{"x", "weight"};
  m.def("causal_convolution_backward", &run_backward, "x"_a, "weight"_a, "d_out"_a.none(),
        nb::kw_only(), "d_state"_a = nb::none(), "wrt"_a = first, "bias"_a = nb::none(),
        "silu"_a = false, "state"_a = nb::none(), "offsets"_a = nb::none(), "threads"_a = 0,
        "isa"_a = "automatic",
        R"(Gradients of causal_convolution(), whose arguments it takes.

d_out: the gradient of the loss with respect to its output (or None), d_state: with respect to the
last states. wrt: with respect to what, among x, weight, bias and state.)");
  m.def("merge_convolution_states", &merged, "first"_a, "second"_a, "lengths"_a,
        R"(The state of a sequence in two parts, from theirs, of causal_convolution().

[B, width - 1, channels]; the second part was run from nothing, lengths [B]: how many tokens it has.)");
  m.def("reference_causal_convolution", &run_reference, "x"_a, "weight"_a, "bias"_a = nb::none(),
        nb::kw_only(), "silu"_a = false, "state"_a = nb::none(), "return_state"_a = false,
        "offsets"_a = nb::none(),
        "The oracle: causal_convolution() once more, plain and slow, in float64.");
  Gradients::bind(m, "ConvolutionGradients");
}

}  // namespace attn::python
