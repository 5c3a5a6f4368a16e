// attn.backward, and the oracle's.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "attn/reference.h"
#include "bindings.h"

namespace attn::python {

using namespace nb::literals;

namespace {

constexpr std::array kInputs{"q", "k", "v", "bias", "alibi_slopes", "t5", "sinks"};

// Gradients by name; None for what was not asked.
struct Gradients {
  std::array<nb::object, kInputs.size()> values;

  Gradients() { values.fill(nb::none()); }
};

// Memory for the gradients that `names` ask for.
class Asked {
 public:
  Asked(const std::vector<std::string>& names, Kind kind, DType type, const ConstTensor& q,
        const ConstTensor& k, const ConstTensor& v, const CallOptions& call)
      : kind_(kind), type_(type) {
    const auto asked = [&](const char* input) {
      return std::find(names.begin(), names.end(), input) != names.end();
    };
    for (const std::string& name : names) {
      if (std::find(kInputs.begin(), kInputs.end(), name) == kInputs.end()) {
        throw std::invalid_argument("[backward] wrt holds '" + name +
                                    "', must be among q, k, v, bias, alibi_slopes, t5, sinks");
      }
    }
    const Score& score = call.options.score;
    const auto dimensions = [](const ConstTensor& x) {
      return std::vector<std::int64_t>(x.shape.begin(), x.shape.end());
    };
    if (asked("q")) to_.q = place(0, dimensions(q), q.shape);
    if (asked("k")) to_.k = place(1, dimensions(k), k.shape);
    if (asked("v")) to_.v = place(2, dimensions(v), v.shape);
    if (asked("bias")) {
      // As the caller's array, whose missing dimensions come in front.
      const Shape shape = score.bias.empty() ? Shape{1, 1, 1, 1} : score.bias.shape;
      const std::ptrdiff_t missing =
          call.bias ? 4 - static_cast<std::ptrdiff_t>(call.bias->array.ndim()) : 0;
      to_.bias = place(3, {shape.begin() + missing, shape.end()}, shape);
    }
    if (asked("alibi_slopes")) to_.alibi_slopes = place(4, {q.heads()}, {1, 1, 1, q.heads()});
    if (asked("t5")) {
      const std::int64_t buckets = score.t5 ? score.t5->buckets : 1;
      to_.t5 = place(5, {buckets, q.heads()}, {1, 1, buckets, q.heads()});
    }
    if (asked("sinks")) to_.sinks = place(6, {q.heads()}, {1, 1, 1, q.heads()});
  }

  const InputGradients& to() const { return to_; }

  Gradients gradients() const {
    Gradients g;
    for (const auto& [input, output] : outputs_) g.values[input] = output.object();
    return g;
  }

 private:
  Tensor place(std::size_t input, const std::vector<std::int64_t>& dimensions, const Shape& shape) {
    Output out = new_output(kind_, type_, dimensions);
    out.view.shape = shape;
    out.view.strides = strides_bhld(shape);
    outputs_.emplace_back(input, out);
    return out.view;
  }

  Kind kind_;
  DType type_;
  InputGradients to_;
  std::vector<std::pair<std::size_t, Output>> outputs_;
};

// A row of numbers a head, or none.
Input optional_rows(nb::handle object, const char* what) {
  return object.is_none() ? Input{} : import_lse(object, what);
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
  const Asked asked(wrt, kind_of(q), qi.view.dtype, qi.view, ki.view, vi.view, call);
  {
    nb::gil_scoped_release release;
    plan(shape, call.options, where)
        .backward({qi.view, ki.view, vi.view}, {.out = oi.view, .lse = li.view, .entropy = ei.view},
                  {.out = d_oi.view, .lse = d_li.view, .entropy = d_ei.view}, asked.to());
  }
  call.mask.check();
  return asked.gradients();
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
  const Asked asked(wrt, kind_of(q), DType::f64, in.q.view, in.k.view, vd.view, in.call);
  {
    nb::gil_scoped_release release;
    reference::backward({in.q.view, in.k.view, vd.view},
                        {.out = d_od.view, .lse = d_ld.view, .entropy = d_ed.view}, asked.to(),
                        in.call.options);
  }
  in.call.mask.check();
  return asked.gradients();
}

}  // namespace

void bind_gradient(nb::module_& m) {
  nb::class_<Gradients> gradients(m, "Gradients",
                                  "Gradients by name, each as what it belongs to; None for what "
                                  "was not asked.");
  for (std::size_t i = 0; i < kInputs.size(); ++i) {
    gradients.def_prop_ro(kInputs[i],
                          [i](const Gradients& g) { return nb::borrow<nb::any>(g.values[i]); });
  }
  gradients.def("__repr__", [](const Gradients& g) {
    std::string names;
    for (std::size_t i = 0; i < kInputs.size(); ++i) {
      if (!g.values[i].is_none()) names += (names.empty() ? "" : ", ") + std::string(kInputs[i]);
    }
    return "Gradients(" + names + ")";
  });

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
