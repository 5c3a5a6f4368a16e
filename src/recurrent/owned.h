// A tensor with memory of its own, for what is kept within a call.
#pragma once

#include <memory>

#include "attn/tensor.h"

namespace attn {

struct Owned {
  std::unique_ptr<double[]> memory;
  Tensor view;

  Owned() = default;  // empty
  Owned(DType type, const Shape& shape) {
    view = {nullptr, type, shape, strides_bhld(shape)};
    // One element at least, so that it has an address.
    memory = std::make_unique<double[]>(static_cast<std::size_t>(view.size() + 1));
    view.data = memory.get();
  }
};

}  // namespace attn
