// Parts of a sequence that ran apart: the state after both.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string>
#include <vector>

#include "attn/scan.h"
#include "base/checker.h"

namespace attn {

namespace {

struct Part {
  const char* name;
  const ConstTensor& x;
  Shape shape;
  DType type;
};

void check_parts(const Checker& check, const Tensor& out, std::initializer_list<Part> parts) {
  check.view("out", out);
  if (out.dtype != DType::f32 && out.dtype != DType::f64)
    check.fail(std::string("out is ") + name(out.dtype) + ", must be float32 or float64");
  check.rows_apart("out", out);
  for (const Part& part : parts) {
    check.shape(part.name, part.x, part.shape);
    check.dtype(part.name, part.x, part.type);
    check.view(part.name, part.x);
  }
}

void check_lengths(const Checker& check, const std::vector<std::int64_t>& lengths,
                   std::int64_t sequences) {
  check.same("lengths", static_cast<std::int64_t>(lengths.size()), "out", sequences, "sequences");
  for (const std::int64_t length : lengths) {
    if (length < 0) check.fail("a length is " + text(length));
  }
}

// Calls with_type(T()) for the type of `x`.
template <class WithType>
void by_type(const Tensor& x, const WithType& with_type) {
  if (x.dtype == DType::f64)
    with_type(double());
  else
    with_type(float());
}

}  // namespace

void merge_convolution_states(const ConstTensor& first, const ConstTensor& second,
                              const std::vector<std::int64_t>& lengths, const Tensor& out) {
  const Checker check("merge_convolution_states");
  check_parts(check, out,
              {{"first", first, out.shape, out.dtype}, {"second", second, out.shape, out.dtype}});
  check_lengths(check, lengths, out.batch());
  by_type(out, [&](auto type) {
    using T = decltype(type);
    for (std::int64_t s = 0; s < out.batch(); ++s) {
      const std::int64_t length = lengths[static_cast<std::size_t>(s)];
      // The last rows of the first, followed by those of the second's tokens; ascending, so that
      // `out` may be either.
      for (std::int64_t i = 0; i < out.length(); ++i) {
        const bool of_second = i + length >= out.length();
        const T* from = of_second ? second.row<T>(s, 0, i) : first.row<T>(s, 0, i + length);
        std::copy_n(from, out.width(), out.row<T>(s, 0, i));
      }
    }
  });
}

void merge_scan_states(const ConstTensor& first, const ConstTensor& second, const ConstTensor& a,
                       const ConstTensor& elapsed, const Tensor& out) {
  const Checker check("merge_scan_states");
  const std::int64_t sequences = out.batch(), states = out.length(), channels = out.width();
  check_parts(check, out,
              {{"first", first, out.shape, out.dtype},
               {"second", second, out.shape, out.dtype},
               {"a", a, {1, 1, states, channels}, out.dtype},
               {"elapsed", elapsed, {sequences, 1, 1, channels}, DType::f64}});
  by_type(out, [&](auto type) {
    using T = decltype(type);
    for (std::int64_t s = 0; s < sequences; ++s) {
      for (std::int64_t n = 0; n < states; ++n) {
        for (std::int64_t i = 0; i < channels; ++i) {
          const double decay =
              std::exp(elapsed.row<double>(s, 0, 0)[i] * static_cast<double>(a.row<T>(0, 0, n)[i]));
          out.row<T>(s, 0, n)[i] =
              static_cast<T>(decay * static_cast<double>(first.row<T>(s, 0, n)[i]) +
                             static_cast<double>(second.row<T>(s, 0, n)[i]));
        }
      }
    }
  });
}

void merge_wkv4_states(const ConstTensor& first, const ConstTensor& second,
                       const ConstTensor& decay, const std::vector<std::int64_t>& lengths,
                       const Tensor& out) {
  const Checker check("merge_wkv4_states");
  const std::int64_t sequences = out.batch(), channels = out.width();
  check.shape("out", out, {sequences, 1, 3, channels});
  check_parts(check, out,
              {{"first", first, out.shape, out.dtype},
               {"second", second, out.shape, out.dtype},
               {"decay", decay, {1, 1, 1, channels}, out.dtype}});
  check_lengths(check, lengths, sequences);
  by_type(out, [&](auto type) {
    using T = decltype(type);
    for (std::int64_t s = 0; s < sequences; ++s) {
      const auto length = static_cast<double>(lengths[static_cast<std::size_t>(s)]);
      for (std::int64_t i = 0; i < channels; ++i) {
        const auto at = [&](const ConstTensor& x, std::int64_t row) {
          return static_cast<double>(x.row<T>(s, 0, row)[i]);
        };
        const double past = at(first, 2) + length * static_cast<double>(decay.row<T>(0, 0, 0)[i]);
        const double top = std::max(past, at(second, 2));
        const double of_first = std::exp(past - top), of_second = std::exp(at(second, 2) - top);
        const double p = of_first * at(first, 0) + of_second * at(second, 0),
                     q = of_first * at(first, 1) + of_second * at(second, 1);
        out.row<T>(s, 0, 0)[i] = static_cast<T>(p);
        out.row<T>(s, 0, 1)[i] = static_cast<T>(q);
        out.row<T>(s, 0, 2)[i] = static_cast<T>(top);
      }
    }
  });
}

}  // namespace attn
