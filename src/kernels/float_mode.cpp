#include "kernels/forward.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace attn::kernels {

#if defined(__x86_64__)
namespace {
constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040, kRounding = 0x6000;
}
FloatMode::FloatMode() : saved_(_mm_getcsr()) {
  _mm_setcsr((static_cast<unsigned>(saved_) & ~kRounding) | kFlushToZero | kDenormalsAreZero);
}
FloatMode::~FloatMode() { _mm_setcsr(static_cast<unsigned>(saved_)); }
#elif defined(__aarch64__)
namespace {
constexpr std::uint64_t kFlushToZero = std::uint64_t{1} << 24, kRounding = std::uint64_t{3} << 22;
}
FloatMode::FloatMode() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  const std::uint64_t mode = (saved_ & ~kRounding) | kFlushToZero;
  asm volatile("msr fpcr, %0" : : "r"(mode));
}
FloatMode::~FloatMode() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
FloatMode::FloatMode() : saved_(0) {}
FloatMode::~FloatMode() = default;
#endif

}  // namespace attn::kernels
