#include "attention/kv_pool.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <string>

#include "attn/error.h"
#include "base/check.h"
#include "base/half.h"

namespace attn {

namespace {

// One row of floats in the kept type; returns its scale.
void convert(const float* x, std::int64_t n, float* to) {
  std::memcpy(to, x, static_cast<std::size_t>(n) * sizeof(float));
}
void convert(const float* x, std::int64_t n, BFloat16* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i].bits = bfloat16_bits(x[i]);
}
void convert(const float* x, std::int64_t n, Float16* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i].bits = float16_bits(x[i]);
}
float convert(const float* x, std::int64_t n, std::int8_t* to) {
  // Bits of |x| are ordered as integers, infinity and NaN above all numbers.
  std::uint32_t largest = 0;
  for (std::int64_t i = 0; i < n; ++i)
    largest = std::max(largest, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffff);
  const float scale = std::bit_cast<float>(largest) / 127;
  const bool finite = largest < 0x7f800000;
  if (!finite || scale < std::numeric_limits<float>::min()) {
    std::fill_n(to, n, std::int8_t{0});
    return finite ? 0 : std::numeric_limits<float>::quiet_NaN();
  }
  // Adding and taking away 1.5 x 2^23 rounds to an integer, ties to even.
  constexpr float kRound = 12582912.0f;
  for (std::int64_t i = 0; i < n; ++i)
    to[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(x[i] / scale + kRound - kRound));
  return scale;
}

// One row of a tensor as floats, its own memory where it holds them.
const float* floats(const ConstTensor& x, std::int64_t offset, float* scratch) {
  if (x.dtype == DType::f32) return static_cast<const float*>(x.data) + offset;
  const auto widen = [&](const auto* from) {
    for (std::int64_t i = 0; i < x.width(); ++i) scratch[i] = to_float(from[offset + i]);
  };
  if (x.dtype == DType::bf16)
    widen(static_cast<const BFloat16*>(x.data));
  else
    widen(static_cast<const Float16*>(x.data));
  return scratch;
}

}  // namespace

KvPool::KvPool(const KvCacheOptions& o, std::int64_t panel)
    : layers_(o.layers), page_tokens_(o.page_tokens), panel_(panel) {
  const std::int64_t rows = o.pages * o.page_tokens;
  k_ = {{}, o.dtype, o.kv_heads, rows, o.width, panel};
  v_ = {{}, o.dtype, o.kv_heads, rows, o.v_width, 0};
  k_.allocate(layers_);
  v_.allocate(layers_);
  if (o.dtype == DType::i8) {
    k_scale_ = {{}, DType::f32, o.kv_heads, rows, 1, 0};
    v_scale_ = {{}, DType::f32, o.kv_heads, rows, 1, 0};
    k_scale_.allocate(layers_);
    v_scale_.allocate(layers_);
  }
  holders_.resize(static_cast<std::size_t>(o.pages));
  free_.reserve(static_cast<std::size_t>(o.pages));
  for (std::int64_t page = o.pages; page > 0; --page) free_.push_back(page - 1);
}

// Not cleared: the system commits a page of memory when it is first written.
void KvPool::Store::allocate(std::int64_t layers) {
  const std::int64_t bytes = layers * heads * rows * width * element_bytes();
  memory.reset(static_cast<std::byte*>(
      ::operator new(static_cast<std::size_t>(bytes), kAlignment, std::nothrow)));
  if (memory == nullptr)
    throw Error("[kv_cache] no memory for " + std::to_string(bytes) + " bytes");
}

std::byte* KvPool::Store::at(std::int64_t layer, std::int64_t head, std::int64_t row) const {
  const std::int64_t plane = (layer * heads + head) * rows * width;
  const std::int64_t place = panel == 0 ? row * width : row / panel * panel * width + row % panel;
  return memory.get() + (plane + place) * element_bytes();
}

ConstTensor KvPool::Store::view(std::int64_t layer) const {
  if (memory == nullptr) return {};
  const Shape shape{1, heads, rows, width};
  return {at(layer, 0, 0), dtype, shape, strides_bhld(shape)};
}

void KvPool::Store::move(std::int64_t layer, std::int64_t from, std::int64_t to,
                         std::int64_t count) const {
  if (memory == nullptr) return;
  const auto element = static_cast<std::size_t>(element_bytes());
  for (std::int64_t head = 0; head < heads; ++head) {
    if (panel == 0) {
      std::memmove(at(layer, head, to), at(layer, head, from),
                   static_cast<std::size_t>(count * width) * element);
      continue;
    }
    for (std::int64_t row = 0; row < count; ++row) {
      const std::byte* source = at(layer, head, from + row);
      std::byte* target = at(layer, head, to + row);
      const std::size_t step = static_cast<std::size_t>(panel) * element;
      for (std::size_t i = 0; i < static_cast<std::size_t>(width); ++i)
        std::memcpy(target + i * step, source + i * step, element);
    }
  }
}

std::int64_t KvPool::shared_pages() const {
  return std::count_if(holders_.begin(), holders_.end(), [](std::int32_t n) { return n > 1; });
}

std::int64_t KvPool::page_bytes() const {
  std::int64_t row = 0;
  for (const Store* store : {&k_, &v_, &k_scale_, &v_scale_})
    row += store->heads * store->width * store->element_bytes();
  return layers_ * page_tokens_ * row;
}

std::int64_t KvPool::take() noexcept {
  const std::int64_t page = free_.back();
  free_.pop_back();
  holders_[static_cast<std::size_t>(page)] = 1;
  return page;
}

void KvPool::release(std::int64_t page) noexcept {
  if (--holders_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
}

void KvPool::write(std::int64_t layer, std::int64_t row, const ConstTensor& k, const ConstTensor& v,
                   std::int64_t first, std::int64_t count) {
  write_rows(k_, k_scale_, layer, row, k, first, count);
  write_rows(v_, v_scale_, layer, row, v, first, count);
}

void KvPool::write_rows(const Store& store, const Store& scales, std::int64_t layer,
                        std::int64_t row, const ConstTensor& x, std::int64_t first,
                        std::int64_t count) {
  const std::int64_t width = store.width;
  // Rows of the kept type are made here when they are then spread over a panel.
  alignas(64) std::array<std::byte, kMaxWidth * sizeof(double)> spread;
  std::array<float, kMaxWidth> scratch;
  const auto write_as = [&]<class T>(T) {
    for (std::int64_t head = 0; head < store.heads; ++head) {
      for (std::int64_t i = 0; i < count; ++i) {
        T* kept = reinterpret_cast<T*>(store.at(layer, head, row + i));
        T* to = store.panel == 0 ? kept : reinterpret_cast<T*>(spread.data());
        const std::int64_t from = x.offset(0, head, first + i);
        if (x.dtype == store.dtype) {
          std::memcpy(to, static_cast<const T*>(x.data) + from,
                      static_cast<std::size_t>(width) * sizeof(T));
        } else if constexpr (std::is_same_v<T, std::int8_t>) {
          const float scale = convert(floats(x, from, scratch.data()), width, to);
          std::memcpy(scales.at(layer, head, row + i), &scale, sizeof scale);
        } else if constexpr (!std::is_same_v<T, double>) {
          convert(floats(x, from, scratch.data()), width, to);
        }
        if (store.panel != 0) {
          for (std::int64_t d = 0; d < width; ++d) kept[d * store.panel] = to[d];
        }
      }
    }
  };
  switch (store.dtype) {
    case DType::f32: return write_as(float{});
    case DType::f64: return write_as(double{});
    case DType::bf16: return write_as(BFloat16{});
    case DType::f16: return write_as(Float16{});
    case DType::i8: return write_as(std::int8_t{});
  }
}

void KvPool::move(std::int64_t from, std::int64_t to, std::int64_t count) {
  for (std::int64_t layer = 0; layer < layers_; ++layer) {
    for (const Store* store : {&k_, &v_, &k_scale_, &v_scale_}) store->move(layer, from, to, count);
  }
}

}  // namespace attn
