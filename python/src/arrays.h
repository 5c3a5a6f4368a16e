// Arrays between Python and the library: NumPy, PyTorch and whatever else speaks DLPack, in without
// copies, out as the kind that came in. Used with the GIL held.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "attn/attention.h"

namespace attn::python {

namespace nb = nanobind;

using AnyArray = nb::ndarray<nb::ro>;

enum class Kind : std::uint8_t { numpy, torch, jax };

// "ndarray".
std::string class_name(nb::handle object);

// torch for a torch.Tensor (or a subclass), NumPy for everything unknown.
Kind kind_of(nb::handle object);

// An array of the caller, seen as a tensor; keeps its memory alive.
struct Input {
  AnyArray array;
  ConstTensor view;

  // As Python sees the array.
  std::vector<std::int64_t> dimensions() const;
};

// Any array, of at most `dimensions`. Throws nb::type_error for what is no array, and
// std::invalid_argument, naming `what`, for one on another device or with more dimensions.
AnyArray import_array(nb::handle object, const std::string& what, std::size_t dimensions);

// Floating point, [B, H, L, D] exactly.
Input import_tensor(nb::handle object, const std::string& what);
// Floating point, up to four dimensions, missing ones in front as 1: what broadcasts.
Input import_broadcast(nb::handle object, const std::string& what);
// [B, H, L] or [B, H, L, 1], seen as [B, H, L, 1].
Input import_lse(nb::handle object, const std::string& what);
// Numbers of each head, [H, width], or [H] where the width is 1, seen as [1, H, 1, width].
Input import_heads(nb::handle object, const std::string& what);
// What one of these gives, or an empty view for None.
template <class Import>
Input import_optional(const Import& import, nb::handle object, const std::string& what) {
  return object.is_none() ? Input{} : import(object, what);
}

// A copy as float64, for the oracle.
struct Doubles {
  std::vector<double> values;
  ConstTensor view;
};
Doubles as_doubles(const ConstTensor& view);
// Has the views, but empty ones, see copies as float64, which live as long as what is returned.
std::vector<Doubles> widen(std::initializer_list<ConstTensor*> views);

// Memory to write into: fresh and owned by Python, or the caller's.
struct Output {
  Tensor view;
  nb::object owner;
  std::vector<std::size_t> shape;
  Kind kind = Kind::numpy;
  nb::dlpack::dtype element = nb::dtype<float>();

  nb::object given;  // the caller's array, when it is not fresh memory

  // The array as Python sees it.
  nb::object object() const;
};
// An array of the caller to write into, of this type and shape; float32 for 16-bit types too.
Output import_output(nb::handle object, const std::string& what, DType type, const Shape& shape);
// `dimensions` as Python sees them; the view has 1 for what is missing at the end.
Output new_output(Kind kind, DType type, const std::vector<std::int64_t>& dimensions);
// A copy of an array, to write on.
Output new_copy(Kind kind, const Input& input);
// The same of int32, which no view describes: only its data and shape mean something.
Output new_integers(Kind kind, const std::vector<std::int64_t>& dimensions);

// Integers from a list, a tuple or an integer array of one dimension; None gives an empty list.
std::vector<std::int64_t> import_integers(nb::handle object, const std::string& what);
// Numbers as float32, from a (nested) list or an array of at most `dimensions`, row by row.
std::vector<float> import_floats(nb::handle object, const std::string& what,
                                 std::size_t dimensions = 1);

}  // namespace attn::python
