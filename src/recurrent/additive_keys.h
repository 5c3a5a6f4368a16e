// What AdditiveKeys holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "attn/additive.h"
#include "kernels/additive.h"

namespace attn {

// Memory as kernels want it; its contents are undefined.
class AlignedMemory {
 public:
  explicit AlignedMemory(std::size_t bytes) : data_(::operator new(bytes, kAlign)) {}
  char* data() const { return static_cast<char*>(data_.get()); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(void* p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<void, Free> data_;
};

struct AdditiveKeys::Impl {
  Impl(const ConstTensor& keys, const Context& context);

  // Of one head, or of all.
  std::size_t panels_bytes() const {
    return static_cast<std::size_t>(panels * columns * kernel.panel) * size_of(k.dtype);
  }
  std::size_t heads() const { return static_cast<std::size_t>(k.batch() * k.heads()); }
  kernels::AdditivePanels panels_of(std::size_t head) const;

  ConstTensor k;
  Isa isa;
  const kernels::AdditiveKernel& kernel;
  std::int64_t panels = 0, columns = 0;
  AlignedMemory exponentials, far, any_far;  // of all heads, one after the other
};

}  // namespace attn
