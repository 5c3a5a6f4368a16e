// How arguments are refused: std::invalid_argument, in the name of the public function.
#pragma once

#include <string>

#include "attn/tensor.h"

namespace attn {

std::string text(std::int64_t value);
std::string text(double value);  // "0.5", "nan", "-inf"

// Says "[function] what, with values".
class Checker {
 public:
  explicit constexpr Checker(const char* function) : function_(function) {}

  [[noreturn]] void fail(const std::string& what) const;
  // Lengths of 0 or more, data where there is something to read, contiguous rows.
  void view(const char* what, const ConstTensor& x) const;
  // Rows that certainly overlap would depend on the order of the threads.
  void rows_apart(const char* what, const Tensor& x) const;
  // Something that is written into what is read. Views with gaps are taken at their word.
  void apart(const char* what_a, const Tensor& written, const char* what_b,
             const ConstTensor& read) const;
  void same(const char* what_a, std::int64_t a, const char* what_b, std::int64_t b,
            const char* quantity) const;
  void shape(const char* what, const ConstTensor& x, const Shape& expected) const;
  void dtype(const char* what, const ConstTensor& x, DType expected) const;
  // All of these: something that is written, unless it is empty.
  void output(const char* what, const Tensor& x, const Shape& expected, DType expected_type) const;

 private:
  const char* function_;
};

}  // namespace attn
