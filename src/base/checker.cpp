#include "base/checker.h"

#include <cstdint>
#include <cstdlib>
#include <stdexcept>

namespace attn {

std::string text(std::int64_t value) { return std::to_string(value); }

std::string text(double value) {
  std::string s = std::to_string(value);
  while (s.find('.') != std::string::npos && s.size() > 1 && s.back() == '0') s.pop_back();
  if (s.back() == '.') s.pop_back();
  return s;
}

void Checker::fail(const std::string& what) const {
  throw std::invalid_argument("[" + std::string(function_) + "] " + what);
}

void Checker::view(const char* what, const ConstTensor& x) const {
  for (std::int64_t n : x.shape) {
    if (n < 0) fail(std::string(what) + " has shape " + to_string(x.shape));
  }
  if (x.empty() && x.size() > 0) fail(std::string(what) + " has no data");
  if (x.width() > 1 && x.strides[3] != 1) {
    fail(std::string(what) + " has stride " + text(x.strides[3]) +
         " along its width, must be 1 (its rows contiguous)");
  }
}

void Checker::rows_apart(const char* what, const Tensor& x) const {
  if (x.size() == 0) return;
  for (std::size_t i = 0; i < 3; ++i) {
    if (x.shape[i] > 1 && std::abs(x.strides[i]) < x.width()) {
      fail(std::string(what) + " has shape " + to_string(x.shape) + " and strides " +
           to_string(x.strides) + ": rows overlap");
    }
  }
}

void Checker::apart(const char* what_a, const Tensor& written, const char* what_b,
                    const ConstTensor& read) const {
  // [begin, end) in bytes, and whether all of it belongs to the view.
  struct Span {
    std::uintptr_t begin, end;
    bool dense;
  };
  const auto span_of = [](const ConstTensor& x) {
    std::int64_t first = 0, last = x.width();
    for (std::size_t i = 0; i < 3; ++i) {
      const std::int64_t reach = (x.shape[i] - 1) * x.strides[i];
      (reach < 0 ? first : last) += reach;
    }
    const auto element = static_cast<std::int64_t>(size_of(x.dtype));
    const auto data = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(x.data));
    return Span{static_cast<std::uintptr_t>(data + first * element),
                static_cast<std::uintptr_t>(data + last * element), last - first == x.size()};
  };
  if (written.empty() || read.empty() || written.size() == 0 || read.size() == 0) return;
  const Span a = span_of(written), b = span_of(read);
  if (a.dense && b.dense && a.begin < b.end && b.begin < a.end)
    fail(std::string(what_a) + " lies in the memory of " + what_b);
}

void Checker::same(const char* what_a, std::int64_t a, const char* what_b, std::int64_t b,
                   const char* quantity) const {
  if (a != b) {
    fail(std::string(what_a) + " has " + quantity + " " + text(a) + ", " + what_b + " has " +
         text(b));
  }
}

void Checker::shape(const char* what, const ConstTensor& x, const Shape& expected) const {
  if (x.shape != expected) {
    fail(std::string(what) + " has shape " + to_string(x.shape) + ", must be " +
         to_string(expected));
  }
}

void Checker::dtype(const char* what, const ConstTensor& x, DType expected) const {
  if (x.dtype != expected) {
    fail(std::string(what) + " is " + name(x.dtype) + ", must be " + name(expected));
  }
}

void Checker::output(const char* what, const Tensor& x, const Shape& expected,
                     DType expected_type) const {
  if (x.empty()) return;
  shape(what, x, expected);
  dtype(what, x, expected_type);
  view(what, x);
  rows_apart(what, x);
}

}  // namespace attn
