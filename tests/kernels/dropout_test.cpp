// The vectorised dropout against the plain one, for every instruction set that the CPU has.

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dropout_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "attn/context.h"
#include "kernels/dropout-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

void kept(const DropoutParams& p, std::int64_t query, std::int64_t head, std::uint32_t stream,
          std::int64_t k_begin, std::int64_t count, std::uint64_t* words) {
  kept_bits(p, query, head, stream, k_begin, count, words);
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {
namespace {

struct Path {
  Isa isa;
  void (*kept)(const DropoutParams&, std::int64_t, std::int64_t, std::uint32_t, std::int64_t,
               std::int64_t, std::uint64_t*);
};

std::vector<Path> paths() {
  std::vector<Path> all;
#if HWY_TARGETS & HWY_AVX3
  all.push_back({Isa::avx512, &N_AVX3::kept});
#endif
#if HWY_TARGETS & HWY_AVX2
  all.push_back({Isa::avx2, &N_AVX2::kept});
#endif
#if HWY_TARGETS & HWY_NEON
  all.push_back({Isa::neon, &N_NEON::kept});
#endif
#if HWY_TARGETS & HWY_SCALAR
  all.push_back({Isa::scalar, &N_SCALAR::kept});
#endif
#if HWY_TARGETS & HWY_EMU128
  all.push_back({Isa::scalar, &N_EMU128::kept});
#endif
  const std::vector<Isa> supported = supported_isas();
  std::erase_if(all, [&](const Path& path) {
    return std::find(supported.begin(), supported.end(), path.isa) == supported.end();
  });
  return all;
}

TEST(KeptBits, AreThoseOfTheRule) {
  ASSERT_FALSE(paths().empty());
  for (const double p : {1.0 / 65536, 0.1, 0.5, 65535.0 / 65536}) {
    const DropoutRule rule({.p = p, .seed = 0x0123456789abcdef});
    const DropoutParams params{rule.threshold(), {rule.key()[0], rule.key()[1]}, rule.scale()};
    for (const std::int64_t begin : {std::int64_t{0}, std::int64_t{8}, std::int64_t{1} << 35}) {
      for (const std::int64_t query : {std::int64_t{0}, std::int64_t{-3}, std::int64_t{1} << 33}) {
        for (const std::int64_t count : {1, 4}) {
          for (const Path& path : paths()) {
            // One more, to see that nothing is written past the end.
            std::vector<std::uint64_t> words(static_cast<std::size_t>(count) + 1, 77);
            path.kept(params, query, 5, 0xfedcba98, begin, count, words.data());
            EXPECT_EQ(words.back(), 77u);
            for (std::int64_t i = 0; i < 64 * count; ++i) {
              ASSERT_EQ(words[static_cast<std::size_t>(i / 64)] >> (i % 64) & 1,
                        rule.keeps(begin + i, query, 5, 0xfedcba98))
                  << name(path.isa) << ", key " << begin + i << ", p " << p;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace attn::kernels
#endif
