// attn.attention, attn.plan, attn.merge and the oracle.
#include "attn/attention.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <mutex>
#include <stdexcept>

#include "attn/reference.h"
#include "bindings.h"

namespace attn::python {

using namespace nb::literals;

namespace {

nb::any attend(nb::handle q, nb::handle k, nb::handle v, MaskArgument mask, ScoreArgument score,
               std::optional<double> scale, bool return_lse, std::int64_t query_start,
               nb::handle q_positions, nb::handle k_positions, DropoutArgument dropout,
               nb::handle out, int threads, const std::string& isa) {
  const Input qi = import_tensor(q, "[attention] q"), ki = import_tensor(k, "[attention] k");
  const Input vi = import_tensor(v, "[attention] v");
  const CallOptions call = call_options("[attention]", mask, score, scale, query_start, q_positions,
                                        k_positions, dropout);
  const Context& where = context(threads, isa);
  AttentionShape::of(qi.view, ki.view, vi.view);  // before memory is asked for
  const Results results(kind_of(q), qi.view.dtype, qi.view, vi.view.width(), return_lse, out);
  {
    nb::gil_scoped_release release;
    attention(qi.view, ki.view, vi.view, results.out.view, call.options, where, results.observed());
  }
  call.mask.check();
  return nb::borrow<nb::any>(results.object());
}

nb::any reference_attention(nb::handle q, nb::handle k, nb::handle v, MaskArgument mask,
                            ScoreArgument score, std::optional<double> scale, bool return_lse,
                            std::int64_t query_start, nb::handle q_positions,
                            nb::handle k_positions, DropoutArgument dropout) {
  const Input vi = import_tensor(v, "[attention] v");
  const ReferenceInputs in("[attention]", import_tensor(q, "[attention] q"),
                           import_tensor(k, "[attention] k"),
                           call_options("[attention]", mask, score, scale, query_start, q_positions,
                                        k_positions, dropout));
  const Doubles vd = as_doubles(vi.view);
  AttentionShape::of(in.q.view, in.k.view, vd.view);
  const Results results(kind_of(q), DType::f64, in.q.view, vd.view.width(), return_lse);
  {
    nb::gil_scoped_release release;
    reference::attention(in.q.view, in.k.view, vd.view, results.out.view, in.call.options,
                         results.observed());
  }
  in.call.mask.check();
  return nb::borrow<nb::any>(results.object());
}

nb::any reference_weights(nb::handle q, nb::handle k, MaskArgument mask, ScoreArgument score,
                          std::optional<double> scale, std::int64_t query_start,
                          nb::handle q_positions, nb::handle k_positions, DropoutArgument dropout) {
  const ReferenceInputs in("[weights]", import_tensor(q, "[weights] q"),
                           import_tensor(k, "[weights] k"),
                           call_options("[weights]", mask, score, scale, query_start, q_positions,
                                        k_positions, dropout));
  const Output out =
      new_output(kind_of(q), DType::f64,
                 {in.q.view.batch(), in.q.view.heads(), in.q.view.length(), in.k.view.length()});
  {
    nb::gil_scoped_release release;
    reference::weights(in.q.view, in.k.view, in.call.options, out.view);
  }
  in.call.mask.check();
  return nb::borrow<nb::any>(out.object());
}

nb::any merged(nb::handle out_a, nb::handle lse_a, nb::handle out_b, nb::handle lse_b,
               nb::handle sinks) {
  const Input oa = import_tensor(out_a, "[merge] out_a"),
              ob = import_tensor(out_b, "[merge] out_b");
  const Input la = import_lse(lse_a, "[merge] lse_a"), lb = import_lse(lse_b, "[merge] lse_b");
  const std::vector<float> sink = import_floats(sinks, "[merge] sinks");
  const Results results(kind_of(out_a), oa.view.dtype, oa.view, oa.view.width(), true);
  {
    nb::gil_scoped_release release;
    merge(oa.view, la.view, ob.view, lb.view, results.out.view, results.lse->view, sink);
  }
  return nb::borrow<nb::any>(results.object());
}

DType dtype_from_name(const std::string& given) {
  for (const DType type : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    if (given == name(type)) return type;
  }
  throw std::invalid_argument("[plan] dtype is '" + given +
                              "', must be float32, float64, bfloat16 or float16");
}

// A plan with what it reads: its mask's predicates and its score's bias.
struct PyPlan {
  CallOptions call;
  Context context;
  Plan plan;
  AttentionShape shape;
  std::unique_ptr<std::mutex> busy = std::make_unique<std::mutex>();
};

PyPlan make_plan(const std::vector<std::int64_t>& shape, MaskArgument mask, ScoreArgument score,
                 std::optional<double> scale, std::int64_t v_width, const std::string& dtype,
                 std::int64_t query_start, nb::handle q_positions, nb::handle k_positions,
                 DropoutArgument dropout, int threads, const std::string& isa) {
  if (shape.size() != 6) {
    throw std::invalid_argument("[plan] shape has " + std::to_string(shape.size()) +
                                " numbers, must have 6: batch, query heads, key/value heads, query "
                                "length, key length, width");
  }
  const AttentionShape s{.batch = shape[0],
                         .q_heads = shape[1],
                         .kv_heads = shape[2],
                         .q_len = shape[3],
                         .k_len = shape[4],
                         .width = shape[5],
                         .v_width = v_width == 0 ? shape[5] : v_width,
                         .dtype = dtype_from_name(dtype)};
  CallOptions call =
      call_options("[plan]", mask, score, scale, query_start, q_positions, k_positions, dropout);
  Context own({.threads = threads, .isa = isa_from_name(isa)});
  Plan plan = [&] {
    nb::gil_scoped_release release;
    return attn::plan(s, call.options, own);
  }();
  call.mask.check();
  return {std::move(call), std::move(own), std::move(plan), s};
}

nb::any run_plan(const PyPlan& p, nb::handle q, nb::handle k, nb::handle v, bool return_lse) {
  const Input qi = import_tensor(q, "[run] q"), ki = import_tensor(k, "[run] k");
  const Input vi = import_tensor(v, "[run] v");
  const Results results(kind_of(q), qi.view.dtype, qi.view, p.shape.v_width, return_lse);
  {
    nb::gil_scoped_release release;
    const std::lock_guard one_at_a_time(*p.busy);  // a context serves one caller
    p.plan.run(qi.view, ki.view, vi.view, results.out.view, results.observed());
  }
  p.call.mask.check();
  return nb::borrow<nb::any>(results.object());
}

}  // namespace

void bind_attention(nb::module_& m) {
  m.def("attention", &attend, "q"_a, "k"_a, "v"_a, nb::kw_only(), "mask"_a = nb::none(),
        "score"_a = nb::none(), "scale"_a = nb::none(), "return_lse"_a = false, "query_start"_a = 0,
        "q_positions"_a = nb::none(), "k_positions"_a = nb::none(), "dropout"_a = nb::none(),
        "out"_a = nb::none(), "threads"_a = 0, "isa"_a = "automatic",
        R"(Exact attention.

q [B, Hq, Lq, D], k [B, Hkv, Lk, D], v [B, Hkv, Lk, Dv]; Hq a multiple of Hkv; float32, bfloat16 or
float16 (computed in float32), or float64 throughout; NumPy, PyTorch or any array with DLPack, read
without a copy, any strides with the last dimension contiguous. Returns [B, Hq, Lq, Dv] of q's kind
and type; with return_lse also the natural-log sum of e^score, [B, Hq, Lq], without the sink. A row
that sees nothing is 0, its lse -inf.

out: an array to write into, in place of a new one, of q's type, or float32 where that is a 16-bit
one; it must not overlap the inputs.
Queries stand at query_start, query_start + 1, ... unless q_positions are given: for a cache,
query_start = Lk - Lq. mask: a Mask, its text ("causal", see Mask.parse) or an array as Mask.dense
takes it. score: a Score or its text. dropout: a Dropout; a number alone is refused, as it would drop
the same pairs at every call. threads 0: as many as this process may use; one in a process forked
after attn ran several threads, as OpenMP's do not follow a fork.)");
  m.def("merge", &merged, "out_a"_a, "lse_a"_a, "out_b"_a, "lse_b"_a, nb::kw_only(),
        "sinks"_a = nb::none(),
        "(out, lse) of two results over disjoint sets of keys. Parts are made without sinks; sinks "
        "are applied here, to the last join.");

  nb::class_<PlanSummary> summary(m, "PlanSummary", "What a plan will do.");
  summary.def_ro("kernel", &PlanSummary::kernel)
      .def_prop_ro("isa", [](const PlanSummary& s) { return std::string(name(s.isa)); })
      .def_ro("threads", &PlanSummary::threads)
      .def_ro("tiles_full", &PlanSummary::tiles_full)
      .def_ro("tiles_partial", &PlanSummary::tiles_partial)
      .def_ro("tiles_skipped", &PlanSummary::tiles_skipped)
      .def_ro("row_block", &PlanSummary::row_block)
      .def_ro("key_tile", &PlanSummary::key_tile)
      .def_ro("segment", &PlanSummary::segment)
      .def_ro("visible_pairs", &PlanSummary::visible_pairs)
      .def_ro("flops", &PlanSummary::flops)
      .def_ro("bytes", &PlanSummary::bytes)
      .def_ro("score_matrix_bytes", &PlanSummary::score_matrix_bytes)
      .def_ro("workspace_bytes", &PlanSummary::workspace_bytes)
      .def_ro("empty_rows", &PlanSummary::empty_rows)
      .def_ro("sees_future", &PlanSummary::sees_future);

  nb::class_<PyPlan>(m, "Plan", "A schedule, made once and run many times.")
      .def("run", &run_plan, "q"_a, "k"_a, "v"_a, nb::kw_only(), "return_lse"_a = false,
           "The same arguments and results as attention().")
      .def(
          "explain", [](const PyPlan& p) { return p.plan.explain(); }, "What it does, as text.")
      .def_prop_ro("summary", [](const PyPlan& p) { return p.plan.summary(); })
      .def("__repr__", [](const PyPlan& p) {
        return "Plan(" + p.plan.summary().kernel + ", " + name(p.plan.summary().isa) + ")";
      });
  m.def("plan", &make_plan, "shape"_a, nb::kw_only(), "mask"_a = nb::none(), "score"_a = nb::none(),
        "scale"_a = nb::none(), "v_width"_a = 0, "dtype"_a = "float32", "query_start"_a = 0,
        "q_positions"_a = nb::none(), "k_positions"_a = nb::none(), "dropout"_a = nb::none(),
        "threads"_a = 0, "isa"_a = "automatic",
        "A plan for (batch, query heads, key/value heads, query length, key length, width).");

  m.def("reference_attention", &reference_attention, "q"_a, "k"_a, "v"_a, nb::kw_only(),
        "mask"_a = nb::none(), "score"_a = nb::none(), "scale"_a = nb::none(),
        "return_lse"_a = false, "query_start"_a = 0, "q_positions"_a = nb::none(),
        "k_positions"_a = nb::none(), "dropout"_a = nb::none(),
        "The oracle: attention() once more, plain and slow, in float64; answers in float64.");
  m.def("reference_weights", &reference_weights, "q"_a, "k"_a, nb::kw_only(), "mask"_a = nb::none(),
        "score"_a = nb::none(), "scale"_a = nb::none(), "query_start"_a = 0,
        "q_positions"_a = nb::none(), "k_positions"_a = nb::none(), "dropout"_a = nb::none(),
        "What multiplies the values: probabilities, after dropout, [B, Hq, Lq, Lk] float64.");
}

}  // namespace attn::python
