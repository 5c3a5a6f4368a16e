// Errors that the library throws.
//
// A wrong argument (shape, stride, option) throws std::invalid_argument with a message that names
// the function and the values: "[attention] k has width 64, q has 128".
// A wrong file, a missing model, a full disk throws attn::Error with the file, the place and the
// reason. The library never prints, aborts or exits.
#pragma once

#include <stdexcept>
#include <string>

namespace attn {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace attn
