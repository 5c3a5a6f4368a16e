// attn.wkv4 with its gradients, the merging of its states, and the oracle.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>

#include "attn/reference_scan.h"
#include "attn/scan.h"
#include "bindings.h"
#include "gradients.h"
#include "implied.h"
#include "scan_arrays.h"

namespace attn::python {

using namespace nb::literals;

namespace {

constexpr std::array kWkv4Inputs{"k", "v", "decay", "bonus", "state"};
using Gradients = NamedGradients<kWkv4Inputs>;

// The arguments that wkv4, its gradients and the oracle share.
struct Call {
  Input k, v, decay, bonus, state;
  Wkv4Options options;

  Call(const std::string& function, nb::handle k_in, nb::handle v_in, nb::handle decay_in,
       nb::handle bonus_in, nb::handle state_in, nb::handle offsets)
      : k(import_rows(k_in, function + " k")),
        v(import_rows(v_in, function + " v")),
        decay(import_channels(decay_in, function + " decay")),
        bonus(import_channels(bonus_in, function + " bonus")),
        state(import_optional(import_rows, state_in, function + " state")),
        options{.offsets = import_integers(offsets, function + " offsets")} {}

  Wkv4Inputs inputs() const {
    return {
        .k = k.view, .v = v.view, .decay = decay.view, .bonus = bonus.view, .state = state.view};
  }
  std::vector<std::int64_t> of_state(bool asked = true) const {
    return state_dimensions(k.view, options.offsets, 3, asked);
  }
};

nb::any run(nb::handle k, nb::handle v, nb::handle decay, nb::handle bonus, nb::handle state,
            bool return_state, nb::handle offsets, int threads, const std::string& isa) {
  const Call call("[wkv4]", k, v, decay, bonus, state, offsets);
  const Context& where = context(threads, isa);
  const StateResults results(kind_of(k), call.k.view.dtype, call.k.dimensions(),
                             call.of_state(return_state));
  {
    nb::gil_scoped_release release;
    wkv4(call.inputs(), {rows_of(results.out.view), rows_of(results.state_view())}, call.options,
         where);
  }
  return results.object();
}

Gradients run_backward(nb::handle k, nb::handle v, nb::handle decay, nb::handle bonus,
                       nb::handle d_out, nb::handle d_state, const std::vector<std::string>& wrt,
                       nb::handle state, nb::handle offsets, int threads, const std::string& isa) {
  const std::string function = "[wkv4_backward]";
  const Call call(function, k, v, decay, bonus, state, offsets);
  const Input d_oi = import_optional(import_rows, d_out, function + " d_out");
  const Input d_si = import_optional(import_rows, d_state, function + " d_state");
  const Context& where = context(threads, isa);
  Gradients gradients(function.c_str(), wrt, kind_of(k), call.k.view.dtype);
  const Wkv4Gradients to{.k = gradients.place("k", call.k),
                         .v = gradients.place("v", call.v),
                         .decay = gradients.place("decay", call.decay),
                         .bonus = gradients.place("bonus", call.bonus),
                         .state = place_rows(gradients, "state", call.of_state())};
  {
    nb::gil_scoped_release release;
    wkv4_backward(call.inputs(), {d_oi.view, d_si.view}, to, call.options, where);
  }
  return gradients;
}

nb::any run_reference(nb::handle k, nb::handle v, nb::handle decay, nb::handle bonus,
                      nb::handle state, bool return_state, nb::handle offsets) {
  const Call call("[wkv4]", k, v, decay, bonus, state, offsets);
  const StateResults results(kind_of(k), DType::f64, call.k.dimensions(),
                             call.of_state(return_state));
  Wkv4Inputs in = call.inputs();
  const std::vector<Doubles> copies = widen({&in.k, &in.v, &in.decay, &in.bonus, &in.state});
  {
    nb::gil_scoped_release release;
    reference::wkv4(in, {rows_of(results.out.view), rows_of(results.state_view())}, call.options);
  }
  return results.object();
}

nb::any merged(nb::handle first, nb::handle second, nb::handle decay, nb::handle lengths) {
  const std::string function = "[merge_wkv4_states]";
  const Input one = import_rows(first, function + " first");
  const Input two = import_rows(second, function + " second");
  const Input w = import_channels(decay, function + " decay");
  const std::vector<std::int64_t> tokens = import_integers(lengths, function + " lengths");
  const Output state = new_output(kind_of(first), one.view.dtype, one.dimensions());
  {
    nb::gil_scoped_release release;
    merge_wkv4_states(one.view, two.view, w.view, tokens, rows_of(state.view));
  }
  return nb::borrow<nb::any>(state.object());
}

nb::any run_implied(nb::handle k, nb::handle v, nb::handle decay, nb::handle bonus,
                    nb::handle queries, int threads, const std::string& isa) {
  const Call call("[implied_wkv4]", k, v, decay, bonus, nb::none(), nb::none());
  return implied_rows(kind_of(k), ImpliedAttention::of(call.inputs()), queries,
                      context(threads, isa));
}

}  // namespace

void bind_wkv4(nb::module_& m) {
  m.def("wkv4", &run, "k"_a, "v"_a, "decay"_a, "bonus"_a, nb::kw_only(), "state"_a = nb::none(),
        "return_state"_a = false, "offsets"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(RWKV-4's weighted mean (arXiv 2305.13048) of v, by weights exp(k) that decay.

    out_t = (sum over i < t of e^((t - 1 - i) decay + k_i) v_i + e^(bonus + k_t) v_t)
            / (the same with v = 1)

k, v [B, L, channels]; decay [channels], at most 0: a model's -exp(time_decay); bonus [channels], of the
token itself: time_first. float32, or float64 throughout; arrays as in recurrent(). Returns
[B, L, channels] of k's kind and type.

state: before the first token, [B, 3, channels], rows p, q and o, which stand for sums p e^o over the
values and q e^o of the weights; default 0, 0, -1e38. return_state: returns (out, state after the last
token), to go on from, to save, or to merge: at once, in pieces or token by token the bits are the same.
offsets: as in recurrent().)");
  const std::vector<std::string> first{"k", "v", "decay", "bonus"};
  m.def("wkv4_backward", &run_backward, "k"_a, "v"_a, "decay"_a, "bonus"_a, "d_out"_a.none(),
        nb::kw_only(), "d_state"_a = nb::none(), "wrt"_a = first, "state"_a = nb::none(),
        "offsets"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(Gradients of wkv4(), whose arguments it takes.

d_out: the gradient of the loss with respect to its output (or None), d_state: with respect to the
last states. wrt: with respect to what, among k, v, decay, bonus and state.)");
  m.def("merge_wkv4_states", &merged, "first"_a, "second"_a, "decay"_a, "lengths"_a,
        R"(The state of a sequence in two parts, from theirs, of wkv4().

[B, 3, channels]; the second part was run from nothing, lengths [B]: how many tokens it has.)");
  m.def("reference_wkv4", &run_reference, "k"_a, "v"_a, "decay"_a, "bonus"_a, nb::kw_only(),
        "state"_a = nb::none(), "return_state"_a = false, "offsets"_a = nb::none(),
        "The oracle: wkv4() once more, from the sum over all tokens before, in float64.");
  m.def("implied_wkv4", &run_implied, "k"_a, "v"_a, "decay"_a, "bonus"_a, nb::kw_only(),
        "queries"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(The attention that wkv4() implies, as implied_recurrent(), of one text (B = 1).

The weights of the mean, summed over the channels, which are one head: [1, queries, L].)");
  Gradients::bind(m, "Wkv4Gradients");
}

}  // namespace attn::python
