#include "mask/random_blocks.h"

#include <algorithm>

#include "base/random.h"

namespace attn {
namespace {

__extension__ using Wide = unsigned __int128;

// The blocks that may be drawn: two runs, with the band between them.
struct Candidates {
  std::uint64_t begin_a, end_a, begin_b, end_b;

  Candidates(const RandomBlocks& rule, std::uint64_t blocks, std::uint64_t row)
      : begin_a(static_cast<std::uint64_t>(rule.first)),
        end_b(blocks - static_cast<std::uint64_t>(rule.last)) {
    const auto band = static_cast<std::uint64_t>(rule.band);
    end_a = std::max(begin_a, row - std::min(band, row));
    begin_b = std::min(end_b, row + 1 + band);
  }
  std::uint64_t count() const { return end_a - begin_a + end_b - begin_b; }
  std::int64_t operator[](std::uint64_t i) const {
    const std::uint64_t before = end_a - begin_a;
    return static_cast<std::int64_t>(i < before ? begin_a + i : begin_b + (i - before));
  }
};

std::uint64_t random_word(const RandomBlocks& rule, std::uint64_t draw, std::int64_t row,
                          std::int64_t head) {
  const auto words = philox4x32(
      {static_cast<std::uint32_t>(draw), static_cast<std::uint32_t>(row),
       static_cast<std::uint32_t>(head), 0xFFFFFFFF},
      {static_cast<std::uint32_t>(rule.seed), static_cast<std::uint32_t>(rule.seed >> 32)});
  return words[0] | std::uint64_t{words[1]} << 32;
}

}  // namespace

std::vector<std::pair<std::int64_t, std::int64_t>> drawn_blocks(const RandomBlocks& rule,
                                                                std::uint64_t blocks,
                                                                std::int64_t row,
                                                                std::int64_t head) {
  std::vector<std::pair<std::int64_t, std::int64_t>> runs;
  const auto add = [&](std::int64_t first, std::int64_t last) { runs.emplace_back(first, last); };
  const auto last = static_cast<std::uint64_t>(rule.last), at = static_cast<std::uint64_t>(row);
  if (row < rule.first || last >= blocks || at >= blocks - last) return runs;
  const Candidates all(rule, blocks, at);
  const auto count = static_cast<std::uint64_t>(rule.count);
  if (all.count() <= count) {
    if (const std::uint64_t n = all.end_a - all.begin_a; n > 0) add(all[0], all[n - 1]);
    if (all.begin_b < all.end_b)
      add(static_cast<std::int64_t>(all.begin_b), static_cast<std::int64_t>(all.end_b - 1));
    return runs;
  }
  std::vector<std::uint64_t> taken;  // ascending
  for (std::uint64_t draw = 0; draw < count; ++draw) {
    const std::uint64_t j = all.count() - count + draw;
    const auto t =
        static_cast<std::uint64_t>(Wide{random_word(rule, draw, row, head)} * (j + 1) >> 64);
    const auto place = std::lower_bound(taken.begin(), taken.end(), t);
    if (place != taken.end() && *place == t) {
      taken.push_back(j);  // above all before it
    } else {
      taken.insert(place, t);
    }
  }
  for (const std::uint64_t i : taken) add(all[i], all[i]);
  return runs;
}

}  // namespace attn
