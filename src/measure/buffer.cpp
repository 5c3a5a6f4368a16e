#include "measure/buffer.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace attn::measuring {

void Buffer::Free::operator()(void* memory) const { std::free(memory); }

Buffer::Buffer(DType dtype, const Shape& shape) : dtype_(dtype), shape_(shape) {
  constexpr std::size_t kAlign = 64;
  const std::size_t bytes = static_cast<std::size_t>(elements(shape)) * size_of(dtype);
  memory_.reset(
      std::aligned_alloc(kAlign, std::max(kAlign, (bytes + kAlign - 1) / kAlign * kAlign)));
  if (memory_ == nullptr) throw std::bad_alloc();
  std::memset(memory_.get(), 0, bytes);
}

Buffer Buffer::random(DType dtype, const Shape& shape, std::uint32_t seed) {
  Buffer buffer(dtype, shape);
  Noise noise(seed);
  const std::int64_t count = elements(shape);
  const auto fill = [&](auto* at, auto convert) {
    for (std::int64_t i = 0; i < count; ++i) at[i] = convert(noise.next());
  };
  void* memory = buffer.memory_.get();
  switch (dtype) {
    case DType::f32: fill(static_cast<float*>(memory), [](float x) { return x; }); break;
    case DType::f64:
      fill(static_cast<double*>(memory), [](float x) { return static_cast<double>(x); });
      break;
    case DType::bf16: fill(static_cast<BFloat16*>(memory), to_bfloat16); break;
    case DType::f16: fill(static_cast<Float16*>(memory), to_float16); break;
    case DType::i8:
      fill(static_cast<std::int8_t*>(memory),
           [](float x) { return static_cast<std::int8_t>(x * 127); });
      break;
  }
  return buffer;
}

Tensor Buffer::view() const { return {memory_.get(), dtype_, shape_, strides_bhld(shape_)}; }

double Buffer::bytes() const {
  return memory_ ? static_cast<double>(elements(shape_)) * static_cast<double>(size_of(dtype_)) : 0;
}

}  // namespace attn::measuring
