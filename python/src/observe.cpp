// attn.observe: questions, answered in the run that computes the output; and the oracle's answers.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include "attn/reference.h"
#include "bindings.h"
#include "questions.h"

namespace attn::python {

using namespace nb::literals;

namespace {

using Observation = std::tuple<nb::any, Answers>;

Observation observe(nb::handle q, nb::handle k, nb::handle v, MaskArgument mask,
                    ScoreArgument score, std::optional<double> scale, std::int64_t query_start,
                    nb::handle q_positions, nb::handle k_positions, DropoutArgument dropout,
                    nb::handle out, int threads, const std::string& isa,
                    const nb::kwargs& questions) {
  const Input qi = import_tensor(q, "[observe] q"), ki = import_tensor(k, "[observe] k");
  const Input vi = import_tensor(v, "[observe] v");
  const CallOptions call =
      call_options("[observe]", mask, score, scale, query_start, q_positions, k_positions, dropout);
  const Context& where = context(threads, isa);
  const AttentionShape shape = AttentionShape::of(qi.view, ki.view, vi.view);
  const Kind kind = kind_of(q);
  const Results results(kind, qi.view.dtype, qi.view, vi.view.width(), false, out);
  const Asked asked(questions_of(questions), kind, arithmetic_type(qi.view.dtype), shape);
  {
    nb::gil_scoped_release release;
    attention(qi.view, ki.view, vi.view, results.out.view, call.options, where, asked.observed());
  }
  call.mask.check();
  return {nb::borrow<nb::any>(results.object()), asked.answers()};
}

Observation reference_observe(nb::handle q, nb::handle k, nb::handle v, MaskArgument mask,
                              ScoreArgument score, std::optional<double> scale,
                              std::int64_t query_start, nb::handle q_positions,
                              nb::handle k_positions, DropoutArgument dropout,
                              const nb::kwargs& questions) {
  const ReferenceInputs in("[observe]", import_tensor(q, "[observe] q"),
                           import_tensor(k, "[observe] k"),
                           call_options("[observe]", mask, score, scale, query_start, q_positions,
                                        k_positions, dropout));
  const Doubles vd = as_doubles(import_tensor(v, "[observe] v").view);
  const AttentionShape shape = AttentionShape::of(in.q.view, in.k.view, vd.view);
  const Kind kind = kind_of(q);
  const Results results(kind, DType::f64, in.q.view, vd.view.width(), false);
  const Asked asked(questions_of(questions), kind, DType::f64, shape);
  {
    nb::gil_scoped_release release;
    reference::attention(in.q.view, in.k.view, vd.view, results.out.view, in.call.options,
                         asked.observed());
  }
  in.call.mask.check();
  return {nb::borrow<nb::any>(results.object()), asked.answers()};
}

}  // namespace

void bind_observe(nb::module_& m) {
  m.def("observe", &observe, "q"_a, "k"_a, "v"_a, nb::kw_only(), "mask"_a = nb::none(),
        "score"_a = nb::none(), "scale"_a = nb::none(), "query_start"_a = 0,
        "q_positions"_a = nb::none(), "k_positions"_a = nb::none(), "dropout"_a = nb::none(),
        "out"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic", "questions"_a,
        R"(attention(), and what it saw: (out, answers). The questions are those of Questions.

    out, seen = attn.observe(q, k, v, entropy=True, top_k=8, mask=attn.Mask.causal())
    seen.entropy, seen.top_keys, seen.top_weights

The output has the same bits as without questions.)");
  m.def("reference_observe", &reference_observe, "q"_a, "k"_a, "v"_a, nb::kw_only(),
        "mask"_a = nb::none(), "score"_a = nb::none(), "scale"_a = nb::none(), "query_start"_a = 0,
        "q_positions"_a = nb::none(), "k_positions"_a = nb::none(), "dropout"_a = nb::none(),
        "questions"_a,
        "The oracle: observe() once more, from whole rows of probabilities, in float64.");
}

}  // namespace attn::python
