#include "base/random.h"

#include <cmath>

namespace attn {

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0],
                        b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {
        static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
        static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9;  // the golden ratio
    key[1] += 0xBB67AE85;  // sqrt(3) - 1
  }
  return counter;
}

DropoutRule::DropoutRule(const Dropout& dropout)
    : threshold_(static_cast<std::uint32_t>(std::lround(dropout.p * 65536))),
      key_{static_cast<std::uint32_t>(dropout.seed),
           static_cast<std::uint32_t>(dropout.seed >> 32)} {}

std::array<std::uint16_t, 8> DropoutRule::fields(std::int64_t key_block, std::int64_t query,
                                                 std::int64_t head, std::uint32_t stream) const {
  const std::array<std::uint32_t, 4> words =
      philox4x32({static_cast<std::uint32_t>(key_block), static_cast<std::uint32_t>(query),
                  static_cast<std::uint32_t>(head), stream},
                 key_);
  std::array<std::uint16_t, 8> fields;
  for (std::size_t i = 0; i < 8; ++i) {
    fields[i] = static_cast<std::uint16_t>(words[i / 2] >> (16 * (i % 2)));
  }
  return fields;
}

}  // namespace attn
