// Random masks over random geometries: what the mask algebra answers from intervals against the
// oracle's rule, which asks pair by pair. They share no code.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attn/reference.h"

namespace attn {
namespace {

class RandomMasks {
 public:
  explicit RandomMasks(unsigned seed) : generator_(seed) {
    geometry.batch = pick(1, 3);
    geometry.heads = pick(1, 3);
    geometry.q_len = pick(0, 20);
    geometry.k_len = pick(0, 140);
    geometry.query_start = pick(-3, 60);
    if (pick(0, 2) == 0) {  // keys with gaps
      std::int64_t position = pick(-6, 3);
      for (std::int64_t j = 0; j < geometry.k_len; ++j) {
        geometry.k_positions.push_back(position);
        position += pick(1, 3);
      }
    }
    if (pick(0, 2) == 0) {  // queries in any order
      geometry.query_start = 0;
      geometry.q_positions = list(geometry.q_len, -6, 80);
    }
  }

  Geometry geometry;

  Mask tree(int depth, bool per_head = true, bool per_batch = true) {
    const std::int64_t kind = depth == 0 ? 0 : pick(0, 9);
    if (kind < 3) return leaf();
    if ((kind == 3 && per_head) || (kind == 4 && per_batch)) {
      std::vector<Mask> masks;
      for (std::int64_t i = kind == 3 ? geometry.heads : geometry.batch; i > 0; --i) {
        masks.push_back(tree(depth - 1, per_head && kind != 3, per_batch && kind != 4));
      }
      return kind == 3 ? Mask::per_head(masks) : Mask::per_batch(masks);
    }
    const Mask a = tree(depth - 1, per_head, per_batch), b = tree(depth - 1, per_head, per_batch);
    return pick(0, 1) ? a & b : a | b;
  }

 private:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(generator_);
  }

  std::vector<std::int64_t> list(std::int64_t n, std::int64_t low, std::int64_t high) {
    std::vector<std::int64_t> values;
    for (; n > 0; --n) values.push_back(pick(low, high));
    return values;
  }

  Mask leaf() {
    switch (pick(0, 13)) {
      case 0: return Mask::full();
      case 1: return Mask::causal();
      case 2: return Mask::window(pick(-1, 9), pick(-1, 9));
      case 3: return Mask::dilated_window(pick(-1, 5), pick(-1, 5), pick(1, 4));
      case 4: return Mask::global_tokens(list(pick(0, 4), -5, 60));
      case 5: return blocks();
      case 6: return Mask::documents(list(pick(1, 5), 0, 25));
      case 7: return Mask::prefix(pick(-3, 60));
      case 8:
        return Mask::padding(list(pick(0, 1) ? 1 : geometry.batch, 0, geometry.k_len),
                             pick(0, 1) ? PaddingSide::left : PaddingSide::right);
      case 9: return dense();
      case 10: return Mask::block_window(pick(1, 20), pick(-1, 3), pick(-1, 3));
      case 11: return Mask::global_blocks(pick(1, 12), pick(0, 2), pick(0, 2));
      case 12:
        return Mask::random_blocks({.size = pick(1, 12),
                                    .count = pick(0, 4),
                                    .seed = generator_(),
                                    .band = pick(0, 2),
                                    .first = pick(0, 2),
                                    .last = pick(0, 2)});
      default: return predicate();
    }
  }

  Mask blocks() {
    std::vector<std::pair<std::int64_t, std::int64_t>> visible;
    for (std::int64_t n = pick(0, 6); n > 0; --n) visible.emplace_back(pick(-2, 9), pick(-2, 9));
    return Mask::blocks(pick(1, 9), visible);
  }

  Mask dense() {
    const std::int64_t full[4] = {geometry.batch, geometry.heads, geometry.q_len, geometry.k_len};
    std::int64_t shape[4], size = 1;
    for (int i = 0; i < 4; ++i) size *= shape[i] = pick(0, 1) ? 1 : full[i];
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size));
    const std::int64_t sparse = pick(1, 4);
    for (std::uint8_t& byte : bytes) byte = pick(0, sparse) == 0 ? 3 : 0;
    return Mask::dense(bytes.data(), shape);
  }

  Mask predicate() {
    const std::int64_t seed = pick(0, 1000);
    return Mask::predicate(
        [seed](std::int64_t b, std::int64_t h, std::int64_t q, std::span<std::uint8_t> visible) {
          for (std::size_t k = 0; k < visible.size(); ++k) {
            const auto sum = static_cast<std::uint32_t>(seed + b * 7 + h * 13 + q * 31) + 17 * k;
            visible[k] = (sum * 2654435761u >> 9) % 5 < 2;
          }
        });
  }

  std::mt19937 generator_;
};

TEST(MaskAgreement, RandomMasks) {
  std::int64_t shown = 0, asked = 0;
  for (unsigned seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomMasks random(seed);
    const Mask mask = random.tree(3);
    const Geometry& g = random.geometry;
    std::int64_t pairs = 0;
    bool future = false;
    for (std::int64_t b = 0; b < g.batch; ++b) {
      for (std::int64_t h = 0; h < g.heads; ++h) {
        std::vector<std::int64_t> empty;
        for (std::int64_t q = 0; q < g.q_len; ++q) {
          std::vector<int> by_interval(static_cast<std::size_t>(g.k_len), 0);
          for (const Interval& i : mask.row(g, b, h, q)) {
            for (std::int64_t k = i.begin; k < i.end; k += i.step) {
              ++by_interval[static_cast<std::size_t>(k)];
            }
          }
          std::vector<int> by_rule;
          for (std::int64_t k = 0; k < g.k_len; ++k) {
            const bool sees = reference::visible(mask, g, b, h, q, k);
            by_rule.push_back(sees);
            pairs += sees;
            future = future || (sees && g.k_position(k) > g.q_position(q));
          }
          ASSERT_EQ(by_interval, by_rule) << "batch " << b << " head " << h << " query " << q;
          if (std::count(by_rule.begin(), by_rule.end(), 1) == 0) empty.push_back(q);
        }
        ASSERT_EQ(mask.empty_rows(g, b, h), empty) << "batch " << b << " head " << h;
      }
    }
    ASSERT_EQ(mask.pairs(g), pairs);
    ASSERT_EQ(mask.sees_future(g), future);
    shown += pairs;
    asked += g.batch * g.heads * g.q_len * g.k_len;
  }
  EXPECT_GT(shown, asked / 10) << "masks that hide everything test nothing";
  EXPECT_LT(shown, asked / 10 * 9) << "masks that show everything test nothing";
}

}  // namespace
}  // namespace attn
