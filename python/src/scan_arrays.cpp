#include "scan_arrays.h"

#include <stdexcept>

namespace attn::python {

Input import_exactly(nb::handle object, const std::string& what, std::size_t dimensions,
                     const char* meaning) {
  Input input = import_broadcast(object, what);
  if (input.array.ndim() != dimensions) {
    throw std::invalid_argument(what + " has " + std::to_string(input.array.ndim()) +
                                " dimensions, must have " + std::to_string(dimensions) + ": " +
                                meaning);
  }
  return input;
}

Input import_rows(nb::handle object, const std::string& what) {
  Input input = import_exactly(object, what, 3, "[batch, length, width]");
  ConstTensor& x = input.view;
  x = {x.data,
       x.dtype,
       {x.shape[1], 1, x.shape[2], x.shape[3]},
       {x.strides[1], 0, x.strides[2], x.strides[3]}};
  return input;
}

Input import_channels(nb::handle object, const std::string& what) {
  return import_exactly(object, what, 1, "[channels]");
}

Tensor rows_of(const Tensor& dense) {
  if (dense.empty()) return {};
  const Shape shape{dense.shape[0], 1, dense.shape[1], dense.shape[2]};
  return {dense.data, dense.dtype, shape, strides_bhld(shape)};
}

std::vector<std::int64_t> state_dimensions(const ConstTensor& x,
                                           const std::vector<std::int64_t>& offsets,
                                           std::int64_t rows, bool asked) {
  if (!asked) return {};
  const auto parts = static_cast<std::int64_t>(offsets.size()) - 1;
  return {offsets.empty() ? x.batch() : parts, rows, x.width()};
}

}  // namespace attn::python
