// Gradients by name, as the backward functions return them: memory for those that were asked for.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"

namespace attn::python {

// kInputs: an array of the names that there are, called otherwise in every file: nanobind tells
// types apart by their names.
template <const auto& kInputs>
class NamedGradients {
 public:
  // `wrt` holds what is asked for. Throws std::invalid_argument for another name.
  NamedGradients(const char* function, const std::vector<std::string>& wrt, Kind kind, DType type)
      : wrt_(wrt), kind_(kind), type_(type) {
    values_.fill(nb::none());
    for (const std::string& name : wrt) {
      if (std::find(kInputs.begin(), kInputs.end(), name) == kInputs.end()) {
        throw std::invalid_argument(std::string(function) + " wrt holds '" + name +
                                    "', must be among " + list());
      }
    }
  }

  // Fresh memory of this shape, which Python sees with `dimensions`; empty when `input` is not
  // asked for.
  Tensor place(const std::string& input, const Shape& shape,
               const std::vector<std::int64_t>& dimensions) {
    if (std::find(wrt_.begin(), wrt_.end(), input) == wrt_.end()) return {};
    Output out = new_output(kind_, type_, dimensions);
    out.view.shape = shape;
    out.view.strides = strides_bhld(shape);
    const auto at = std::find(kInputs.begin(), kInputs.end(), input) - kInputs.begin();
    values_[static_cast<std::size_t>(at)] = out.object();
    return out.view;
  }
  // As `x` is, which may be absent: the library then says so.
  Tensor place(const std::string& input, const Input& x) {
    if (!x.array.is_valid()) return place(input, {1, 1, 1, 1}, {1, 1, 1, 1});
    return place(input, x.view.shape, x.dimensions());
  }

  // The class as Python sees it.
  static void bind(nb::module_& m, const char* name) {
    nb::class_<NamedGradients> type(m, name,
                                    "Gradients by name, each as what it belongs to; None for what "
                                    "was not asked.");
    for (std::size_t i = 0; i < kInputs.size(); ++i) {
      type.def_prop_ro(kInputs[i],
                       [i](const NamedGradients& g) { return nb::borrow<nb::any>(g.values_[i]); });
    }
    type.def("__repr__", [name = std::string(name)](const NamedGradients& g) {
      std::string names;
      for (std::size_t i = 0; i < kInputs.size(); ++i) {
        if (!g.values_[i].is_none()) names += (names.empty() ? "" : ", ") + std::string(kInputs[i]);
      }
      return name + "(" + names + ")";
    });
  }

 private:
  static std::string list() {
    std::string names;
    for (const char* name : kInputs) names += (names.empty() ? "" : ", ") + std::string(name);
    return names;
  }

  std::vector<std::string> wrt_;
  Kind kind_;
  DType type_;
  std::array<nb::object, kInputs.size()> values_;
};

}  // namespace attn::python
