// Cutting two texts to a length: the longer one loses its end first (Hugging Face's longest_first).
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

namespace attn {

// How many tokens of each text stay when both may have `room`.
inline std::pair<std::size_t, std::size_t> longest_first(std::size_t a, std::size_t b,
                                                         std::size_t room) {
  if (a + b <= room) return {a, b};
  std::size_t shorter = std::min(a, b);
  std::size_t longer = shorter > room ? shorter : std::max(shorter, room - shorter);
  if (shorter + longer > room) {
    shorter = room / 2;
    longer = shorter + room % 2;
  }
  return a > b ? std::pair(longer, shorter) : std::pair(shorter, longer);
}

}  // namespace attn
