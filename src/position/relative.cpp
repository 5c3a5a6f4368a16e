// Relative positions: ALiBi slopes and T5 buckets.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "attn/position.h"

namespace attn {

std::vector<float> alibi_slopes(std::int64_t heads, double max_bias) {
  if (heads < 1) {
    throw std::invalid_argument("[alibi_slopes] heads is " + std::to_string(heads) +
                                ", must be 1 or more");
  }
  if (!(max_bias > 0) || !std::isfinite(max_bias)) {
    throw std::invalid_argument("[alibi_slopes] max_bias is " + std::to_string(max_bias) +
                                ", must be positive");
  }
  std::int64_t power = 1;  // the largest power of two within heads
  while (power * 2 <= heads) power *= 2;

  // Slope i = 1...n of n heads, n a power of two.
  const auto slope = [max_bias](std::int64_t i, std::int64_t n) {
    return static_cast<float>(
        std::exp2(-max_bias * static_cast<double>(i) / static_cast<double>(n)));
  };
  std::vector<float> slopes;
  for (std::int64_t i = 1; i <= power; ++i) slopes.push_back(slope(i, power));
  // The others are every second slope of twice as many heads, from the first.
  for (std::int64_t i = 1; static_cast<std::int64_t>(slopes.size()) < heads; i += 2) {
    slopes.push_back(slope(i, 2 * power));
  }
  return slopes;
}

int t5_bucket(std::int64_t relative, bool bidirectional, int buckets, int max_distance) {
  if (buckets < (bidirectional ? 4 : 2) || (bidirectional && buckets % 2 != 0)) {
    throw std::invalid_argument("[t5_bucket] buckets is " + std::to_string(buckets) +
                                (bidirectional ? ", must be even and at least 4 (two directions)"
                                               : ", must be at least 2"));
  }
  // 1. Two directions share the buckets: keys after the query take the upper half.
  const int side = bidirectional ? buckets / 2 : buckets;
  const int first = bidirectional && relative > 0 ? side : 0;
  // 2. With one direction, keys after the query stand at distance 0.
  const double distance = bidirectional ? std::abs(static_cast<double>(relative))
                                        : static_cast<double>(-std::min<std::int64_t>(
                                              std::max(relative, -std::int64_t{1} << 62), 0));
  // 3. Half of the buckets hold one distance each.
  const int exact = side / 2;
  if (max_distance <= exact) {
    throw std::invalid_argument("[t5_bucket] max_distance is " + std::to_string(max_distance) +
                                ", must be above " + std::to_string(exact) + " with " +
                                std::to_string(buckets) + " buckets");
  }
  if (distance < exact) return first + static_cast<int>(distance);
  if (distance >= max_distance) return first + side - 1;
  // 4. The other half is logarithmic up to max_distance.
  const double share =
      std::log(distance / exact) / std::log(static_cast<double>(max_distance) / exact);
  return first + std::min(exact + static_cast<int>(share * (side - exact)), side - 1);
}

}  // namespace attn
