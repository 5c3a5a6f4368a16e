// Random masks, each with the rule that it stands for: a function of one (batch, head, query, key),
// written from the definitions and sharing nothing with the library.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "attn/mask.h"

namespace attn::test {

__extension__ using Wide = __int128;  // positions and sides may lie at the ends of int64

using Rule = std::function<bool(const Geometry&, std::int64_t b, std::int64_t h, std::int64_t q,
                                std::int64_t k)>;

struct Ruled {
  Mask mask;
  Rule rule;
  bool needs_increasing = false;  // key positions
  bool structured = true;         // no dense, no predicate
  bool has_per_head = false, has_per_batch = false;
};

inline Ruled causal() {
  return {Mask::causal(),
          [](const Geometry& g, std::int64_t, std::int64_t, std::int64_t q, std::int64_t k) {
            return g.k_position(k) <= g.q_position(q);
          },
          true};
}

inline Ruled window(std::int64_t left, std::int64_t right) {
  return {Mask::window(left, right),
          [=](const Geometry& g, std::int64_t, std::int64_t, std::int64_t q, std::int64_t k) {
            const Wide offset = Wide{g.k_position(k)} - g.q_position(q);
            return (left < 0 || offset >= -Wide{left}) && (right < 0 || offset <= right);
          },
          true};
}

inline Ruled dilated(std::int64_t left, std::int64_t right, std::int64_t step) {
  return {Mask::dilated_window(left, right, step),
          [=](const Geometry& g, std::int64_t, std::int64_t, std::int64_t q, std::int64_t k) {
            const Wide offset = Wide{g.k_position(k)} - g.q_position(q);
            if (offset % step != 0) return false;
            const Wide i = offset / step;
            return (left < 0 || i >= -Wide{left}) && (right < 0 || i <= right);
          },
          true};
}

inline Ruled global_tokens(std::vector<std::int64_t> positions) {
  return {Mask::global_tokens(positions),
          [=](const Geometry& g, std::int64_t, std::int64_t, std::int64_t q, std::int64_t k) {
            return std::any_of(positions.begin(), positions.end(), [&](std::int64_t p) {
              return p == g.q_position(q) || p == g.k_position(k);
            });
          }};
}

inline Ruled blocks(std::int64_t size, std::vector<std::pair<std::int64_t, std::int64_t>> list) {
  return {Mask::blocks(size, list),
          [=](const Geometry& g, std::int64_t, std::int64_t, std::int64_t q, std::int64_t k) {
            return std::any_of(list.begin(), list.end(), [&](const auto& block) {
              const auto inside = [&](std::int64_t index, std::int64_t position) {
                const Wide begin = Wide{index} * size;
                return begin <= position && position < begin + size;
              };
              return inside(block.first, g.q_position(q)) && inside(block.second, g.k_position(k));
            });
          }};
}

inline Ruled block_window(std::int64_t size, std::int64_t left, std::int64_t right) {
  return {Mask::block_window(size, left, right),
          [=](const Geometry& g, std::int64_t, std::int64_t, std::int64_t q, std::int64_t k) {
            const auto block = [size](Wide p) { return (p - ((p % size) + size) % size) / size; };
            const Wide offset = block(g.k_position(k)) - block(g.q_position(q));
            return (left < 0 || offset >= -Wide{left}) && (right < 0 || offset <= right);
          }};
}

// From the end of the last key's block backwards.
inline Ruled global_blocks(std::int64_t size, std::int64_t first, std::int64_t last) {
  return {Mask::global_blocks(size, first, last),
          [=](const Geometry& g, std::int64_t, std::int64_t, std::int64_t q, std::int64_t k) {
            Wide end = 0;
            for (std::int64_t j = 0; j < g.k_len; ++j) {
              while (end <= g.k_position(j)) end += size;
            }
            const auto inside = [&](Wide p) {
              return p >= 0 &&
                     (p < Wide{first} * size || (p < end && p >= end - Wide{last} * size));
            };
            return inside(g.q_position(q)) || inside(g.k_position(k));
          }};
}

// Philox4x32-10 again, in the words of the paper: (hi, lo) of two products, then the keys.
inline std::uint64_t drawn_word(std::uint64_t seed, std::uint32_t draw, std::uint32_t row,
                                std::uint32_t head) {
  std::uint32_t x[4] = {draw, row, head, 0xFFFFFFFFU};
  auto low = static_cast<std::uint32_t>(seed), high = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p = 0xD2511F53ULL * x[0], r = 0xCD9E8D57ULL * x[2];
    const std::uint32_t y[4] = {
        static_cast<std::uint32_t>(r >> 32) ^ x[1] ^ low, static_cast<std::uint32_t>(r),
        static_cast<std::uint32_t>(p >> 32) ^ x[3] ^ high, static_cast<std::uint32_t>(p)};
    std::copy(y, y + 4, x);
    low += 0x9E3779B9U;
    high += 0xBB67AE85U;
  }
  return x[0] + (std::uint64_t{x[1]} << 32);
}

inline Ruled random_blocks(const RandomBlocks& rule) {
  return {Mask::random_blocks(rule),
          [=](const Geometry& g, std::int64_t, std::int64_t h, std::int64_t q, std::int64_t k) {
            std::int64_t n = 0;
            for (std::int64_t j = 0; j < g.k_len; ++j) {
              while (n * rule.size <= g.k_position(j)) ++n;
            }
            const std::int64_t at = g.q_position(q);
            if (at < rule.first * rule.size || at >= (n - rule.last) * rule.size) return false;
            std::vector<std::int64_t> open;
            for (std::int64_t c = rule.first; c < n - rule.last; ++c) {
              if (std::abs(c - at / rule.size) > rule.band) open.push_back(c);
            }
            const auto m = static_cast<std::int64_t>(open.size());
            std::vector<std::int64_t> taken;
            for (std::int64_t d = 0; d < rule.count && m > rule.count; ++d) {
              const std::uint64_t x = drawn_word(rule.seed, static_cast<std::uint32_t>(d),
                                                 static_cast<std::uint32_t>(at / rule.size),
                                                 static_cast<std::uint32_t>(h));
              const std::int64_t j = m - rule.count + d;
              const auto t = static_cast<std::int64_t>(Wide{x} * (j + 1) >> 64);
              taken.push_back(std::count(taken.begin(), taken.end(), t) != 0 ? j : t);
            }
            for (std::int64_t i = 0; i < m; ++i) {
              const std::int64_t begin = open[static_cast<std::size_t>(i)] * rule.size;
              if (g.k_position(k) < begin || g.k_position(k) >= begin + rule.size) continue;
              return m <= rule.count || std::count(taken.begin(), taken.end(), i) != 0;
            }
            return false;
          }};
}

inline Ruled documents(std::vector<std::int64_t> lengths) {
  return {Mask::documents(lengths),
          [=](const Geometry& g, std::int64_t, std::int64_t, std::int64_t q, std::int64_t k) {
            std::int64_t begin = 0;
            for (const std::int64_t length : lengths) {
              const auto inside = [&](std::int64_t p) { return begin <= p && p < begin + length; };
              if (inside(g.q_position(q)) && inside(g.k_position(k))) return true;
              begin += length;
            }
            return false;
          }};
}

inline Ruled prefix(std::int64_t n) {
  return {Mask::prefix(n), [=](const Geometry& g, std::int64_t, std::int64_t, std::int64_t,
                               std::int64_t k) { return g.k_position(k) < n; }};
}

inline Ruled padding(std::vector<std::int64_t> lengths, PaddingSide side) {
  return {Mask::padding(lengths, side),
          [=](const Geometry& g, std::int64_t b, std::int64_t, std::int64_t, std::int64_t k) {
            const std::int64_t n =
                lengths.size() == 1 ? lengths[0] : lengths[static_cast<std::size_t>(b)];
            return side == PaddingSide::right ? k < n : k >= g.k_len - n;
          }};
}

// A reproducible coin for (b, h, q, k).
inline bool coin(std::uint64_t seed, std::int64_t b, std::int64_t h, std::int64_t q,
                 std::int64_t k) {
  std::uint64_t x = seed;
  for (const std::int64_t i : {b, h, q, k}) {
    x = (x ^ static_cast<std::uint64_t>(i)) * 0x9e3779b97f4a7c15;
    x ^= x >> 29;
  }
  return x % 3 != 0;
}

// `axes`: which of the four axes the mask has; the others broadcast.
inline Ruled dense(std::uint64_t seed, const Geometry& g, unsigned axes) {
  const std::int64_t full[4] = {g.batch, g.heads, g.q_len, g.k_len};
  std::int64_t shape[4];
  for (unsigned i = 0; i < 4; ++i) shape[i] = (axes >> i & 1) != 0 ? full[i] : 1;
  std::vector<std::uint8_t> bytes;
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    for (std::int64_t h = 0; h < shape[1]; ++h) {
      for (std::int64_t q = 0; q < shape[2]; ++q) {
        for (std::int64_t k = 0; k < shape[3]; ++k) {
          bytes.push_back(coin(seed, b, h, q, k) ? static_cast<std::uint8_t>(1 + (k * 37) % 255)
                                                 : std::uint8_t{0});
        }
      }
    }
  }
  const auto at = [axes](unsigned axis, std::int64_t i) {
    return (axes >> axis & 1) != 0 ? i : std::int64_t{0};
  };
  return {Mask::dense(bytes.data(), shape),
          [=](const Geometry&, std::int64_t b, std::int64_t h, std::int64_t q, std::int64_t k) {
            return coin(seed, at(0, b), at(1, h), at(2, q), at(3, k));
          },
          false, false};
}

inline Ruled predicate(std::uint64_t seed) {
  return {Mask::predicate([seed](std::int64_t b, std::int64_t h, std::int64_t q,
                                 std::span<std::uint8_t> visible) {
            for (std::size_t k = 0; k < visible.size(); ++k) {
              if (coin(seed, b, h, q, static_cast<std::int64_t>(k))) visible[k] = 200;
            }
          }),
          [seed](const Geometry&, std::int64_t b, std::int64_t h, std::int64_t q, std::int64_t k) {
            return coin(seed, b, h, q, k);
          },
          false, false};
}

inline Ruled combine(const Ruled& a, const Ruled& b, bool both) {
  return {both ? a.mask & b.mask : a.mask | b.mask,
          [a = a.rule, b = b.rule, both](const Geometry& g, std::int64_t batch, std::int64_t h,
                                         std::int64_t q, std::int64_t k) {
            return both ? a(g, batch, h, q, k) && b(g, batch, h, q, k)
                        : a(g, batch, h, q, k) || b(g, batch, h, q, k);
          },
          a.needs_increasing || b.needs_increasing,
          a.structured && b.structured,
          a.has_per_head || b.has_per_head,
          a.has_per_batch || b.has_per_batch};
}

inline Ruled per(const std::vector<Ruled>& list, bool head) {
  std::vector<Mask> masks;
  Ruled result;
  for (const Ruled& part : list) {
    masks.push_back(part.mask);
    result.needs_increasing |= part.needs_increasing;
    result.structured &= part.structured;
    result.has_per_head |= part.has_per_head || head;
    result.has_per_batch |= part.has_per_batch || !head;
  }
  result.mask = head ? Mask::per_head(masks) : Mask::per_batch(masks);
  result.rule = [list, head](const Geometry& g, std::int64_t b, std::int64_t h, std::int64_t q,
                             std::int64_t k) {
    return list[static_cast<std::size_t>(head ? h : b)].rule(g, b, h, q, k);
  };
  return result;
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  // In low...high, both inclusive.
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
  }
  bool chance(int percent) { return integer(1, 100) <= percent; }
  std::uint64_t seed() { return engine_(); }

  // `ordered`: key positions increase, so that every mask fits.
  Geometry geometry(bool ordered) {
    constexpr std::int64_t kLengths[] = {0, 1, 7, 63, 64, 65, 130};
    Geometry g;
    g.batch = integer(1, 2);
    g.heads = chance(50) ? 1 : 3;
    g.q_len = kLengths[integer(0, 6)];
    g.k_len = kLengths[integer(0, 6)];
    if (chance(40)) g.query_start = chance(50) ? g.k_len - g.q_len : integer(-20, 140);
    if (chance(30)) {
      for (std::int64_t i = 0; i < g.q_len; ++i) g.q_positions.push_back(integer(-10, 140));
    }
    if (!ordered || chance(30)) {
      std::int64_t p = integer(-10, 10);
      const bool even = ordered && chance(40);
      for (std::int64_t j = 0; j < g.k_len; ++j) {
        g.k_positions.push_back(ordered ? p : integer(-10, 140));
        p += even ? 1 : integer(1, 3);
      }
    }
    return g;
  }

  Ruled leaf(const Geometry& g, bool ordered) {
    const auto side = [&] { return integer(-1, chance(50) ? 6 : 90); };
    for (;;) {
      switch (integer(0, 13)) {
        case 0: return {Mask::full(), [](const Geometry&, auto...) { return true; }};
        case 1:
          if (ordered) return causal();
          break;
        case 2:
          if (ordered) return window(side(), side());
          break;
        case 3:
          if (ordered) return dilated(side(), side(), integer(1, chance(70) ? 4 : 70));
          break;
        case 4: return global_tokens(list(0, 5, -3, 140));
        case 5: {
          std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
          for (std::int64_t i = integer(0, 12); i > 0; --i) {
            pairs.emplace_back(integer(-1, 5), integer(-1, 5));
          }
          return blocks(integer(1, 40), pairs);
        }
        case 6: return documents(list(0, 6, 0, 50));
        case 7: return prefix(integer(-2, 140));
        case 8:
          return padding(list(1, 1, 0, g.k_len, chance(50) ? g.batch : 1),
                         chance(50) ? PaddingSide::right : PaddingSide::left);
        case 9: return block_window(integer(1, 40), integer(-1, 3), integer(-1, 3));
        case 10: return global_blocks(integer(1, 20), integer(0, 2), integer(0, 2));
        case 11:
          return random_blocks(
              {integer(1, 20), integer(0, 4), seed(), integer(0, 2), integer(0, 2), integer(0, 2)});
        case 12:
          if (chance(40)) return dense(seed(), g, static_cast<unsigned>(integer(0, 15)));
          break;
        default:
          if (chance(20)) return predicate(seed());
      }
    }
  }

  Ruled mask(const Geometry& g, bool ordered, int depth) {
    if (depth == 0 || chance(25)) return leaf(g, ordered);
    if (chance(12)) {
      const bool head = chance(50);
      std::vector<Ruled> parts;
      bool nested = false;
      for (std::int64_t i = head ? g.heads : g.batch; i > 0; --i) {
        parts.push_back(chance(30) && !parts.empty() ? parts[0] : mask(g, ordered, depth - 1));
        nested |= head ? parts.back().has_per_head : parts.back().has_per_batch;
      }
      if (!nested) return per(parts, head);
    }
    return combine(mask(g, ordered, depth - 1), mask(g, ordered, depth - 1), chance(50));
  }

 private:
  std::vector<std::int64_t> list(std::int64_t least, std::int64_t most, std::int64_t low,
                                 std::int64_t high, std::int64_t times = 1) {
    std::vector<std::int64_t> values;
    for (std::int64_t i = integer(least, most) * times; i > 0; --i) {
      values.push_back(integer(low, high));
    }
    return values;
  }

  std::mt19937_64 engine_;
};

}  // namespace attn::test
