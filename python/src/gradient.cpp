// attn.backward, and the oracle's.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>

#include "attn/reference.h"
#include "bindings.h"
#include "gradients.h"

namespace attn::python {

using namespace nb::literals;

namespace {

constexpr std::array kAttentionInputs{"q", "k", "v", "bias", "alibi_slopes", "t5", "sinks"};

using Gradients = NamedGradients<kAttentionInputs>;

// Memory for the gradients that are asked for.
InputGradients places(Gradients& g, const ConstTensor& q, const ConstTensor& k,
                      const ConstTensor& v, const CallOptions& call) {
  const Score& score = call.options.score;
  const auto as = [&g](const char* name, const ConstTensor& x) {
    return g.place(name, x.shape, {x.shape.begin(), x.shape.end()});
  };
  const std::int64_t buckets = score.t5 ? score.t5->buckets : 1;
  InputGradients to;
  to.q = as("q", q);
  to.k = as("k", k);
  to.v = as("v", v);
  to.bias = g.place("bias", call.bias.value_or(Input{}));
  to.alibi_slopes = g.place("alibi_slopes", {1, 1, 1, q.heads()}, {q.heads()});
  to.t5 = g.place("t5", {1, 1, buckets, q.heads()}, {buckets, q.heads()});
  to.sinks = g.place("sinks", {1, 1, 1, q.heads()}, {q.heads()});
  return to;
}

// A row of numbers a head, or none.
Input optional_rows(nb::handle object, const char* what) {
  return import_optional(import_lse, object, what);
}

Gradients backward(nb::handle q, nb::handle k, nb::handle v, nb::handle out, nb::handle lse,
                   nb::handle d_out, nb::handle d_lse, nb::handle entropy, nb::handle d_entropy,
                   const std::vector<std::string>& wrt, MaskArgument mask, ScoreArgument score,
                   std::optional<double> scale, std::int64_t query_start, nb::handle q_positions,
                   nb::handle k_positions, DropoutArgument dropout, int threads,
                   const std::string& isa) {
  const Input qi = import_tensor(q, "[backward] q"), ki = import_tensor(k, "[backward] k");
  const Input vi = import_tensor(v, "[backward] v"), oi = import_tensor(out, "[backward] out");
  const Input li = import_lse(lse, "[backward] lse");
  const Input d_oi = import_tensor(d_out, "[backward] d_out");
  const Input d_li = optional_rows(d_lse, "[backward] d_lse");
  const Input ei = optional_rows(entropy, "[backward] entropy");
  const Input d_ei = optional_rows(d_entropy, "[backward] d_entropy");
  const CallOptions call = call_options("[backward]", mask, score, scale, query_start, q_positions,
                                        k_positions, dropout);
  const Context& where = context(threads, isa);
  const AttentionShape shape = AttentionShape::of(qi.view, ki.view, vi.view);
  Gradients gradients("[backward]", wrt, kind_of(q), qi.view.dtype);
  const InputGradients to = places(gradients, qi.view, ki.view, vi.view, call);
  {
    nb::gil_scoped_release release;
    plan(shape, call.options, where)
        .backward({qi.view, ki.view, vi.view}, {.out = oi.view, .lse = li.view, .entropy = ei.view},
                  {.out = d_oi.view, .lse = d_li.view, .entropy = d_ei.view}, to);
  }
  call.mask.check();
  return gradients;
}

Gradients reference_backward(nb::handle q, nb::handle k, nb::handle v, nb::handle d_out,
                             nb::handle d_lse, nb::handle d_entropy,
                             const std::vector<std::string>& wrt, MaskArgument mask,
                             ScoreArgument score, std::optional<double> scale,
                             std::int64_t query_start, nb::handle q_positions,
                             nb::handle k_positions, DropoutArgument dropout) {
  const ReferenceInputs in("[backward]", import_tensor(q, "[backward] q"),
                           import_tensor(k, "[backward] k"),
                           call_options("[backward]", mask, score, scale, query_start, q_positions,
                                        k_positions, dropout));
  const Doubles vd = as_doubles(import_tensor(v, "[backward] v").view);
  const Doubles d_od = as_doubles(import_tensor(d_out, "[backward] d_out").view);
  const auto doubles = [](const Input& x) {
    return x.view.empty() ? Doubles{} : as_doubles(x.view);
  };
  const Doubles d_ld = doubles(optional_rows(d_lse, "[backward] d_lse"));
  const Doubles d_ed = doubles(optional_rows(d_entropy, "[backward] d_entropy"));
  AttentionShape::of(in.q.view, in.k.view, vd.view);
  Gradients gradients("[backward]", wrt, kind_of(q), DType::f64);
  const InputGradients to = places(gradients, in.q.view, in.k.view, vd.view, in.call);
  {
    nb::gil_scoped_release release;
    reference::backward({in.q.view, in.k.view, vd.view},
                        {.out = d_od.view, .lse = d_ld.view, .entropy = d_ed.view}, to,
                        in.call.options);
  }
  in.call.mask.check();
  return gradients;
}

}  // namespace

void bind_gradient(nb::module_& m) {
  Gradients::bind(m, "Gradients");

  const std::vector<std::string> first{"q", "k", "v"};
  m.def("backward", &backward, "q"_a, "k"_a, "v"_a, "out"_a, "lse"_a, "d_out"_a, nb::kw_only(),
        "d_lse"_a = nb::none(), "entropy"_a = nb::none(), "d_entropy"_a = nb::none(),
        "wrt"_a = first, "mask"_a = nb::none(), "score"_a = nb::none(), "scale"_a = nb::none(),
        "query_start"_a = 0, "q_positions"_a = nb::none(), "k_positions"_a = nb::none(),
        "dropout"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(Gradients of exact attention, in O(L) memory, for every mask and score.

q, k, v and the options are those of attention(..., return_lse=True), which returned out and lse;
d_out is the gradient of the loss with respect to out. float32, or float64 throughout. d_lse: the
gradient with respect to lse; d_entropy: to the entropy that observe() reports, which is then needed
too.

wrt: with respect to what, among q, k, v, bias, alibi_slopes, t5 and sinks; all but the first three
belong to the score. A gradient has the shape of what it belongs to, summed where that broadcast.)");
  m.def("reference_backward", &reference_backward, "q"_a, "k"_a, "v"_a, "d_out"_a, nb::kw_only(),
        "d_lse"_a = nb::none(), "d_entropy"_a = nb::none(), "wrt"_a = first, "mask"_a = nb::none(),
        "score"_a = nb::none(), "scale"_a = nb::none(), "query_start"_a = 0,
        "q_positions"_a = nb::none(), "k_positions"_a = nb::none(), "dropout"_a = nb::none(),
        "The oracle: backward() once more, plain and slow, in float64; computes the forward pass "
        "itself.");
}

}  // namespace attn::python
