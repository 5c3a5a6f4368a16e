// attn.linear_attention with its gradients, attn.RandomFeatures, states, and the oracle.
#include "attn/linear_attention.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <tuple>

#include "attn/reference_recurrent.h"
#include "bindings.h"
#include "gradients.h"

namespace attn::python {

using namespace nb::literals;

namespace {

constexpr std::array kLinearInputs{"q", "k", "v"};
using Gradients = NamedGradients<kLinearInputs>;

// With what it was made of, to be made again.
struct PyRandomFeatures {
  std::shared_ptr<const RandomFeatures> random;
  std::uint64_t seed;
  bool orthogonal;

  PyRandomFeatures(std::int64_t width, std::int64_t count, std::uint64_t with_seed,
                   bool with_orthogonal)
      : random(std::make_shared<RandomFeatures>(width, count, with_seed, with_orthogonal)),
        seed(with_seed),
        orthogonal(with_orthogonal) {}
};
using FeaturesState = std::tuple<std::int64_t, std::int64_t, std::uint64_t, bool>;

FeatureMap map_from_name(const std::string& function, const std::string& name) {
  if (name == "identity") return FeatureMap::identity;
  if (name == "relu") return FeatureMap::relu;
  if (name == "elu") return FeatureMap::elu_plus_one;
  if (name == "favor") return FeatureMap::favor;
  throw std::invalid_argument(function + " map is '" + name +
                              "', must be identity, relu, elu or favor");
}

LinearAttentionOptions options_of(const std::string& function, const std::string& map, bool causal,
                                  bool normalise, const PyRandomFeatures* features, double epsilon,
                                  nb::handle offsets) {
  LinearAttentionOptions options{.map = map_from_name(function, map),
                                 .causal = causal,
                                 .normalise = normalise,
                                 .epsilon = epsilon,
                                 .offsets = import_integers(offsets, function + " offsets")};
  if (features != nullptr) options.random = features->random;
  return options;
}

// A state as Python has it: arrays by name, as numpy.savez takes them and numpy.load gives them.
struct State {
  std::optional<Output> sums, log_scale;

  LinearState view() const {
    return {sums ? sums->view : Tensor{}, log_scale ? log_scale->view : Tensor{}};
  }
  nb::dict object() const {
    nb::dict arrays;
    arrays["sums"] = sums->object();
    if (log_scale) arrays["log_scale"] = log_scale->object();
    return arrays;
  }
};

// A copy of what the caller has, to go on with.
State copied(nb::handle state, const std::string& function) {
  if (!nb::hasattr(state, "keys")) {
    throw nb::type_error((function + " state is a " + class_name(state) +
                          ", must be a dict with sums (and log_scale)")
                             .c_str());
  }
  State copy;
  for (nb::handle key : state.attr("keys")()) {
    const auto name = nb::cast<std::string>(nb::str(key));
    if (name != "sums" && name != "log_scale") {
      throw std::invalid_argument(function + " state holds '" + name +
                                  "', must be sums (and log_scale)");
    }
    const nb::object array = state[key];
    (name == "sums" ? copy.sums : copy.log_scale) =
        new_copy(kind_of(array), import_tensor(array, function + " state's " + name));
  }
  if (!copy.sums) throw std::invalid_argument(function + " state holds no sums");
  return copy;
}

// The state before any token.
State nothing_yet(Kind kind, const ConstTensor& q, const ConstTensor& v,
                  const LinearAttentionOptions& options) {
  const bool favor = options.map == FeatureMap::favor;
  const std::int64_t features = favor && options.random ? options.random->count() : q.width();
  const std::int64_t entries =
      options.offsets.empty() ? v.batch() : static_cast<std::int64_t>(options.offsets.size()) - 1;
  State state;
  state.sums = new_output(kind, q.dtype,
                          {entries, v.heads(), features, v.width() + (options.normalise ? 1 : 0)});
  const auto count = static_cast<std::size_t>(state.sums->view.size());
  std::memset(state.sums->view.data, 0, count * size_of(q.dtype));
  if (!favor) return state;
  state.log_scale = new_output(kind, q.dtype, {entries, v.heads(), 1, 1});
  for (std::int64_t i = 0; i < entries * v.heads(); ++i) {
    if (q.dtype == DType::f64)
      static_cast<double*>(state.log_scale->view.data)[i] =
          -std::numeric_limits<double>::infinity();
    else
      static_cast<float*>(state.log_scale->view.data)[i] = -std::numeric_limits<float>::infinity();
  }
  return state;
}

nb::any run(nb::handle q, nb::handle k, nb::handle v, const std::string& map, bool causal,
            bool normalise, const PyRandomFeatures* features, double epsilon, nb::handle state,
            bool return_state, nb::handle offsets, int threads, const std::string& isa) {
  const std::string function = "[linear_attention]";
  const Input qi = import_tensor(q, function + " q"), ki = import_tensor(k, function + " k");
  const Input vi = import_tensor(v, function + " v");
  const LinearAttentionOptions options =
      options_of(function, map, causal, normalise, features, epsilon, offsets);
  const Context& where = context(threads, isa);
  const Kind kind = kind_of(q);
  const Output out = new_output(kind, qi.view.dtype, vi.dimensions());
  State own;
  if (!state.is_none())
    own = copied(state, function);
  else if (return_state)
    own = nothing_yet(kind, qi.view, vi.view, options);
  {
    nb::gil_scoped_release release;
    linear_attention(qi.view, ki.view, vi.view, out.view, options, own.view(), where);
  }
  if (!return_state) return nb::borrow<nb::any>(out.object());
  return nb::borrow<nb::any>(nb::make_tuple(out.object(), own.object()));
}

Gradients run_backward(nb::handle q, nb::handle k, nb::handle v, nb::handle d_out,
                       const std::vector<std::string>& wrt, const std::string& map, bool causal,
                       bool normalise, const PyRandomFeatures* features, double epsilon,
                       nb::handle offsets, int threads, const std::string& isa) {
  const std::string function = "[linear_attention_backward]";
  const Input qi = import_tensor(q, function + " q"), ki = import_tensor(k, function + " k");
  const Input vi = import_tensor(v, function + " v");
  const Input d_oi = import_tensor(d_out, function + " d_out");
  const LinearAttentionOptions options =
      options_of(function, map, causal, normalise, features, epsilon, offsets);
  const Context& where = context(threads, isa);
  Gradients gradients(function.c_str(), wrt, kind_of(q), qi.view.dtype);
  const Tensor d_q = gradients.place("q", qi), d_k = gradients.place("k", ki),
               d_v = gradients.place("v", vi);
  {
    nb::gil_scoped_release release;
    linear_attention_backward(qi.view, ki.view, vi.view, d_oi.view, d_q, d_k, d_v, options, where);
  }
  return gradients;
}

nb::any run_reference(nb::handle q, nb::handle k, nb::handle v, const std::string& map, bool causal,
                      bool normalise, const PyRandomFeatures* features, double epsilon,
                      nb::handle offsets) {
  const std::string function = "[linear_attention]";
  const Input qi = import_tensor(q, function + " q"), ki = import_tensor(k, function + " k");
  const Input vi = import_tensor(v, function + " v");
  const LinearAttentionOptions options =
      options_of(function, map, causal, normalise, features, epsilon, offsets);
  ConstTensor qd = qi.view, kd = ki.view, vd = vi.view;
  const std::vector<Doubles> copies = widen({&qd, &kd, &vd});
  const Output out = new_output(kind_of(q), DType::f64, vi.dimensions());
  {
    nb::gil_scoped_release release;
    reference::linear_attention(qd, kd, vd, out.view, options);
  }
  return nb::borrow<nb::any>(out.object());
}

nb::dict merged(nb::handle first, nb::handle second) {
  const std::string function = "[merge_linear_states]";
  const State one = copied(first, function), two = copied(second, function);
  {
    nb::gil_scoped_release release;
    merge_linear_states(one.view(), two.view(), one.view());
  }
  return one.object();
}

nb::any directions(const PyRandomFeatures& f) {
  const Output out = new_output(Kind::numpy, DType::f64, {f.random->count(), f.random->width()});
  const std::vector<double>& values = f.random->directions();
  std::memcpy(out.view.data, values.data(), values.size() * sizeof(double));
  return nb::borrow<nb::any>(out.object());
}

}  // namespace

void bind_linear_attention(nb::module_& m) {
  nb::class_<PyRandomFeatures>(m, "RandomFeatures", R"(The random directions of FAVOR+.

Blocks of at most `width` orthogonal ones, with the lengths of vectors of `width` standard normal
numbers; width and count 1 to 1024. The same seed gives the same directions on every machine.)")
      .def(nb::init<std::int64_t, std::int64_t, std::uint64_t, bool>(), "width"_a, "count"_a,
           nb::kw_only(), "seed"_a = 0, "orthogonal"_a = true)
      .def("__getstate__",
           [](const PyRandomFeatures& f) {
             return FeaturesState(f.random->width(), f.random->count(), f.seed, f.orthogonal);
           })
      .def("__setstate__",
           [](PyRandomFeatures& f, const FeaturesState& state) {
             const auto& [width, count, seed, orthogonal] = state;
             new (&f) PyRandomFeatures(width, count, seed, orthogonal);
           })
      .def_prop_ro("width", [](const PyRandomFeatures& f) { return f.random->width(); })
      .def_prop_ro("count", [](const PyRandomFeatures& f) { return f.random->count(); })
      .def_ro("seed", &PyRandomFeatures::seed)
      .def_ro("orthogonal", &PyRandomFeatures::orthogonal)
      .def_prop_ro("directions", &directions, "[count, width] float64, a copy.")
      .def("__repr__", [](const PyRandomFeatures& f) {
        return "RandomFeatures(" + std::to_string(f.random->width()) + ", " +
               std::to_string(f.random->count()) + ", seed=" + std::to_string(f.seed) +
               (f.orthogonal ? "" : ", orthogonal=False") + ")";
      });

  m.def(
      "linear_attention", &run, "q"_a, "k"_a, "v"_a, nb::kw_only(), "map"_a = "elu",
      "causal"_a = true, "normalise"_a = true, "features"_a = nb::none(), "epsilon"_a = 0.0,
      "state"_a = nb::none(), "return_state"_a = false, "offsets"_a = nb::none(), "threads"_a = 0,
      "isa"_a = "automatic",
      R"(Linear attention: exp(q . k) replaced by a product of features, phi(q) . phi(k). O(L) time.

    y_i = sum over j <= i of phi(q_i) . phi(k_j) v_j / sum over j <= i of phi(q_i) . phi(k_j)

map: elu (elu(x) + 1, arXiv 2006.16236), relu, identity, or favor (FAVOR+, arXiv 2009.14794): random
features of exp(q . k / sqrt(Dk)), which `features` holds, a RandomFeatures(Dk, count, seed=...).
causal False: every query reads all keys. normalise False: without the denominator; not with favor.
epsilon: added to the denominator; a denominator of 0 gives 0.

q, k [B, Hq, L, Dk], v [B, H, L, Dv], H a multiple of Hq: consecutive heads share queries and keys.
float32, or float64 throughout; arrays as in recurrent(). Returns [B, H, L, Dv] of q's kind and type.

return_state: returns (out, state), what stands for all keys so far: a dict of arrays, sums
[B, H, features, Dv + 1] (not normalised: Dv) and, with favor, log_scale [B, H, 1, 1], whose exponential
the sums are to be multiplied by. numpy.savez(file, **state) saves it; state: to go on from, also as
numpy.load gives it. Causal only.)");
  const std::vector<std::string> all{"q", "k", "v"};
  m.def("linear_attention_backward", &run_backward, "q"_a, "k"_a, "v"_a, "d_out"_a, nb::kw_only(),
        "wrt"_a = all, "map"_a = "elu", "causal"_a = true, "normalise"_a = true,
        "features"_a = nb::none(), "epsilon"_a = 0.0, "offsets"_a = nb::none(), "threads"_a = 0,
        "isa"_a = "automatic",
        R"(Gradients of linear_attention() from no state, whose arguments it takes.

d_out: the gradient of the loss with respect to its output. wrt: with respect to what, among q, k
and v.)");
  m.def("merge_linear_states", &merged, "first"_a, "second"_a,
        "The state of two parts of a sequence of linear_attention(), each run from nothing.");
  m.def("reference_linear_attention", &run_reference, "q"_a, "k"_a, "v"_a, nb::kw_only(),
        "map"_a = "elu", "causal"_a = true, "normalise"_a = true, "features"_a = nb::none(),
        "epsilon"_a = 0.0, "offsets"_a = nb::none(),
        "The oracle: linear_attention() once more, pair by pair, in float64; without a state.");
  Gradients::bind(m, "LinearAttentionGradients");
}

}  // namespace attn::python
