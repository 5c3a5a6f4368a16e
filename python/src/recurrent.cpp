// attn.recurrent with its gradients, the merging of its states, and the oracle.
#include "attn/recurrent.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <stdexcept>

#include "attn/reference_recurrent.h"
#include "bindings.h"
#include "gradients.h"
#include "implied.h"

namespace attn::python {

using namespace nb::literals;

namespace {

constexpr std::array kRecurrentInputs{"q",     "k", "v", "log_decay", "beta",
                                      "bonus", "a", "b", "state"};
using Gradients = NamedGradients<kRecurrentInputs>;

RecurrentOptions options_of(const std::string& function, const std::string& rule, bool normalise,
                            double epsilon, nb::handle offsets) {
  if (rule != "add" && rule != "delta") {
    throw std::invalid_argument(function + " rule is '" + rule + "', must be add or delta");
  }
  return {.rule = rule == "delta" ? StateRule::delta : StateRule::add,
          .normalise = normalise,
          .epsilon = epsilon,
          .offsets = import_integers(offsets, function + " offsets")};
}

// The arguments that recurrent, its gradients and the oracle share.
struct Call {
  Input q, k, v, log_decay, beta, bonus, a, b, state;
  RecurrentOptions options;

  Call(const std::string& function, nb::handle q_in, nb::handle k_in, nb::handle v_in,
       nb::handle decay_in, nb::handle beta_in, nb::handle bonus_in, nb::handle a_in,
       nb::handle b_in, nb::handle state_in, RecurrentOptions given)
      : q(import_tensor(q_in, function + " q")),
        k(import_tensor(k_in, function + " k")),
        v(import_tensor(v_in, function + " v")),
        log_decay(import_optional(import_broadcast, decay_in, function + " log_decay")),
        beta(import_optional(import_broadcast, beta_in, function + " beta")),
        bonus(import_optional(import_heads, bonus_in, function + " bonus")),
        a(import_optional(import_tensor, a_in, function + " a")),
        b(import_optional(import_tensor, b_in, function + " b")),
        state(import_optional(import_tensor, state_in, function + " state")),
        options(std::move(given)) {}

  RecurrentInputs inputs() const {
    return {.q = q.view,
            .k = k.view,
            .v = v.view,
            .log_decay = log_decay.view,
            .beta = beta.view,
            .bonus = bonus.view,
            .a = a.view,
            .b = b.view,
            .state = state.view};
  }
  // None when states are not asked for.
  std::vector<std::int64_t> state_dimensions(bool asked = true) const {
    if (!asked) return {};
    const auto sequences = static_cast<std::int64_t>(options.offsets.size()) - 1;
    return {options.offsets.empty() ? q.view.batch() : sequences, v.view.heads(), q.view.width(),
            v.view.width() + (options.normalise ? 1 : 0)};
  }
};

nb::any run(nb::handle q, nb::handle k, nb::handle v, nb::handle log_decay, nb::handle beta,
            nb::handle bonus, nb::handle a, nb::handle b, const std::string& rule, bool normalise,
            double epsilon, nb::handle state, bool return_state, nb::handle offsets, int threads,
            const std::string& isa) {
  const Call call("[recurrent]", q, k, v, log_decay, beta, bonus, a, b, state,
                  options_of("[recurrent]", rule, normalise, epsilon, offsets));
  const Context& where = context(threads, isa);
  const StateResults results(kind_of(q), call.q.view.dtype, call.v.dimensions(),
                             call.state_dimensions(return_state));
  {
    nb::gil_scoped_release release;
    recurrent(call.inputs(), results.out.view, results.state_view(), call.options, where);
  }
  return results.object();
}

Gradients run_backward(nb::handle q, nb::handle k, nb::handle v, nb::handle d_out,
                       nb::handle d_state, const std::vector<std::string>& wrt,
                       nb::handle log_decay, nb::handle beta, nb::handle bonus, nb::handle a,
                       nb::handle b, const std::string& rule, bool normalise, double epsilon,
                       nb::handle state, nb::handle offsets, int threads, const std::string& isa) {
  const std::string function = "[recurrent_backward]";
  const Call call(function, q, k, v, log_decay, beta, bonus, a, b, state,
                  options_of(function, rule, normalise, epsilon, offsets));
  const Input d_oi = import_optional(import_tensor, d_out, function + " d_out");
  const Input d_si = import_optional(import_tensor, d_state, function + " d_state");
  const Context& where = context(threads, isa);
  Gradients gradients(function.c_str(), wrt, kind_of(q), call.q.view.dtype);
  RecurrentGradients to;
  to.q = gradients.place("q", call.q);
  to.k = gradients.place("k", call.k);
  to.v = gradients.place("v", call.v);
  to.log_decay = gradients.place("log_decay", call.log_decay);
  to.beta = gradients.place("beta", call.beta);
  to.bonus = gradients.place("bonus", call.bonus);
  to.a = gradients.place("a", call.a);
  to.b = gradients.place("b", call.b);
  const std::vector<std::int64_t> s = call.state_dimensions();
  to.state = gradients.place("state", {s[0], s[1], s[2], s[3]}, s);
  {
    nb::gil_scoped_release release;
    recurrent_backward(call.inputs(), d_oi.view, d_si.view, to, call.options, where);
  }
  return gradients;
}

nb::any run_reference(nb::handle q, nb::handle k, nb::handle v, nb::handle log_decay,
                      nb::handle beta, nb::handle bonus, nb::handle a, nb::handle b,
                      const std::string& rule, bool normalise, double epsilon, nb::handle state,
                      bool return_state, nb::handle offsets) {
  const Call call("[recurrent]", q, k, v, log_decay, beta, bonus, a, b, state,
                  options_of("[recurrent]", rule, normalise, epsilon, offsets));
  const StateResults results(kind_of(q), DType::f64, call.v.dimensions(),
                             call.state_dimensions(return_state));
  RecurrentInputs in = call.inputs();
  const std::vector<Doubles> copies =
      widen({&in.q, &in.k, &in.v, &in.log_decay, &in.beta, &in.bonus, &in.a, &in.b, &in.state});
  {
    nb::gil_scoped_release release;
    reference::recurrent(in, results.out.view, results.state_view(), call.options);
  }
  return results.object();
}

nb::any merged(nb::handle first, nb::handle second, nb::handle log_decay) {
  const Input one = import_tensor(first, "[merge_states] first");
  const Input two = import_tensor(second, "[merge_states] second");
  const Input decay = import_optional(import_broadcast, log_decay, "[merge_states] log_decay");
  const Output state = new_output(kind_of(first), one.view.dtype, one.dimensions());
  {
    nb::gil_scoped_release release;
    merge_states(one.view, two.view, decay.view, state.view);
  }
  return nb::borrow<nb::any>(state.object());
}

nb::any merged_delta(nb::handle first, nb::handle second, nb::handle transition) {
  const Input one = import_tensor(first, "[merge_delta_states] first");
  const Input two = import_tensor(second, "[merge_delta_states] second");
  const Input matrix = import_tensor(transition, "[merge_delta_states] transition");
  const Output state = new_output(kind_of(first), one.view.dtype, one.dimensions());
  {
    nb::gil_scoped_release release;
    merge_delta_states(one.view, two.view, matrix.view, state.view);
  }
  return nb::borrow<nb::any>(state.object());
}

nb::any run_implied(nb::handle q, nb::handle k, nb::handle v, nb::handle log_decay, nb::handle beta,
                    nb::handle bonus, nb::handle queries, nb::handle a, nb::handle b,
                    const std::string& rule, int threads, const std::string& isa) {
  const std::string function = "[implied_recurrent]";
  const Call call(function, q, k, v, log_decay, beta, bonus, a, b, nb::none(),
                  options_of(function, rule, false, 0, nb::none()));
  return implied_rows(kind_of(q), ImpliedAttention::of(call.inputs(), call.options), queries,
                      context(threads, isa));
}

}  // namespace

void bind_recurrent(nb::module_& m) {
  m.def("recurrent", &run, "q"_a, "k"_a, "v"_a, "log_decay"_a = nb::none(), "beta"_a = nb::none(),
        "bonus"_a = nb::none(), nb::kw_only(), "a"_a = nb::none(), "b"_a = nb::none(),
        "rule"_a = "add", "normalise"_a = false, "epsilon"_a = 0.0, "state"_a = nb::none(),
        "return_state"_a = false, "offsets"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(Attention with a state in place of keys: one recurrence with different gates.

    S_t = diag(w_t) S_{t-1} + beta_t k_t v_t^T        y_t = q_t^T S_t

What decays the state makes the mechanism: nothing is linear attention (arXiv 2006.16236), a number a
head RetNet (2307.08621), a number a token Mamba-2 (2405.21060), a channel RWKV-5, a channel and token
GLA (2312.06635) and RWKV-6. With bonus u, RWKV's reading, before the decay:
y_t = q_t^T (S_{t-1} + diag(u) k_t v_t^T). rule "delta" (DeltaNet 2406.06484, gated 2412.06464): a token
corrects what the state holds for its key, beta_t k_t (v_t - k_t^T diag(w_t) S_{t-1})^T. a and b: the
state goes through diag(w_t) + a_t b_t^T, in RWKV-7 with b = kappa^ and a = -(kappa^ o a).

q, k [B, Hq, L, Dk], v [B, H, L, Dv], H a multiple of Hq: consecutive heads share queries and keys.
Widths 1 to 1024. float32, or float64 throughout; NumPy, PyTorch or any array with DLPack, read without
a copy, any strides with the last dimension contiguous. Returns [B, H, L, Dv] of q's kind and type.

log_decay: natural logarithms of w, 0 or less, -inf forgets; [B, H, L, Dk] with 1 in any dimension.
beta: [B, H, L, 1] with 1 in any; default 1. bonus: [H, Dk]. a, b: as q. normalise:
y_t / (q_t^T z_t + epsilon), where z decays as S and sums beta_t k_t, and is the last column of the
state.
state: before the first token, [B, H, Dk, Dv] (normalised: Dv + 1); default 0. return_state: returns
(out, state after the last token), to go on from, to save, or to merge.
offsets: sequences one after the other, with batch 1: sequence s has tokens offsets[s] to
offsets[s + 1], and states are [sequences, H, Dk, Dv]. threads, isa: as attention().)");
  const std::vector<std::string> first{"q", "k", "v"};
  m.def("recurrent_backward", &run_backward, "q"_a, "k"_a, "v"_a, "d_out"_a.none(), nb::kw_only(),
        "d_state"_a = nb::none(), "wrt"_a = first, "log_decay"_a = nb::none(),
        "beta"_a = nb::none(), "bonus"_a = nb::none(), "a"_a = nb::none(), "b"_a = nb::none(),
        "rule"_a = "add", "normalise"_a = false, "epsilon"_a = 0.0, "state"_a = nb::none(),
        "offsets"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(Gradients of recurrent(), chunk by chunk from the end.

The arguments are those of recurrent(); d_out is the gradient of the loss with respect to its output
(or None), d_state with respect to the last states. wrt: with respect to what, among q, k, v,
log_decay, beta, bonus, a, b and state. A gradient has the shape of what it belongs to, summed where
that counted for several.)");
  m.def("merge_states", &merged, "first"_a, "second"_a, "log_decay"_a = nb::none(),
        R"(The state of a sequence in two parts, from theirs: exp(log_decay) first + second.

[B, H, Dk, Dv]; the second part was run from nothing, log_decay [B, H, 1, Dk] (with 1 in any dimension)
sums its log_decay over the tokens. For rule "add".)");
  m.def("merge_delta_states", &merged_delta, "first"_a, "second"_a, "transition"_a,
        R"(The same for rule "delta": transition @ first + second.

transition [B, H, Dk, Dk]: the state that the second part makes of the identity with values of 0.)");
  m.def("reference_recurrent", &run_reference, "q"_a, "k"_a, "v"_a, "log_decay"_a = nb::none(),
        "beta"_a = nb::none(), "bonus"_a = nb::none(), nb::kw_only(), "a"_a = nb::none(),
        "b"_a = nb::none(), "rule"_a = "add", "normalise"_a = false, "epsilon"_a = 0.0,
        "state"_a = nb::none(), "return_state"_a = false, "offsets"_a = nb::none(),
        "The oracle: recurrent() once more, a token at a time, in float64.");
  m.def("implied_recurrent", &run_implied, "q"_a, "k"_a, "v"_a, "log_decay"_a = nb::none(),
        "beta"_a = nb::none(), "bonus"_a = nb::none(), nb::kw_only(), "queries"_a = nb::none(),
        "a"_a = nb::none(), "b"_a = nb::none(), "rule"_a = "add", "threads"_a = 0,
        "isa"_a = "automatic",
        R"(The attention that recurrent() implies (arXiv 2403.01590, 2405.16504).

A head puts out y_i = sum over j of a_ij v_j, with a_ij = q_i^T G_i ... G_{j+1} beta_j k_j through the
gates between. Returns |a_ij| over the sum of their row, [H, queries, L] float64: as probabilities of
attention. The arguments are those of recurrent(), of one text (B = 1) that begins without a state;
values only tell how many heads there are. queries: of which tokens; None: of all, a square.)");
  Gradients::bind(m, "RecurrentGradients");
}

}  // namespace attn::python
