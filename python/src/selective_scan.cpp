// attn.selective_scan with its gradients, the merging of its states, and the oracle.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <utility>

#include "attn/reference_scan.h"
#include "attn/scan.h"
#include "bindings.h"
#include "gradients.h"
#include "implied.h"
#include "scan_arrays.h"

namespace attn::python {

using namespace nb::literals;

namespace {

constexpr std::array kScanInputs{"u", "delta", "a", "b", "c", "d", "z", "delta_bias", "state"};
using Gradients = NamedGradients<kScanInputs>;

// [batch, length, states], or [batch, length, groups, states] as [batch, groups, length, states].
Input import_groups(nb::handle object, const std::string& what) {
  Input input = import_broadcast(object, what);
  if (input.array.ndim() == 3) return import_rows(object, what);
  if (input.array.ndim() != 4) {
    throw std::invalid_argument(what + " has " + std::to_string(input.array.ndim()) +
                                " dimensions, must have 3, [batch, length, states], or 4: [batch, "
                                "length, groups, states]");
  }
  std::swap(input.view.shape[1], input.view.shape[2]);
  std::swap(input.view.strides[1], input.view.strides[2]);
  return input;
}
Tensor place_groups(Gradients& gradients, const char* name, const Input& x) {
  Tensor place = gradients.place(name, x);
  place.strides = strides_blhd(place.shape);
  return place;
}

// [sequences, channels] as [sequences, 1, 1, channels].
Input import_elapsed(nb::handle object, const std::string& what) {
  Input input = import_exactly(object, what, 2, "[sequences, channels]");
  std::swap(input.view.shape[0], input.view.shape[2]);
  std::swap(input.view.strides[0], input.view.strides[2]);
  return input;
}

// The arguments that selective_scan, its gradients and the oracle share.
struct Call {
  Input u, delta, a, b, c, d, z, delta_bias, state;
  ScanOptions options;

  Call(const std::string& function, nb::handle u_in, nb::handle delta_in, nb::handle a_in,
       nb::handle b_in, nb::handle c_in, nb::handle d_in, nb::handle z_in, nb::handle bias_in,
       nb::handle state_in, bool softplus, nb::handle offsets)
      : u(import_rows(u_in, function + " u")),
        delta(import_rows(delta_in, function + " delta")),
        a(import_exactly(a_in, function + " a", 2, "[states, channels]")),
        b(import_groups(b_in, function + " b")),
        c(import_groups(c_in, function + " c")),
        d(import_optional(import_channels, d_in, function + " d")),
        z(import_optional(import_rows, z_in, function + " z")),
        delta_bias(import_optional(import_channels, bias_in, function + " delta_bias")),
        state(import_optional(import_rows, state_in, function + " state")),
        options{.softplus = softplus, .offsets = import_integers(offsets, function + " offsets")} {}

  ScanInputs inputs() const {
    return {.u = u.view,
            .delta = delta.view,
            .a = a.view,
            .b = b.view,
            .c = c.view,
            .d = d.view,
            .z = z.view,
            .delta_bias = delta_bias.view,
            .state = state.view};
  }
  std::vector<std::int64_t> of_state(bool asked = true) const {
    return state_dimensions(u.view, options.offsets, a.view.length(), asked);
  }
};

// Where a scan writes: its output, and the last states and elapsed times when they are asked for.
struct ScanResults {
  StateResults results;
  std::optional<Output> elapsed;

  ScanResults(Kind kind, DType type, const Call& call, bool with_state, bool with_elapsed)
      : results(kind, type, call.u.dimensions(), call.of_state(with_state)) {
    if (!with_elapsed) return;
    const std::vector<std::int64_t> state = call.of_state();
    elapsed = new_output(kind, DType::f64, {state[0], state[2]});
    std::fill_n(static_cast<double*>(elapsed->view.data), state[0] * state[2], 0.0);
  }
  ScanOutputs outputs() const {
    ScanOutputs to{.out = rows_of(results.out.view), .state = rows_of(results.state_view())};
    if (!elapsed) return to;
    const Shape& s = elapsed->view.shape;
    to.elapsed = {static_cast<double*>(elapsed->view.data), {s[0], 1, 1, s[1]}};
    return to;
  }
  // out, or a tuple of out and what was asked for.
  nb::any object() const {
    if (!elapsed) return results.object();
    nb::list all;
    all.append(results.out.object());
    if (results.state) all.append(results.state->object());
    all.append(elapsed->object());
    return nb::borrow<nb::any>(nb::tuple(all));
  }
};

nb::any run(nb::handle u, nb::handle delta, nb::handle a, nb::handle b, nb::handle c, nb::handle d,
            nb::handle z, nb::handle delta_bias, bool softplus, nb::handle state, bool return_state,
            bool return_elapsed, nb::handle offsets, int threads, const std::string& isa) {
  const Call call("[selective_scan]", u, delta, a, b, c, d, z, delta_bias, state, softplus,
                  offsets);
  const Context& where = context(threads, isa);
  const ScanResults results(kind_of(u), call.u.view.dtype, call, return_state, return_elapsed);
  {
    nb::gil_scoped_release release;
    selective_scan(call.inputs(), results.outputs(), call.options, where);
  }
  return results.object();
}

Gradients run_backward(nb::handle u, nb::handle delta, nb::handle a, nb::handle b, nb::handle c,
                       nb::handle d_out, nb::handle d_state, const std::vector<std::string>& wrt,
                       nb::handle d, nb::handle z, nb::handle delta_bias, bool softplus,
                       nb::handle state, nb::handle offsets, int threads, const std::string& isa) {
  const std::string function = "[selective_scan_backward]";
  const Call call(function, u, delta, a, b, c, d, z, delta_bias, state, softplus, offsets);
  const Input d_oi = import_optional(import_rows, d_out, function + " d_out");
  const Input d_si = import_optional(import_rows, d_state, function + " d_state");
  const Context& where = context(threads, isa);
  Gradients gradients(function.c_str(), wrt, kind_of(u), call.u.view.dtype);
  const std::int64_t channels = call.u.view.width();
  const ScanGradients to{
      .u = gradients.place("u", call.u),
      .delta = gradients.place("delta", call.delta),
      .a = gradients.place("a", call.a),
      .b = place_groups(gradients, "b", call.b),
      .c = place_groups(gradients, "c", call.c),
      .d = place_channels(gradients, "d", channels),
      .z = place_rows(gradients, "z", call.u.dimensions()),  // the library says if there is none
      .delta_bias = place_channels(gradients, "delta_bias", channels),
      .state = place_rows(gradients, "state", call.of_state())};
  {
    nb::gil_scoped_release release;
    selective_scan_backward(call.inputs(), {d_oi.view, d_si.view}, to, call.options, where);
  }
  return gradients;
}

nb::any run_reference(nb::handle u, nb::handle delta, nb::handle a, nb::handle b, nb::handle c,
                      nb::handle d, nb::handle z, nb::handle delta_bias, bool softplus,
                      nb::handle state, bool return_state, bool return_elapsed,
                      nb::handle offsets) {
  const Call call("[selective_scan]", u, delta, a, b, c, d, z, delta_bias, state, softplus,
                  offsets);
  const ScanResults results(kind_of(u), DType::f64, call, return_state, return_elapsed);
  ScanInputs in = call.inputs();
  const std::vector<Doubles> copies =
      widen({&in.u, &in.delta, &in.a, &in.b, &in.c, &in.d, &in.z, &in.delta_bias, &in.state});
  {
    nb::gil_scoped_release release;
    reference::selective_scan(in, results.outputs(), call.options);
  }
  return results.object();
}

nb::any merged(nb::handle first, nb::handle second, nb::handle a, nb::handle elapsed) {
  const std::string function = "[merge_scan_states]";
  const Input one = import_rows(first, function + " first");
  const Input two = import_rows(second, function + " second");
  const Input rates = import_exactly(a, function + " a", 2, "[states, channels]");
  const Input time = import_elapsed(elapsed, function + " elapsed");
  const Output state = new_output(kind_of(first), one.view.dtype, one.dimensions());
  {
    nb::gil_scoped_release release;
    merge_scan_states(one.view, two.view, rates.view, time.view, rows_of(state.view));
  }
  return nb::borrow<nb::any>(state.object());
}

nb::any run_implied(nb::handle u, nb::handle delta, nb::handle a, nb::handle b, nb::handle c,
                    nb::handle delta_bias, nb::handle queries, bool softplus, int threads,
                    const std::string& isa) {
  const Call call("[implied_selective_scan]", u, delta, a, b, c, nb::none(), nb::none(), delta_bias,
                  nb::none(), softplus, nb::none());
  return implied_rows(kind_of(u), ImpliedAttention::of(call.inputs(), call.options), queries,
                      context(threads, isa));
}

}  // namespace

void bind_selective_scan(nb::module_& m) {
  m.def("selective_scan", &run, "u"_a, "delta"_a, "a"_a, "b"_a, "c"_a, "d"_a = nb::none(),
        "z"_a = nb::none(), "delta_bias"_a = nb::none(), nb::kw_only(), "softplus"_a = false,
        "state"_a = nb::none(), "return_state"_a = false, "return_elapsed"_a = false,
        "offsets"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(Mamba's selective scan (arXiv 2312.00752): every channel has states that decay apart.

    D_t = delta_t + delta_bias, or softplus of it
    h_t = exp(D_t a) h_{t-1} + D_t b_t u_t
    out_t = (sum over states of c_t h_t + d u_t) silu(z_t)

u, delta, z [B, L, channels]; a [states, channels], the transpose of the paper's A, below 0: -exp(A_log);
b, c [B, L, states], or [B, L, groups, states]: a group has channels / groups consecutive channels;
d, delta_bias [channels], default 0; without z there is no gate. float32, or float64 throughout; arrays
as in recurrent(). Returns [B, L, channels] of u's kind and type.

state: before the first token, [B, states, channels]; default 0. return_state: returns (out, state after
the last token), to go on from, to save, or to merge: at once, in pieces or token by token the bits are
the same. return_elapsed: returns also, last, the sum of D over the tokens, [B, channels] float64, which
merge_scan_states() needs. offsets: as in recurrent().)");
  const std::vector<std::string> first{"u", "delta", "a", "b", "c"};
  m.def("selective_scan_backward", &run_backward, "u"_a, "delta"_a, "a"_a, "b"_a, "c"_a,
        "d_out"_a.none(), nb::kw_only(), "d_state"_a = nb::none(), "wrt"_a = first,
        "d"_a = nb::none(), "z"_a = nb::none(), "delta_bias"_a = nb::none(), "softplus"_a = false,
        "state"_a = nb::none(), "offsets"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(Gradients of selective_scan(), whose arguments it takes.

d_out: the gradient of the loss with respect to its output (or None), d_state: with respect to the
last states. wrt: with respect to what, among u, delta, a, b, c, d, z, delta_bias and state.)");
  m.def("merge_scan_states", &merged, "first"_a, "second"_a, "a"_a, "elapsed"_a,
        R"(The state of a sequence in two parts, from theirs: exp(elapsed a) first + second.

[B, states, channels]; the second part was run from nothing, elapsed [B, channels] is what
selective_scan() returned with it. Elapsed times of parts add up.)");
  m.def("reference_selective_scan", &run_reference, "u"_a, "delta"_a, "a"_a, "b"_a, "c"_a,
        "d"_a = nb::none(), "z"_a = nb::none(), "delta_bias"_a = nb::none(), nb::kw_only(),
        "softplus"_a = false, "state"_a = nb::none(), "return_state"_a = false,
        "return_elapsed"_a = false, "offsets"_a = nb::none(),
        "The oracle: selective_scan() once more, plain and slow, in float64.");
  m.def("implied_selective_scan", &run_implied, "u"_a, "delta"_a, "a"_a, "b"_a, "c"_a,
        "delta_bias"_a = nb::none(), nb::kw_only(), "queries"_a = nb::none(), "softplus"_a = false,
        "threads"_a = 0, "isa"_a = "automatic",
        R"(The attention that selective_scan() implies, as implied_recurrent(), of one text (B = 1).

Channels have gates of their own and are one head: |a_ij| are summed over them, [1, queries, L]. The
skip d and the gate z go around it.)");
  Gradients::bind(m, "ScanGradients");
}

}  // namespace attn::python
