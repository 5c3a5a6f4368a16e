// Counter-based random numbers: the same on every machine, in any order.
#pragma once

#include <array>
#include <cstdint>

#include "attn/attention.h"

namespace attn {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; equal to
// Random123's philox4x32).
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key);

// Which pairs a Dropout keeps, by its definition in attn/attention.h; kernels compute the same,
// eight keys at once.
class DropoutRule {
 public:
  explicit DropoutRule(const Dropout& dropout);

  bool active() const { return threshold_ > 0; }
  // t = round(p * 65536): a pair is kept if its field is at least t.
  std::uint32_t threshold() const { return threshold_; }
  // What multiplies a kept probability: 65536 / (65536 - t).
  double scale() const { return 65536.0 / (65536.0 - threshold_); }
  // The seed's lower half first.
  std::array<std::uint32_t, 2> key() const { return key_; }

  // Field i belongs to key 8 * key_block + i: bits 16 * (i % 2) and up of word i / 2.
  std::array<std::uint16_t, 8> fields(std::int64_t key_block, std::int64_t query, std::int64_t head,
                                      std::uint32_t stream) const;
  // Key and query are indices in their sequence (queries from query_start), `stream` is the
  // sequence's stream plus the offset. Indices count modulo 2^32.
  bool keeps(std::int64_t k, std::int64_t query, std::int64_t head, std::uint32_t stream) const {
    return fields(k / 8, query, head, stream)[static_cast<std::size_t>(k % 8)] >= threshold_;
  }

 private:
  std::uint32_t threshold_;
  std::array<std::uint32_t, 2> key_;
};

}  // namespace attn
