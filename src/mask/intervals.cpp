#include "mask/intervals.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

namespace attn {
namespace {

bool contains(const Interval& interval, std::int64_t key) {
  return key >= interval.begin && key < interval.end && (key - interval.begin) % interval.step == 0;
}

// The common keys of a and b in [begin, end), which lies in both hulls.
Interval common(const Interval& a, const Interval& b, std::int64_t begin, std::int64_t end) {
  const Interval y = clip(b, begin, end);
  if (a.step == 1 || is_empty(y)) return y;
  const Interval x = clip(a, y.begin, y.end);
  if (b.step == 1 || is_empty(x)) return x;
  // Two progressions meet within step / gcd tries or never; then at every least common multiple.
  const std::int64_t repeat = y.step / std::gcd(x.step, y.step);
  std::int64_t key = x.begin;
  for (std::int64_t tries = 0; tries < repeat && key < x.end; ++tries, key += x.step) {
    if (!contains(y, key)) continue;
    if ((x.end - 1 - key) / x.step < repeat) return {key, key + 1, 1};
    return clip({key, x.end, x.step * repeat}, key, x.end);
  }
  return {};
}

// Appends the union of two intervals whose hulls may overlap, either of which may be empty.
void append_union(std::vector<Interval>& out, std::size_t first, Interval x, Interval y) {
  const auto covers = [](const Interval& a, const Interval& b) {
    return is_empty(b) || (a.step == 1 && a.begin <= b.begin && a.end >= b.end);
  };
  if (covers(x, y)) {
    if (!is_empty(x)) append(out, first, x);
  } else if (covers(y, x)) {
    append(out, first, y);
  } else if (x.step > 1 && x.step == y.step && (x.begin - y.begin) % x.step == 0) {
    append(out, first, {std::min(x.begin, y.begin), std::max(x.end, y.end), x.step});
  } else {
    while (!is_empty(x) || !is_empty(y)) {
      if (is_empty(x) || (!is_empty(y) && y.begin < x.begin)) std::swap(x, y);
      append(out, first, {x.begin, x.begin + 1, 1});
      if (!is_empty(y) && y.begin == x.begin) y.begin += y.step;
      x.begin += x.step;
    }
  }
}

}  // namespace

Interval clip(const Interval& interval, std::int64_t begin, std::int64_t end) {
  Interval kept = interval;
  kept.end = std::min(interval.end, end);
  if (kept.step == 1) {
    kept.begin = std::max(interval.begin, begin);
    return kept.begin < kept.end ? kept : Interval{};
  }
  if (kept.begin < begin) {
    const std::int64_t skipped = (begin - kept.begin - 1) / kept.step + 1;
    if (skipped > (kept.end - 1 - kept.begin) / kept.step) return {};
    kept.begin += skipped * kept.step;
  }
  if (is_empty(kept)) return {};
  kept.end = kept.begin + (kept.end - 1 - kept.begin) / kept.step * kept.step + 1;
  if (kept.end == kept.begin + 1) kept.step = 1;
  return kept;
}

void append(std::vector<Interval>& row, std::size_t first, Interval next) {
  if (row.size() == first) {
    row.push_back(next);
    return;
  }
  if (row.back().end != next.begin) {
    // A key at the right distance continues a progression, forwards or backwards.
    Interval& back = row.back();
    if (back.step > 1 && (next.step == back.step || next.end == next.begin + 1) &&
        next.begin - (back.end - 1) == back.step) {
      back.end = next.end;
    } else if (next.step > 1 && back.end == back.begin + 1 &&
               next.begin - back.begin == next.step) {
      back = {back.begin, next.end, next.step};
    } else {
      row.push_back(next);
    }
    return;
  }
  if (row.back().step > 1) {  // its last key touches: that key leaves the progression
    Interval& back = row.back();
    const std::int64_t last = back.end - 1;
    back = clip(back, back.begin, last);
    row.push_back({last, last + 1, 1});
  }
  if (next.step == 1) {
    row.back().end = next.end;
  } else {
    row.back().end = next.begin + 1;
    row.push_back(clip(next, next.begin + 1, next.end));
  }
}

void intersect(std::span<const Interval> a, std::span<const Interval> b,
               std::vector<Interval>& out) {
  const std::size_t first = out.size();
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const std::int64_t begin = std::max(a[i].begin, b[j].begin);
    const std::int64_t end = std::min(a[i].end, b[j].end);
    if (begin < end) {
      if (a[i].step == 1 && b[j].step == 1) {
        append(out, first, {begin, end, 1});
      } else if (const Interval both = common(a[i], b[j], begin, end); !is_empty(both)) {
        append(out, first, both);
      }
    }
    if (a[i].end < b[j].end) {
      ++i;
    } else {
      ++j;
    }
  }
}

void unite(std::span<const Interval> a, std::span<const Interval> b, std::vector<Interval>& out) {
  const std::size_t first = out.size();
  std::size_t next_a = 0, next_b = 0;
  const auto next = [](std::span<const Interval> list, std::size_t& index) {
    return index < list.size() ? list[index++] : Interval{};
  };
  Interval x = next(a, next_a), y = next(b, next_b);
  while (!is_empty(x) && !is_empty(y)) {
    if (x.step == 1 && y.step == 1) {
      if (std::max(x.begin, y.begin) <= std::min(x.end, y.end)) {
        // They touch: the one that ends first is taken in by the other.
        if (x.end < y.end) {
          y.begin = std::min(x.begin, y.begin);
          x = next(a, next_a);
        } else {
          x.begin = std::min(x.begin, y.begin);
          y = next(b, next_b);
        }
      } else if (x.begin < y.begin) {
        append(out, first, x);
        x = next(a, next_a);
      } else {
        append(out, first, y);
        y = next(b, next_b);
      }
      continue;
    }
    // What lies before the overlap of the hulls belongs to one of them alone.
    const std::int64_t begin = std::max(x.begin, y.begin);
    const Interval head = clip(x.begin < y.begin ? x : y, std::min(x.begin, y.begin), begin);
    if (!is_empty(head)) append(out, first, head);
    const std::int64_t end = std::min(x.end, y.end);
    if (begin < end) append_union(out, first, clip(x, begin, end), clip(y, begin, end));
    x = clip(x, std::max(begin, end), x.end);
    y = clip(y, std::max(begin, end), y.end);
    if (is_empty(x)) x = next(a, next_a);
    if (is_empty(y)) y = next(b, next_b);
  }
  for (; !is_empty(x); x = next(a, next_a)) append(out, first, x);
  for (; !is_empty(y); y = next(b, next_b)) append(out, first, y);
}

void normalise(std::vector<Interval>& pieces) {
  std::sort(pieces.begin(), pieces.end(),
            [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  std::size_t kept = 0;
  for (const Interval piece : pieces) {
    if (is_empty(piece)) continue;
    if (kept > 0 && piece.begin <= pieces[kept - 1].end) {
      pieces[kept - 1].end = std::max(pieces[kept - 1].end, piece.end);
    } else {
      pieces[kept++] = piece;
    }
  }
  pieces.resize(kept);
}

void clip_row(std::vector<Interval>& row, std::size_t first, std::int64_t begin, std::int64_t end) {
  // Only the outermost intervals can be cut; each keeps a key, because its hull ends in keys.
  while (row.size() > first && row.back().begin >= end) row.pop_back();
  if (row.size() > first && row.back().end > end) {
    row.back() = clip(row.back(), row.back().begin, end);
  }
  std::size_t hidden = first;
  while (hidden < row.size() && row[hidden].end <= begin) ++hidden;
  row.erase(row.begin() + static_cast<std::ptrdiff_t>(first),
            row.begin() + static_cast<std::ptrdiff_t>(hidden));
  if (row.size() > first && row[first].begin < begin) {
    row[first] = clip(row[first], begin, row[first].end);
  }
}

void set_bits(const Interval& interval, std::uint64_t* words) {
  if (interval.step > 1) {
    for (std::int64_t j = interval.begin; j < interval.end; j += interval.step) {
      words[j / 64] |= std::uint64_t{1} << (j % 64);
    }
    return;
  }
  if (is_empty(interval)) return;
  const std::int64_t first = interval.begin / 64, last = (interval.end - 1) / 64;
  const std::uint64_t head = ~std::uint64_t{0} << (interval.begin % 64);
  const std::uint64_t tail = ~std::uint64_t{0} >> (63 - (interval.end - 1) % 64);
  if (first == last) {
    words[first] |= head & tail;
    return;
  }
  words[first] |= head;
  std::fill(words + first + 1, words + last, ~std::uint64_t{0});
  words[last] |= tail;
}

void clear_bits(std::int64_t begin, std::int64_t end, std::uint64_t* words) {
  if (begin >= end) return;
  const std::int64_t first = begin / 64, last = (end - 1) / 64;
  const std::uint64_t head = ~std::uint64_t{0} << (begin % 64);
  const std::uint64_t tail = ~std::uint64_t{0} >> (63 - (end - 1) % 64);
  if (first == last) {
    words[first] &= ~(head & tail);
    return;
  }
  words[first] &= ~head;
  std::fill(words + first + 1, words + last, std::uint64_t{0});
  words[last] &= ~tail;
}

void append_runs(const std::uint64_t* words, std::int64_t length, std::vector<Interval>& out) {
  // The next bit at or after j that differs from those of `flip`.
  const auto find = [&](std::int64_t j, std::uint64_t flip) {
    while (j < length) {
      const std::uint64_t rest = (words[j / 64] ^ flip) >> (j % 64);
      if (rest != 0) return std::min(j + std::countr_zero(rest), length);
      j += 64 - j % 64;
    }
    return length;
  };
  for (std::int64_t begin = find(0, 0); begin < length;) {
    const std::int64_t end = find(begin, ~std::uint64_t{0});
    out.push_back({begin, end, 1});
    begin = find(end, 0);
  }
}

}  // namespace attn
