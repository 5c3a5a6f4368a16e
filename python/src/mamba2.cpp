// attn.mamba2 with its gradients, and the oracle.
#include "attn/mamba2.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <limits>

#include "attn/reference_recurrent.h"
#include "bindings.h"
#include "gradients.h"
#include "implied.h"

namespace attn::python {

using namespace nb::literals;

namespace {

constexpr std::array kMamba2Inputs{"x", "dt", "a", "b", "c", "d", "dt_bias", "state"};
using Gradients = NamedGradients<kMamba2Inputs>;
using Limits = std::pair<double, double>;

// The arguments that mamba2, its gradients and the oracle share.
struct Call {
  Input x, dt, a, b, c, d, dt_bias, state;
  Mamba2Options options;

  Call(const std::string& function, nb::handle x_in, nb::handle dt_in, nb::handle a_in,
       nb::handle b_in, nb::handle c_in, nb::handle d_in, nb::handle bias_in, nb::handle state_in,
       bool softplus, Limits limits, nb::handle offsets)
      : x(import_tensor(x_in, function + " x")),
        dt(import_lse(dt_in, function + " dt")),
        a(import_heads(a_in, function + " a")),
        b(import_tensor(b_in, function + " b")),
        c(import_tensor(c_in, function + " c")),
        d(import_optional(import_heads, d_in, function + " d")),
        dt_bias(import_optional(import_heads, bias_in, function + " dt_bias")),
        state(import_optional(import_tensor, state_in, function + " state")),
        options{.softplus = softplus,
                .dt_min = limits.first,
                .dt_max = limits.second,
                .offsets = import_integers(offsets, function + " offsets")} {}

  Mamba2Inputs inputs() const {
    return {.x = x.view,
            .dt = dt.view,
            .a = a.view,
            .b = b.view,
            .c = c.view,
            .d = d.view,
            .dt_bias = dt_bias.view,
            .state = state.view};
  }
  // None when states are not asked for.
  std::vector<std::int64_t> state_dimensions(bool asked = true) const {
    if (!asked) return {};
    const auto sequences = static_cast<std::int64_t>(options.offsets.size()) - 1;
    return {options.offsets.empty() ? x.view.batch() : sequences, x.view.heads(), b.view.width(),
            x.view.width()};
  }
};

nb::any run(nb::handle x, nb::handle dt, nb::handle a, nb::handle b, nb::handle c, nb::handle d,
            nb::handle dt_bias, bool softplus, Limits dt_limits, nb::handle state,
            bool return_state, nb::handle offsets, int threads, const std::string& isa) {
  const Call call("[mamba2]", x, dt, a, b, c, d, dt_bias, state, softplus, dt_limits, offsets);
  const Context& where = context(threads, isa);
  const StateResults results(kind_of(x), call.x.view.dtype, call.x.dimensions(),
                             call.state_dimensions(return_state));
  {
    nb::gil_scoped_release release;
    mamba2(call.inputs(), results.out.view, results.state_view(), call.options, where);
  }
  return results.object();
}

Gradients run_backward(nb::handle x, nb::handle dt, nb::handle a, nb::handle b, nb::handle c,
                       nb::handle d_y, nb::handle d_state, const std::vector<std::string>& wrt,
                       nb::handle d, nb::handle dt_bias, bool softplus, Limits dt_limits,
                       nb::handle state, nb::handle offsets, int threads, const std::string& isa) {
  const std::string function = "[mamba2_backward]";
  const Call call(function, x, dt, a, b, c, d, dt_bias, state, softplus, dt_limits, offsets);
  const Input d_yi = import_optional(import_tensor, d_y, function + " d_y");
  const Input d_si = import_optional(import_tensor, d_state, function + " d_state");
  const Context& where = context(threads, isa);
  Gradients gradients(function.c_str(), wrt, kind_of(x), call.x.view.dtype);
  Mamba2Gradients to;
  to.x = gradients.place("x", call.x);
  to.dt = gradients.place("dt", call.dt);
  to.b = gradients.place("b", call.b);
  to.c = gradients.place("c", call.c);
  const auto of_heads = [&](const char* name, const Input& given) {
    const std::int64_t heads = call.x.view.heads();
    return gradients.place(name, {1, heads, 1, 1},
                           given.array.is_valid() ? given.dimensions() : std::vector{heads});
  };
  to.a = of_heads("a", call.a);
  to.d = of_heads("d", call.d);
  to.dt_bias = of_heads("dt_bias", call.dt_bias);
  const std::vector<std::int64_t> s = call.state_dimensions();
  to.state = gradients.place("state", {s[0], s[1], s[2], s[3]}, s);
  {
    nb::gil_scoped_release release;
    mamba2_backward(call.inputs(), d_yi.view, d_si.view, to, call.options, where);
  }
  return gradients;
}

nb::any run_reference(nb::handle x, nb::handle dt, nb::handle a, nb::handle b, nb::handle c,
                      nb::handle d, nb::handle dt_bias, bool softplus, Limits dt_limits,
                      nb::handle state, bool return_state, nb::handle offsets) {
  const Call call("[mamba2]", x, dt, a, b, c, d, dt_bias, state, softplus, dt_limits, offsets);
  const StateResults results(kind_of(x), DType::f64, call.x.dimensions(),
                             call.state_dimensions(return_state));
  Mamba2Inputs in = call.inputs();
  const std::vector<Doubles> copies =
      widen({&in.x, &in.dt, &in.a, &in.b, &in.c, &in.d, &in.dt_bias, &in.state});
  {
    nb::gil_scoped_release release;
    reference::mamba2(in, results.out.view, results.state_view(), call.options);
  }
  return results.object();
}

nb::any run_implied(nb::handle x, nb::handle dt, nb::handle a, nb::handle b, nb::handle c,
                    nb::handle dt_bias, nb::handle queries, bool softplus, Limits dt_limits,
                    int threads, const std::string& isa) {
  const Call call("[implied_mamba2]", x, dt, a, b, c, nb::none(), dt_bias, nb::none(), softplus,
                  dt_limits, nb::none());
  return implied_rows(kind_of(x), ImpliedAttention::of(call.inputs(), call.options), queries,
                      context(threads, isa));
}

}  // namespace

void bind_mamba2(nb::module_& m) {
  const Limits any{0, std::numeric_limits<double>::infinity()};
  m.def(
      "mamba2", &run, "x"_a, "dt"_a, "a"_a, "b"_a, "c"_a, "d"_a = nb::none(),
      "dt_bias"_a = nb::none(), nb::kw_only(), "softplus"_a = true, "dt_limits"_a = any,
      "state"_a = nb::none(), "return_state"_a = false, "offsets"_a = nb::none(), "threads"_a = 0,
      "isa"_a = "automatic",
      R"(Mamba-2's state space (SSD, arXiv 2405.21060): recurrent() in the terms of state-space models.

    dt_t = clamp(softplus(dt_t + dt_bias), *dt_limits)
    S_t = exp(dt_t a) S_{t-1} + dt_t b_t x_t^T        y_t = c_t^T S_t + d x_t

x [B, H, L, P]; dt [B, H, L], before softplus; a [H], below 0: -exp(A_log); b, c [B, G, L, N], H a
multiple of G: consecutive heads share a group; d, dt_bias [H], default 0. state [B, H, N, P] before the
first token, default 0. float32, or float64 throughout; arrays as in recurrent(). Returns y
[B, H, L, P], with return_state (y, state after the last token). offsets: as in recurrent().)");
  const std::vector<std::string> first{"x", "dt", "a", "b", "c"};
  m.def("mamba2_backward", &run_backward, "x"_a, "dt"_a, "a"_a, "b"_a, "c"_a, "d_y"_a.none(),
        nb::kw_only(), "d_state"_a = nb::none(), "wrt"_a = first, "d"_a = nb::none(),
        "dt_bias"_a = nb::none(), "softplus"_a = true, "dt_limits"_a = any, "state"_a = nb::none(),
        "offsets"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(Gradients of mamba2(), whose arguments it takes.

d_y: the gradient of the loss with respect to y (or None), d_state: with respect to the last states.
wrt: with respect to what, among x, dt, a, b, c, d, dt_bias and state.)");
  m.def("reference_mamba2", &run_reference, "x"_a, "dt"_a, "a"_a, "b"_a, "c"_a, "d"_a = nb::none(),
        "dt_bias"_a = nb::none(), nb::kw_only(), "softplus"_a = true, "dt_limits"_a = any,
        "state"_a = nb::none(), "return_state"_a = false, "offsets"_a = nb::none(),
        "The oracle: mamba2() once more, a token at a time, in float64.");
  m.def("implied_mamba2", &run_implied, "x"_a, "dt"_a, "a"_a, "b"_a, "c"_a,
        "dt_bias"_a = nb::none(), nb::kw_only(), "queries"_a = nb::none(), "softplus"_a = true,
        "dt_limits"_a = any, "threads"_a = 0, "isa"_a = "automatic",
        "The attention that mamba2() implies, as implied_recurrent(); the skip d goes around it.");
  Gradients::bind(m, "Mamba2Gradients");
}

}  // namespace attn::python
