// The arrays of attn/scan.h: tokens, [batch, length, channels] in Python, are tensors
// [batch, 1, length, channels], and states, [sequences, rows, channels], as well.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arrays.h"

namespace attn::python {

// An array of exactly `dimensions`, missing ones in front as 1; `meaning` is for the message.
Input import_exactly(nb::handle object, const std::string& what, std::size_t dimensions,
                     const char* meaning);
// [batch, length, width] as [batch, 1, length, width].
Input import_rows(nb::handle object, const std::string& what);
// [channels] as [1, 1, 1, channels].
Input import_channels(nb::handle object, const std::string& what);

// Dense [a, b, c] as [a, 1, b, c]; nothing of nothing.
Tensor rows_of(const Tensor& dense);

// Dimensions of the states, `rows` of each sequence of `x`; none when they are not asked for.
std::vector<std::int64_t> state_dimensions(const ConstTensor& x,
                                           const std::vector<std::int64_t>& offsets,
                                           std::int64_t rows, bool asked);

// Memory for the gradient of a state, and of numbers of channels that may not be given.
template <class Gradients>
Tensor place_rows(Gradients& gradients, const char* name, const std::vector<std::int64_t>& d) {
  return gradients.place(name, {d[0], 1, d[1], d[2]}, d);
}
template <class Gradients>
Tensor place_channels(Gradients& gradients, const char* name, std::int64_t channels) {
  return gradients.place(name, {1, 1, 1, channels}, {channels});
}

}  // namespace attn::python
