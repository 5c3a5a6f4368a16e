// Which pairs dropout keeps: Philox4x32-10 (base/random.h says it once more, plainly), a vector of
// counters at once. Included once a target.
#if defined(ATTN_KERNELS_DROPOUT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_DROPOUT_INL_H_
#undef ATTN_KERNELS_DROPOUT_INL_H_
#else
#define ATTN_KERNELS_DROPOUT_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

#include "base/random.h"
#include "kernels/params.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Bit i of `words` is set if the pair of key k_begin + i is kept, for keys [k_begin, k_begin + 64 *
// count); k_begin is a multiple of 8. `query` counts from the sequence's query_start, `stream` has
// its offset.
inline void kept_bits(const DropoutParams& p, std::int64_t query, std::int64_t head,
                      std::uint32_t stream, std::int64_t k_begin, std::int64_t count,
                      std::uint64_t* words) {
  const auto first = static_cast<std::uint32_t>(k_begin / 8);
#if HWY_TARGET == HWY_SCALAR
  for (std::int64_t w = 0; w < count; ++w) {
    words[w] = 0;
    for (std::uint32_t byte = 0; byte < 8; ++byte) {
      const auto x =
          philox4x32({first + static_cast<std::uint32_t>(w * 8) + byte,
                      static_cast<std::uint32_t>(query), static_cast<std::uint32_t>(head), stream},
                     {p.key[0], p.key[1]});
      for (std::uint32_t i = 0; i < 8; ++i) {
        const bool kept = (x[i / 2] >> (16 * (i % 2)) & 0xffff) >= p.threshold;
        words[w] |= std::uint64_t{kept} << (8 * byte + i);
      }
    }
  }
#else
  // A counter a 64-bit lane; products and sums look at the lower half of a lane only, what is in
  // the upper one is left there.
  const hn::ScalableTag<std::uint64_t> d;
  const hn::Repartition<std::uint32_t, decltype(d)> d32;
  const hn::Repartition<std::uint16_t, decltype(d)> d16;
  const hn::Rebind<std::uint8_t, decltype(d)> d8;
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  const auto low = hn::Set(d, 0xffffffffu);
  const auto m0 = hn::Set(d32, 0xD2511F53u), m1 = hn::Set(d32, 0xCD9E8D57u);
  const auto threshold = hn::Set(d16, static_cast<std::uint16_t>(p.threshold));
  const auto bits = hn::BitCast(d16, hn::Set(d, 0x0008000400020001u));
  const auto high_bits = hn::BitCast(d16, hn::Set(d, 0x0080004000200010u));
  auto* bytes = reinterpret_cast<std::uint8_t*>(words);
  for (std::int64_t i = 0; i < 8 * count; i += kLanes) {
    auto x0 = hn::Add(hn::Set(d, first + static_cast<std::uint32_t>(i)), hn::Iota(d, 0));
    auto x1 = hn::Set(d, static_cast<std::uint32_t>(query));
    auto x2 = hn::Set(d, static_cast<std::uint32_t>(head));
    auto x3 = hn::Set(d, stream);
    std::uint32_t k0 = p.key[0], k1 = p.key[1];
    for (int round = 0; round < 10; ++round) {
      const auto a = hn::MulEven(hn::BitCast(d32, x0), m0);
      const auto b = hn::MulEven(hn::BitCast(d32, x2), m1);
      x0 = hn::Xor3(hn::ShiftRight<32>(b), x1, hn::Set(d, k0));
      x1 = b;
      x2 = hn::Xor3(hn::ShiftRight<32>(a), x3, hn::Set(d, k1));
      x3 = a;
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    // Four fields a lane, compared and set to their bits; then the bits of a lane are gathered.
    const auto fields = hn::BitCast(d16, hn::Or(hn::And(x0, low), hn::ShiftLeft<32>(x1)));
    const auto high_fields = hn::BitCast(d16, hn::Or(hn::And(x2, low), hn::ShiftLeft<32>(x3)));
    const auto at_least = [&](auto x) { return hn::Eq(hn::Max(x, threshold), x); };
    const auto kept = hn::Or(hn::IfThenElseZero(at_least(fields), bits),
                             hn::IfThenElseZero(at_least(high_fields), high_bits));
    auto byte = hn::BitCast(d, kept);
    byte = hn::Or(byte, hn::ShiftRight<32>(byte));
    byte = hn::Or(byte, hn::ShiftRight<16>(byte));
    hn::StoreU(hn::TruncateTo(d8, byte), d8, bytes + i);
  }
#endif
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
