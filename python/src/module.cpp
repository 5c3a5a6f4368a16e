// The extension module attn._attn. python/attn/__init__.py gives its words their place.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "attn/context.h"
#include "attn/error.h"
#include "bindings.h"

NB_MODULE(_attn, m) {
  namespace nb = nanobind;
  m.doc() = "Exact attention, any mask, on the CPU; what every head attends to.";
  // What a framework keeps alive past the interpreter's end is not a leak to tell users of.
  nb::set_leak_warnings(false);
  // std::invalid_argument is a ValueError already.
  nb::exception<attn::Error>(m, "Error", PyExc_RuntimeError);
  m.def("version", &attn::version, "The version of the library, \"0.1.0\".");
  m.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (const attn::Isa isa : attn::supported_isas()) names.emplace_back(attn::name(isa));
        return names;
      },
      "Instruction sets that this build and CPU have, best first.");
  attn::python::bind_masks(m);
  attn::python::bind_scores(m);
  attn::python::bind_attention(m);
  attn::python::bind_gradient(m);
  attn::python::bind_additive(m);
  attn::python::bind_questions(m);
  attn::python::bind_observe(m);
  attn::python::bind_positions(m);
  attn::python::bind_pages(m);
  attn::python::bind_decay(m);
  attn::python::bind_recurrent(m);
  attn::python::bind_linear_attention(m);
  attn::python::bind_mamba2(m);
  attn::python::bind_convolution(m);
  attn::python::bind_selective_scan(m);
  attn::python::bind_wkv4(m);
  attn::python::bind_language_models(m);
  attn::python::bind_translation_models(m);
  attn::python::bind_models(m);
}
