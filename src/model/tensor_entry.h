// A tensor of a weights file: what it is called, what it holds, where it lies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace attn {

struct TensorEntry {
  std::string name;
  std::string dtype;                // "F32", "Q4_0", as the file says
  std::vector<std::int64_t> shape;  // row-major: the last size is the one of a row
  std::size_t begin = 0, end = 0;   // bytes of the file
};

// "[30522, 384]"
std::string to_string(const std::vector<std::int64_t>& shape);

}  // namespace attn
