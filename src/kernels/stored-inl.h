// Reading queries, keys and values as they are stored: other types, pages, rotation. Included once
// a target.
#if defined(ATTN_KERNELS_STORED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_STORED_INL_H_
#undef ATTN_KERNELS_STORED_INL_H_
#else
#define ATTN_KERNELS_STORED_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/ahead-inl.h"
#include "kernels/params.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// A vector of stored elements in the arithmetic's type. int8 comes without its scale.
template <class D>
HWY_INLINE hn::Vec<D> load_stored(D d, const hn::TFromD<D>* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load_stored(D d, const BFloat16* p) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<std::uint32_t, D> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}
template <class D>
HWY_INLINE hn::Vec<D> load_stored(D d, const Float16* p) {
  const hn::Rebind<hwy::float16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}
template <class D>
HWY_INLINE hn::Vec<D> load_stored(D d, const std::int8_t* p) {
  const hn::Rebind<std::int8_t, D> d8;
  const hn::Rebind<std::int32_t, D> d32;
  return hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, p)));
}

template <class T>
T element_of(T x) {
  return x;
}
inline float element_of(BFloat16 x) { return to_float(x); }
inline float element_of(Float16 x) { return to_float(x); }
inline float element_of(std::int8_t x) { return static_cast<float>(x); }

// out[i] = in[i]
template <class T, class S>
HWY_INLINE void convert(const S* HWY_RESTRICT in, std::int64_t count, T* HWY_RESTRICT out) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(load_stored(d, in + i), d, out + i);
  for (; i < count; ++i) out[i] = static_cast<T>(element_of(in[i]));
}

constexpr std::int64_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::f64: return 8;
    case DType::f32: return 4;
    case DType::bf16:
    case DType::f16: return 2;
    case DType::i8: return 1;
  }
  return 0;
}

// Calls f with a null pointer of the C++ type of `dtype`; float64 arithmetic knows only float64.
template <class T, class F>
HWY_INLINE auto with_type(DType dtype, F&& f) {
  if constexpr (sizeof(T) == 4) {
    switch (dtype) {
      case DType::bf16: return f(static_cast<const BFloat16*>(nullptr));
      case DType::f16: return f(static_cast<const Float16*>(nullptr));
      case DType::i8: return f(static_cast<const std::int8_t*>(nullptr));
      default: break;
    }
  }
  return f(static_cast<const T*>(nullptr));
}

// count rows of `width` elements, `stride` apart, to T.
template <class T>
void convert_rows(const void* in, DType dtype, std::int64_t stride, std::int64_t count,
                  std::int64_t width, T* HWY_RESTRICT out, std::int64_t out_stride) {
  with_type<T>(dtype, [&](auto* type) {
    const auto* from = static_cast<decltype(type)>(in);
    for (std::int64_t i = 0; i < count; ++i)
      convert(from + i * stride, width, out + i * out_stride);
  });
}

// out[i] = in[i] * factor in the output's type, rounded to nearest, ties to even.
template <class T>
HWY_INLINE void store_row(const T* HWY_RESTRICT in, T factor, std::int64_t count, DType dtype,
                          void* HWY_RESTRICT out) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto f = hn::Set(d, factor);
  std::int64_t i = 0;
  if constexpr (sizeof(T) == 4) {
    if (dtype == DType::bf16) {
      auto* to = static_cast<BFloat16*>(out);
      const hn::RebindToUnsigned<decltype(d)> d32;
      const hn::Rebind<std::uint16_t, decltype(d)> d16;
      for (; i + lanes <= count; i += lanes) {
        const auto x = hn::Mul(hn::LoadU(d, in + i), f);
        const auto bits = hn::BitCast(d32, x);
        const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
        const auto rounded = hn::Add(bits, hn::Add(hn::Set(d32, 0x7fff), odd));
        const auto nan = hn::RebindMask(d32, hn::Ne(x, x));
        const auto kept = hn::IfThenElse(nan, hn::Or(bits, hn::Set(d32, 0x400000)), rounded);
        const auto top = hn::BitCast(hn::RebindToSigned<decltype(d)>(), hn::ShiftRight<16>(kept));
        hn::StoreU(hn::DemoteTo(d16, top), d16, reinterpret_cast<std::uint16_t*>(to + i));
      }
      for (; i < count; ++i) to[i] = to_bfloat16(in[i] * factor);
      return;
    }
    if (dtype == DType::f16) {
      auto* to = static_cast<Float16*>(out);
      const hn::Rebind<hwy::float16_t, decltype(d)> d16;
      // Highway's portable conversion rounds towards zero.
      constexpr bool kPortable = HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128;
      for (; !kPortable && i + lanes <= count; i += lanes) {
        hn::StoreU(hn::DemoteTo(d16, hn::Mul(hn::LoadU(d, in + i), f)), d16,
                   reinterpret_cast<hwy::float16_t*>(to + i));
      }
      for (; i < count; ++i) to[i] = to_float16(in[i] * factor);
      return;
    }
  }
  auto* to = static_cast<T*>(out);
  for (; i + lanes <= count; i += lanes) hn::StoreU(hn::Mul(hn::LoadU(d, in + i), f), d, to + i);
  for (; i < count; ++i) to[i] = in[i] * factor;
}

// Rows of keys or values of one sequence and head, wherever they lie.
class StoredRows {
 public:
  StoredRows(const Stored& stored, const Sequence& sequence, std::int64_t head)
      : stored_(stored), first_(sequence.k_begin) {
    const Matrix& rows = stored.rows;
    const bool paged = stored.runs != nullptr;
    const std::int64_t batch = paged ? 0 : sequence.tensor;
    data_ = static_cast<const char*>(rows.data) +
            (batch * rows.batch + head * rows.head) * element_bytes(stored.dtype);
    if (stored.dtype == DType::i8) {
      scales_ = static_cast<const float*>(stored.scales.data) + batch * stored.scales.batch +
                head * stored.scales.head;
    }
    if (paged) {
      runs_ = stored.runs + stored.run_begin[sequence.batch];
      run_end_ = stored.runs + stored.run_begin[sequence.batch + 1];
    }
  }

  DType dtype() const { return stored_.dtype; }
  std::int64_t stride() const { return stored_.rows.length; }

  // The row of `key`, and how many keys from it on, at most `count`, lie in consecutive rows.
  std::int64_t find(std::int64_t key, std::int64_t& count) const {
    if (runs_ == nullptr) return first_ + key;
    const PageRun* run = std::upper_bound(
        runs_, run_end_, key, [](std::int64_t k, const PageRun& r) { return k < r.begin; });
    if (run != run_end_) count = std::min(count, run->begin - key);
    --run;
    return run->row + key - run->begin;
  }

  const void* at(std::int64_t row) const {
    return data_ + row * stored_.rows.length * element_bytes(stored_.dtype);
  }
  // Panels of keys start at rows that are multiples of the panel.
  const void* panel_at(std::int64_t row, std::int64_t width) const {
    return data_ + row * width * element_bytes(stored_.dtype);
  }

  // f(row, first, count) for each stretch of consecutive rows of keys [key, key + count).
  template <class F>
  HWY_INLINE void for_stretches(std::int64_t key, std::int64_t count, F&& f) const {
    for (std::int64_t i = 0; i < count;) {
      std::int64_t n = count - i;
      const std::int64_t row = find(key + i, n);
      f(row, i, n);
      i += n;
    }
  }

  // Adds `count` rows of `width` elements from `key` on to what is to be fetched.
  void look_ahead(std::int64_t key, std::int64_t count, std::int64_t width, Ahead& ahead) const {
    const std::int64_t bytes = element_bytes(stored_.dtype);
    const bool packed = stored_.panel > 0;
    for_stretches(key, count, [&](std::int64_t row, std::int64_t /*first*/, std::int64_t n) {
      ahead.add(packed ? panel_at(row, width) : at(row), (packed ? width : stride()) * bytes, n,
                width * bytes);
    });
  }

  // Scales of keys [key, key + count), int8 only.
  void read_scales(std::int64_t key, std::int64_t count, float* out) const {
    for_stretches(key, count, [&](std::int64_t row, std::int64_t i, std::int64_t n) {
      for (std::int64_t j = 0; j < n; ++j) out[i + j] = scales_[(row + j) * stored_.scales.length];
    });
  }

 private:
  const Stored& stored_;
  const char* data_;
  const float* scales_ = nullptr;
  const PageRun *runs_ = nullptr, *run_end_ = nullptr;
  std::int64_t first_;
};

// Rotates rows of x [count][width], row i by the angles of key `key` + i of a sequence.
template <class T>
void rotate_rows(const KeyRotation& r, std::int64_t sequence, std::int64_t key, std::int64_t count,
                 std::int64_t width, T* HWY_RESTRICT x) {
  const std::int64_t half = r.width / 2;
  if (r.first_row != nullptr) key += r.first_row[sequence];
  for (std::int64_t i = 0; i < count; ++i, x += width) {
    const float* cosine = r.cosines + (key + i) * half;
    const float* sine = r.sines + (key + i) * half;
    for (std::int64_t j = 0; j < half; ++j) {
      T& a = x[r.interleaved ? 2 * j : j];
      T& b = x[r.interleaved ? 2 * j + 1 : j + half];
      const T c = static_cast<T>(cosine[j]), s = static_cast<T>(sine[j]), before = a;
      a = before * c - b * s;
      b = before * s + b * c;
    }
  }
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
