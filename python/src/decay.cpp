// attn.log_decay, its derivative and attn.retnet_log_decay.
#include "attn/decay.h"

#include <nanobind/stl/string.h>

#include <cstring>
#include <stdexcept>

#include "bindings.h"

namespace attn::python {

using namespace nb::literals;

namespace {

DecayKind kind_from_name(const std::string& name) {
  if (name == "gla") return DecayKind::gla;
  if (name == "rwkv") return DecayKind::rwkv;
  if (name == "rwkv7") return DecayKind::rwkv7;
  if (name == "delta") return DecayKind::delta;
  throw std::invalid_argument("[log_decay] kind is '" + name +
                              "', must be gla, rwkv, rwkv7 or delta");
}

// Fresh memory as the array is, seen as the view is.
Output like(nb::handle object, const Input& x) {
  Output out = new_output(kind_of(object), x.view.dtype, x.dimensions());
  out.view.shape = x.view.shape;
  out.view.strides = strides_bhld(x.view.shape);
  return out;
}

nb::any decays(nb::handle x, const std::string& kind) {
  const Input in = import_broadcast(x, "[log_decay] x");
  const DecayKind which = kind_from_name(kind);
  const Output out = like(x, in);
  {
    nb::gil_scoped_release release;
    log_decay(which, in.view, out.view);
  }
  return nb::borrow<nb::any>(out.object());
}

nb::any decays_backward(nb::handle x, nb::handle d_log_decay, const std::string& kind) {
  const Input in = import_broadcast(x, "[log_decay_backward] x");
  const Input d = import_broadcast(d_log_decay, "[log_decay_backward] d_log_decay");
  const DecayKind which = kind_from_name(kind);
  const Output out = like(x, in);
  {
    nb::gil_scoped_release release;
    log_decay_backward(which, in.view, d.view, out.view);
  }
  return nb::borrow<nb::any>(out.object());
}

nb::any retnet(std::int64_t heads) {
  const std::vector<double> values = retnet_log_decay(heads);
  const Output out = new_output(Kind::numpy, DType::f64, {1, heads, 1, 1});
  if (heads > 0) std::memcpy(out.view.data, values.data(), values.size() * sizeof(double));
  return nb::borrow<nb::any>(out.object());
}

}  // namespace

void bind_decay(nb::module_& m) {
  m.def("log_decay", &decays, "x"_a, "kind"_a,
        R"(The log_decay of recurrent(), made of what a layer computes; of x's shape and type.

kind: gla, ln(sigmoid(x)) / 16 (arXiv 2312.06635); rwkv, -e^x, for RWKV-5 and 6 (2404.05892); rwkv7,
-e^(-1/2) sigmoid(x); delta, -softplus(x), of gated DeltaNet (2412.06464), times its A by the caller.
float32 or float64, up to four dimensions. 0 or less for any x, and none overflows.)");
  m.def("log_decay_backward", &decays_backward, "x"_a, "d_log_decay"_a, "kind"_a,
        "d_log_decay times the derivative of log_decay() at x.");
  m.def(
      "retnet_log_decay", &retnet, "heads"_a,
      "ln(1 - 2^(-5 - h)) of head h, for recurrent(): RetNet (arXiv 2307.08621). [1, heads, 1, 1] "
      "float64.");
}

}  // namespace attn::python
