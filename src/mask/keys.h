// Where keys stand: from ranges of positions to key indices.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "attn/mask.h"
#include "mask/intervals.h"

namespace attn {

// position - distance, position + distance, stopping at the ends of the type. Since a distance of
// 2^64 - 1 reaches every position from every other, it serves as "unlimited".
inline constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
inline std::int64_t back_by(std::int64_t position, std::uint64_t distance) {
  constexpr std::int64_t lowest = std::numeric_limits<std::int64_t>::min();
  const auto room = static_cast<std::uint64_t>(position) - static_cast<std::uint64_t>(lowest);
  if (distance >= room) return lowest;
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(position) - distance);
}
inline std::int64_t forward_by(std::int64_t position, std::uint64_t distance) {
  constexpr std::int64_t highest = std::numeric_limits<std::int64_t>::max();
  const auto room = static_cast<std::uint64_t>(highest) - static_cast<std::uint64_t>(position);
  if (distance >= room) return highest;
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(position) + distance);
}

inline std::int64_t floor_mod(std::int64_t a, std::int64_t step) {
  const std::int64_t rest = a % step;
  return rest < 0 ? rest + step : rest;
}

class Keys {
 public:
  // Keeps its own copy of the positions.
  explicit Keys(const Geometry& geometry)
      : length_(geometry.k_len), positions_(geometry.k_positions) {
    for (std::size_t j = 1; j < positions_.size(); ++j) {
      if (positions_[j] <= positions_[j - 1]) {
        increasing_ = consecutive_ = false;
        disorder_ = static_cast<std::int64_t>(j);
        break;
      }
      if (positions_[j] != positions_[j - 1] + 1) consecutive_ = false;
    }
    if (!positions_.empty()) first_ = positions_[0];
    if (!increasing_) {
      sorted_.reserve(positions_.size());
      for (std::size_t j = 0; j < positions_.size(); ++j) {
        sorted_.emplace_back(positions_[j], static_cast<std::int64_t>(j));
      }
      std::sort(sorted_.begin(), sorted_.end());
    }
  }

  std::int64_t length() const { return length_; }
  bool increasing() const { return increasing_; }
  bool consecutive() const { return consecutive_; }    // each one past the last
  std::int64_t disorder() const { return disorder_; }  // first key not behind its predecessor
  std::int64_t position(std::int64_t j) const {
    return consecutive_ ? first_ + j : positions_[static_cast<std::size_t>(j)];
  }

  // The highest position; only when there are keys.
  std::int64_t highest() const {
    return increasing_ ? position(length_ - 1) : sorted_.back().first;
  }

  // Keys at positions below p; at p or below. Increasing keys only.
  std::int64_t below(std::int64_t p) const {
    if (consecutive_) {
      if (p <= first_) return 0;
      const auto keys = static_cast<std::uint64_t>(p) - static_cast<std::uint64_t>(first_);
      return keys < static_cast<std::uint64_t>(length_) ? static_cast<std::int64_t>(keys) : length_;
    }
    return std::lower_bound(positions_.begin(), positions_.end(), p) - positions_.begin();
  }
  std::int64_t up_to(std::int64_t p) const {
    return p == std::numeric_limits<std::int64_t>::max() ? length_ : below(p + 1);
  }

  // Appends the keys at positions first...last, both inclusive, as pieces for normalise().
  void between(std::int64_t first, std::int64_t last, std::vector<Interval>& pieces) const {
    if (first > last) return;
    if (increasing_) {
      pieces.push_back({below(first), up_to(last), 1});
      return;
    }
    auto it = std::lower_bound(sorted_.begin(), sorted_.end(),
                               std::pair(first, std::numeric_limits<std::int64_t>::min()));
    for (; it != sorted_.end() && it->first <= last; ++it) {
      pieces.push_back({it->second, it->second + 1, 1});
    }
  }

 private:
  std::int64_t length_;
  std::vector<std::int64_t> positions_;
  std::vector<std::pair<std::int64_t, std::int64_t>> sorted_ = {};  // when not increasing
  std::int64_t first_ = 0;
  std::int64_t disorder_ = -1;
  bool increasing_ = true;
  bool consecutive_ = true;
};

}  // namespace attn
