// attn.additive, attn.luong, attn.luong_local, their gradients, and the oracle's.
#include "attn/additive.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <numeric>
#include <string>
#include <utility>

#include "attn/luong.h"
#include "attn/reference_recurrent.h"
#include "bindings.h"

namespace attn::python {

using namespace nb::literals;

namespace {

constexpr std::array kNames{"q", "k", "v", "v_a", "w", "w_p", "v_p"};

// Gradients by name; None for what has none.
struct AdditiveGradientSet {
  std::array<nb::object, kNames.size()> values;

  AdditiveGradientSet() { values.fill(nb::none()); }
};

Input import_or_none(nb::handle object, const std::string& what) {
  return object.is_none() ? Input{} : import_broadcast(object, what);
}

// [D] or [heads, D], seen as [1, heads, 1, D].
Input import_vector(nb::handle object, const std::string& what) {
  Input in = import_or_none(object, what);
  std::swap(in.view.shape[1], in.view.shape[2]);
  std::swap(in.view.strides[1], in.view.strides[2]);
  return in;
}

// Copies for the oracle; nothing of nothing.
Doubles doubles(const ConstTensor& x) { return x.empty() ? Doubles{} : as_doubles(x); }

// Where gradients go: arrays as the inputs are.
class Asked {
 public:
  Asked(Kind kind, DType type) : kind_(kind), type_(type) {}

  Tensor place(std::size_t name, const Input& of) {
    if (of.view.empty()) return {};
    std::vector<std::int64_t> dimensions;
    for (std::size_t i = 0; i < of.array.ndim(); ++i)
      dimensions.push_back(static_cast<std::int64_t>(of.array.shape(i)));
    Output out = new_output(kind_, type_, dimensions);
    out.view.shape = of.view.shape;
    out.view.strides = strides_bhld(of.view.shape);
    outputs_.emplace_back(name, out);
    return out.view;
  }
  AdditiveGradientSet gradients() const {
    AdditiveGradientSet set;
    for (const auto& [name, output] : outputs_) set.values[name] = output.object();
    return set;
  }

 private:
  Kind kind_;
  DType type_;
  std::vector<std::pair<std::size_t, Output>> outputs_;
};

// out, and what else is asked: (out, lse, weights).
class Answers {
 public:
  Answers(Kind kind, DType type, const ConstTensor& q, std::int64_t k_len, std::int64_t v_width,
          bool with_lse, bool with_weights)
      : results_(kind, type, q, v_width, with_lse) {
    if (!with_weights) return;
    weights_ = new_output(kind, type, {q.batch(), q.heads(), q.length(), k_len});
    queries_.resize(static_cast<std::size_t>(q.length()));
    std::iota(queries_.begin(), queries_.end(), 0);
  }
  const Tensor& out() const { return results_.out.view; }
  Tensor weights() const { return weights_ ? weights_->view : Tensor{}; }
  Observed observed() const {
    Observed asked = results_.observed();
    if (weights_ && !queries_.empty()) asked.rows = {queries_, weights_->view};
    return asked;
  }
  nb::any object() const {
    nb::list all;
    all.append(results_.out.object());
    if (results_.lse) all.append(results_.lse->object());
    if (weights_) all.append(weights_->object());
    return nb::borrow<nb::any>(nb::len(all) == 1 ? nb::object(all[0]) : nb::object(nb::tuple(all)));
  }

 private:
  Results results_;
  std::optional<Output> weights_;
  std::vector<std::int64_t> queries_;
};

// Prepared keys, with the array that they refer to.
struct PyKeys {
  Input k;
  AdditiveKeys keys;
};

PyKeys make_keys(nb::handle k, int threads, const std::string& isa) {
  Input in = import_tensor(k, "[additive] k");
  const Context& where = context(threads, isa);
  AdditiveKeys keys = [&] {
    nb::gil_scoped_release release;
    return AdditiveKeys(in.view, where);
  }();
  return {std::move(in), std::move(keys)};
}

CallOptions options_of(const char* function, MaskArgument mask, ScoreArgument score,
                       std::int64_t query_start, nb::handle q_positions, nb::handle k_positions,
                       DropoutArgument dropout) {
  return call_options(function, mask, score, std::nullopt, query_start, q_positions, k_positions,
                      dropout);
}

nb::any call_additive(nb::handle q, nb::handle k, nb::handle v, nb::handle v_a, MaskArgument mask,
                      ScoreArgument score, bool return_lse, bool return_weights,
                      std::int64_t query_start, nb::handle q_positions, nb::handle k_positions,
                      DropoutArgument dropout, int threads, const std::string& isa) {
  const PyKeys* kept = nullptr;
  const bool prepared = nb::try_cast(k, kept) && kept != nullptr;
  PyErr_Clear();
  const Input qi = import_tensor(q, "[additive] q"), vi = import_tensor(v, "[additive] v");
  const Input ki = prepared ? kept->k : import_tensor(k, "[additive] k");
  const Input ai = import_vector(v_a, "[additive] v_a");
  const CallOptions call =
      options_of("[additive]", mask, score, query_start, q_positions, k_positions, dropout);
  const Context& where = context(threads, isa);
  const Answers answers(kind_of(q), qi.view.dtype, qi.view, ki.view.length(), vi.view.width(),
                        return_lse, return_weights);
  {
    nb::gil_scoped_release release;
    if (prepared)
      additive(qi.view, kept->keys, vi.view, ai.view, answers.out(), call.options, where,
               answers.observed());
    else
      additive({qi.view, ki.view, vi.view, ai.view}, answers.out(), call.options, where,
               answers.observed());
  }
  call.mask.check();
  return answers.object();
}

AdditiveGradientSet call_additive_backward(nb::handle q, nb::handle k, nb::handle v, nb::handle v_a,
                                           nb::handle out, nb::handle lse, nb::handle d_out,
                                           nb::handle d_lse, MaskArgument mask, ScoreArgument score,
                                           std::int64_t query_start, nb::handle q_positions,
                                           nb::handle k_positions, DropoutArgument dropout,
                                           int threads, const std::string& isa) {
  const Input qi = import_tensor(q, "[additive] q"), ki = import_tensor(k, "[additive] k");
  const Input vi = import_tensor(v, "[additive] v"), ai = import_vector(v_a, "[additive] v_a");
  const Input oi = import_tensor(out, "[additive] out"), li = import_lse(lse, "[additive] lse");
  const Input doi = import_tensor(d_out, "[additive] d_out");
  const Input dli = d_lse.is_none() ? Input{} : import_lse(d_lse, "[additive] d_lse");
  const CallOptions call =
      options_of("[additive]", mask, score, query_start, q_positions, k_positions, dropout);
  const Context& where = context(threads, isa);
  Asked asked(kind_of(q), qi.view.dtype);
  const AdditiveGradients to{asked.place(0, qi), asked.place(1, ki), asked.place(2, vi),
                             asked.place(3, ai)};
  {
    nb::gil_scoped_release release;
    additive_backward({qi.view, ki.view, vi.view, ai.view}, {.out = oi.view, .lse = li.view},
                      {.out = doi.view, .lse = dli.view}, to, call.options, where);
  }
  call.mask.check();
  return asked.gradients();
}

nb::any reference_additive(nb::handle q, nb::handle k, nb::handle v, nb::handle v_a,
                           MaskArgument mask, ScoreArgument score, bool return_lse,
                           bool return_weights, std::int64_t query_start, nb::handle q_positions,
                           nb::handle k_positions, DropoutArgument dropout) {
  const ReferenceInputs in(
      "[additive]", import_tensor(q, "[additive] q"), import_tensor(k, "[additive] k"),
      options_of("[additive]", mask, score, query_start, q_positions, k_positions, dropout));
  const Doubles vd = as_doubles(import_tensor(v, "[additive] v").view);
  const Doubles ad = as_doubles(import_vector(v_a, "[additive] v_a").view);
  const Answers answers(kind_of(q), DType::f64, in.q.view, in.k.view.length(), vd.view.width(),
                        return_lse, return_weights);
  {
    nb::gil_scoped_release release;
    reference::additive({in.q.view, in.k.view, vd.view, ad.view}, answers.out(), in.call.options,
                        answers.observed());
  }
  in.call.mask.check();
  return answers.object();
}

nb::any call_luong(nb::handle q, nb::handle k, nb::handle v, nb::handle w, nb::handle v_a,
                   MaskArgument mask, ScoreArgument score, bool return_lse, bool return_weights,
                   std::int64_t query_start, nb::handle q_positions, nb::handle k_positions,
                   DropoutArgument dropout, int threads, const std::string& isa) {
  const Input qi = import_tensor(q, "[luong] q"), ki = import_tensor(k, "[luong] k");
  const Input vi = import_tensor(v, "[luong] v");
  const Input wi = import_or_none(w, "[luong] w"), ai = import_vector(v_a, "[luong] v_a");
  const CallOptions call =
      options_of("[luong]", mask, score, query_start, q_positions, k_positions, dropout);
  const Context& where = context(threads, isa);
  const Answers answers(kind_of(q), qi.view.dtype, qi.view, ki.view.length(), vi.view.width(),
                        return_lse, return_weights);
  {
    nb::gil_scoped_release release;
    luong({qi.view, ki.view, vi.view}, {wi.view, ai.view}, answers.out(), call.options, where,
          answers.observed());
  }
  call.mask.check();
  return answers.object();
}

AdditiveGradientSet call_luong_backward(nb::handle q, nb::handle k, nb::handle v, nb::handle out,
                                        nb::handle lse, nb::handle d_out, nb::handle w,
                                        nb::handle v_a, nb::handle d_lse, MaskArgument mask,
                                        ScoreArgument score, std::int64_t query_start,
                                        nb::handle q_positions, nb::handle k_positions,
                                        DropoutArgument dropout, int threads,
                                        const std::string& isa) {
  const Input qi = import_tensor(q, "[luong] q"), ki = import_tensor(k, "[luong] k");
  const Input vi = import_tensor(v, "[luong] v");
  const Input wi = import_or_none(w, "[luong] w"), ai = import_vector(v_a, "[luong] v_a");
  const Input oi = import_tensor(out, "[luong] out"), li = import_lse(lse, "[luong] lse");
  const Input doi = import_tensor(d_out, "[luong] d_out");
  const Input dli = d_lse.is_none() ? Input{} : import_lse(d_lse, "[luong] d_lse");
  const CallOptions call =
      options_of("[luong]", mask, score, query_start, q_positions, k_positions, dropout);
  const Context& where = context(threads, isa);
  Asked asked(kind_of(q), qi.view.dtype);
  const LuongGradients to{asked.place(0, qi), asked.place(1, ki), asked.place(2, vi),
                          asked.place(4, wi), asked.place(3, ai)};
  {
    nb::gil_scoped_release release;
    luong_backward({qi.view, ki.view, vi.view}, {wi.view, ai.view},
                   {.out = oi.view, .lse = li.view}, {.out = doi.view, .lse = dli.view}, to,
                   call.options, where);
  }
  call.mask.check();
  return asked.gradients();
}

// What local attention reads beside queries, keys and values.
struct LocalInputs {
  Input w, w_p, v_p;
  LuongLocal local;

  LocalInputs(nb::handle w_given, nb::handle w_p_given, nb::handle v_p_given, double window,
              nb::handle lengths)
      : w(import_or_none(w_given, "[luong_local] w")),
        w_p(import_broadcast(w_p_given, "[luong_local] w_p")),
        v_p(import_vector(v_p_given, "[luong_local] v_p")) {
    local = {.w_p = w_p.view,
             .v_p = v_p.view,
             .window = window,
             .lengths = import_integers(lengths, "[luong_local] lengths"),
             .w = w.view};
  }
};

nb::any call_luong_local(nb::handle q, nb::handle k, nb::handle v, nb::handle w_p, nb::handle v_p,
                         double window, nb::handle w, nb::handle lengths, bool return_positions,
                         bool return_weights, int threads) {
  const Input qi = import_tensor(q, "[luong_local] q"), ki = import_tensor(k, "[luong_local] k");
  const Input vi = import_tensor(v, "[luong_local] v");
  const LocalInputs in(w, w_p, v_p, window, lengths);
  const Context& where = context(threads, "automatic");
  // The place of a row is returned where a log-sum-exp would be.
  const Answers answers(kind_of(q), qi.view.dtype, qi.view, ki.view.length(), vi.view.width(),
                        return_positions, return_weights);
  {
    nb::gil_scoped_release release;
    luong_local({qi.view, ki.view, vi.view}, in.local, answers.out(), where,
                {.positions = answers.observed().lse, .weights = answers.weights()});
  }
  return answers.object();
}

AdditiveGradientSet call_luong_local_backward(nb::handle q, nb::handle k, nb::handle v,
                                              nb::handle w_p, nb::handle v_p, nb::handle d_out,
                                              double window, nb::handle w, nb::handle lengths,
                                              int threads) {
  const Input qi = import_tensor(q, "[luong_local] q"), ki = import_tensor(k, "[luong_local] k");
  const Input vi = import_tensor(v, "[luong_local] v");
  const Input doi = import_tensor(d_out, "[luong_local] d_out");
  const LocalInputs in(w, w_p, v_p, window, lengths);
  const Context& where = context(threads, "automatic");
  Asked asked(kind_of(q), qi.view.dtype);
  const LuongLocalGradients to{asked.place(0, qi),     asked.place(1, ki),
                               asked.place(2, vi),     asked.place(4, in.w),
                               asked.place(5, in.w_p), asked.place(6, in.v_p)};
  {
    nb::gil_scoped_release release;
    luong_local_backward({qi.view, ki.view, vi.view}, in.local, doi.view, to, where);
  }
  return asked.gradients();
}

nb::any reference_luong(nb::handle q, nb::handle k, nb::handle v, nb::handle w, nb::handle v_a,
                        MaskArgument mask, bool return_lse, bool return_weights,
                        std::int64_t query_start) {
  const ReferenceInputs in(
      "[luong]", import_tensor(q, "[luong] q"), import_tensor(k, "[luong] k"),
      options_of("[luong]", mask, {nb::none()}, query_start, nb::none(), nb::none(), {nb::none()}));
  const Doubles vd = as_doubles(import_tensor(v, "[luong] v").view);
  const Doubles wd = doubles(import_or_none(w, "[luong] w").view),
                ad = doubles(import_vector(v_a, "[luong] v_a").view);
  const Answers answers(kind_of(q), DType::f64, in.q.view, in.k.view.length(), vd.view.width(),
                        return_lse, return_weights);
  {
    nb::gil_scoped_release release;
    reference::luong({in.q.view, in.k.view, vd.view}, {wd.view, ad.view}, answers.out(),
                     in.call.options, answers.observed());
  }
  in.call.mask.check();
  return answers.object();
}

nb::any reference_luong_local(nb::handle q, nb::handle k, nb::handle v, nb::handle w_p,
                              nb::handle v_p, double window, nb::handle w, nb::handle lengths,
                              bool return_positions, bool return_weights) {
  const Doubles qd = as_doubles(import_tensor(q, "[luong_local] q").view);
  const Doubles kd = as_doubles(import_tensor(k, "[luong_local] k").view);
  const Doubles vd = as_doubles(import_tensor(v, "[luong_local] v").view);
  LocalInputs in(w, w_p, v_p, window, lengths);
  const Doubles wd = doubles(in.w.view), wpd = as_doubles(in.w_p.view),
                vpd = as_doubles(in.v_p.view);
  in.local.w = wd.view;
  in.local.w_p = wpd.view;
  in.local.v_p = vpd.view;
  const Answers answers(kind_of(q), DType::f64, qd.view, kd.view.length(), vd.view.width(),
                        return_positions, return_weights);
  {
    nb::gil_scoped_release release;
    reference::luong_local({qd.view, kd.view, vd.view}, in.local, answers.out(),
                           {.positions = answers.observed().lse, .weights = answers.weights()});
  }
  return answers.object();
}

}  // namespace

void bind_additive(nb::module_& m) {
  nb::class_<AdditiveGradientSet> gradients(
      m, "AdditiveGradients",
      "Gradients by name, each as what it belongs to; None for what was not given.");
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    gradients.def_prop_ro(
        kNames[i], [i](const AdditiveGradientSet& g) { return nb::borrow<nb::any>(g.values[i]); });
  }
  nb::class_<PyKeys>(m, "AdditiveKeys",
                     "Projected keys, prepared once for every query to come: additive() takes them "
                     "as k. The array must not change meanwhile.")
      .def(nb::new_(&make_keys), "k"_a, nb::kw_only(), "threads"_a = 0, "isa"_a = "automatic")
      .def("__repr__",
           [](const PyKeys& k) { return "AdditiveKeys(" + to_string(k.keys.k().shape) + ")"; });

  m.def("additive", &call_additive, "q"_a, "k"_a, "v"_a, "v_a"_a, nb::kw_only(),
        "mask"_a = nb::none(), "score"_a = nb::none(), "return_lse"_a = false,
        "return_weights"_a = false, "query_start"_a = 0, "q_positions"_a = nb::none(),
        "k_positions"_a = nb::none(), "dropout"_a = nb::none(), "threads"_a = 0,
        "isa"_a = "automatic",
        R"(Additive attention (Bahdanau et al., arXiv 1409.0473): score(q, k) = v_a . tanh(q + k).

q [B, H, Lq, D] and k [B, H, Lk, D] come projected (W s + b and U h), v [B, H, Lk, Dv] are values,
v_a [D] or [H, D]; float32 or float64. Returns out [B, H, Lq, Dv], or a tuple of out, the natural-log
sum of e^score [B, H, Lq] (return_lse) and the weights [B, H, Lq, Lk] (return_weights), in this
order. k may be AdditiveKeys(k), prepared once for many calls: a decoder's source. mask, score (bias,
ALiBi, sinks; no scale and no soft cap), positions and dropout as for attention().)");
  m.def(
      "additive_backward", &call_additive_backward, "q"_a, "k"_a, "v"_a, "v_a"_a, "out"_a, "lse"_a,
      "d_out"_a, nb::kw_only(), "d_lse"_a = nb::none(), "mask"_a = nb::none(),
      "score"_a = nb::none(), "query_start"_a = 0, "q_positions"_a = nb::none(),
      "k_positions"_a = nb::none(), "dropout"_a = nb::none(), "threads"_a = 0,
      "isa"_a = "automatic",
      "Gradients of additive() with respect to q, k, v and v_a, in O(L D) memory; out and lse are "
      "what it returned, d_out and d_lse the gradients of the loss with respect to them.");
  m.def("luong", &call_luong, "q"_a, "k"_a, "v"_a, nb::kw_only(), "w"_a = nb::none(),
        "v_a"_a = nb::none(), "mask"_a = nb::none(), "score"_a = nb::none(), "return_lse"_a = false,
        "return_weights"_a = false, "query_start"_a = 0, "q_positions"_a = nb::none(),
        "k_positions"_a = nb::none(), "dropout"_a = nb::none(), "threads"_a = 0,
        "isa"_a = "automatic",
        R"(Multiplicative attention (Luong et al., arXiv 1508.04025), without a scale.

What is given says which score: nothing q . k (dot); w [Dq, Dk] q . (w k) (general); w [D, Dq + Dk]
and v_a [D] v_a . tanh(w [q; k]) (concat). Either may have a dimension of heads in front. Shapes,
options and what is returned as for additive().)");
  m.def("luong_backward", &call_luong_backward, "q"_a, "k"_a, "v"_a, "out"_a, "lse"_a, "d_out"_a,
        nb::kw_only(), "w"_a = nb::none(), "v_a"_a = nb::none(), "d_lse"_a = nb::none(),
        "mask"_a = nb::none(), "score"_a = nb::none(), "query_start"_a = 0,
        "q_positions"_a = nb::none(), "k_positions"_a = nb::none(), "dropout"_a = nb::none(),
        "threads"_a = 0, "isa"_a = "automatic",
        "Gradients of luong() with respect to q, k, v and the given w and v_a.");
  m.def("luong_local", &call_luong_local, "q"_a, "k"_a, "v"_a, "w_p"_a, "v_p"_a, nb::kw_only(),
        "window"_a = 10.0, "w"_a = nb::none(), "lengths"_a = nb::none(),
        "return_positions"_a = false, "return_weights"_a = false, "threads"_a = 0,
        R"(Luong's local attention with a predicted place (local-p, arXiv 1508.04025, 3.2).

place = S sigmoid(v_p . tanh(w_p q)); softmax over keys within `window` of it, then times
exp(-(key - place)^2 / (2 (window / 2)^2)), not normalised again. w_p [P, Dq], v_p [P], w [Dq, Dk]
for the general score, a dimension of heads in front of each or none; lengths: S of each batch
entry (Lk by default). Returns out, or a tuple of out, the places [B, H, Lq] and the weights.)");
  m.def("luong_local_backward", &call_luong_local_backward, "q"_a, "k"_a, "v"_a, "w_p"_a, "v_p"_a,
        "d_out"_a, nb::kw_only(), "window"_a = 10.0, "w"_a = nb::none(), "lengths"_a = nb::none(),
        "threads"_a = 0,
        "Gradients of luong_local() with respect to q, k, v, w_p, v_p and the given w.");

  m.def("reference_additive", &reference_additive, "q"_a, "k"_a, "v"_a, "v_a"_a, nb::kw_only(),
        "mask"_a = nb::none(), "score"_a = nb::none(), "return_lse"_a = false,
        "return_weights"_a = false, "query_start"_a = 0, "q_positions"_a = nb::none(),
        "k_positions"_a = nb::none(), "dropout"_a = nb::none(),
        "The oracle: additive() once more, plain and slow, in float64.");
  m.def("reference_luong", &reference_luong, "q"_a, "k"_a, "v"_a, nb::kw_only(), "w"_a = nb::none(),
        "v_a"_a = nb::none(), "mask"_a = nb::none(), "return_lse"_a = false,
        "return_weights"_a = false, "query_start"_a = 0,
        "The oracle: luong() once more, plain and slow, in float64.");
  m.def("reference_luong_local", &reference_luong_local, "q"_a, "k"_a, "v"_a, "w_p"_a, "v_p"_a,
        nb::kw_only(), "window"_a = 10.0, "w"_a = nb::none(), "lengths"_a = nb::none(),
        "return_positions"_a = false, "return_weights"_a = false,
        "The oracle: luong_local() once more, plain and slow, in float64.");
}

}  // namespace attn::python
