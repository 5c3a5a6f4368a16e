#include "base/checker.h"

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
