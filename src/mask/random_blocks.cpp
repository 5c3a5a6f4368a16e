#include "mask/random_blocks.h"

#include <algorithm>

#include "base/random.h"

namespace attn {
namespace {

__extension__ using Wide = unsigned __int128;

// The blocks that may be drawn: two runs, with the band between them.
struct Candidates {
  std::int64_t begin_a, end_a, begin_b, end_b;

  Candidates(const RandomBlocks& rule, std::int64_t blocks, std::int64_t row)
      : begin_a(rule.first), end_b(blocks - rule.last) {
    end_a = std::max(begin_a, row - std::min(rule.band, row));
    begin_b = std::min(end_b, row + 1 + std::min(rule.band, end_b - row - 1));
  }
  std::int64_t count() const { return end_a - begin_a + end_b - begin_b; }
  std::int64_t operator[](std::int64_t i) const {
    const std::int64_t before = end_a - begin_a;
    return i < before ? begin_a + i : begin_b + (i - before);
  }
};

std::uint64_t random_word(const RandomBlocks& rule, std::int64_t draw, std::int64_t row,
                          std::int64_t head) {
  const auto words = philox4x32(
      {static_cast<std::uint32_t>(draw), static_cast<std::uint32_t>(row),
       static_cast<std::uint32_t>(head), 0xFFFFFFFF},
      {static_cast<std::uint32_t>(rule.seed), static_cast<std::uint32_t>(rule.seed >> 32)});
  return words[0] | std::uint64_t{words[1]} << 32;
}

}  // namespace

std::vector<std::pair<std::int64_t, std::int64_t>> drawn_blocks(const RandomBlocks& rule,
                                                                std::int64_t blocks,
                                                                std::int64_t row,
                                                                std::int64_t head) {
  std::vector<std::pair<std::int64_t, std::int64_t>> runs;
  if (row < rule.first || rule.last >= blocks || row >= blocks - rule.last) return runs;
  const Candidates all(rule, blocks, row);
  if (all.count() <= rule.count) {
    if (all.begin_a < all.end_a) runs.emplace_back(all.begin_a, all.end_a - 1);
    if (all.begin_b < all.end_b) runs.emplace_back(all.begin_b, all.end_b - 1);
    return runs;
  }
  std::vector<std::int64_t> taken;  // ascending
  for (std::int64_t draw = 0; draw < rule.count; ++draw) {
    const std::int64_t j = all.count() - rule.count + draw;
    const Wide scaled =
        Wide{random_word(rule, draw, row, head)} * static_cast<std::uint64_t>(j + 1);
    const auto t = static_cast<std::int64_t>(scaled >> 64);
    const auto place = std::lower_bound(taken.begin(), taken.end(), t);
    if (place != taken.end() && *place == t) {
      taken.push_back(j);  // above all before it
    } else {
      taken.insert(place, t);
    }
  }
  for (const std::int64_t i : taken) runs.emplace_back(all[i], all[i]);
  return runs;
}

}  // namespace attn
