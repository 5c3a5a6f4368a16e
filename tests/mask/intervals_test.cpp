// Set operations on rows against sets of integers.
#include "mask/intervals.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace attn {
namespace {

using Row = std::vector<Interval>;
using Keys = std::set<std::int64_t>;

Keys keys_of(const Row& row) {
  Keys keys;
  for (const Interval& i : row) {
    for (std::int64_t j = i.begin; j < i.end; j += i.step) keys.insert(j);
  }
  return keys;
}

class Rows {
 public:
  Row next() {
    Row row;
    std::int64_t at = pick(0, 9);
    for (int i = pick(0, 5); i > 0; --i) {
      const std::int64_t step = pick(0, 1) == 0 ? 1 : pick(2, 7);
      const Interval interval = clip({at, at + pick(1, 40), step}, 0, 1000);
      append(row, 0, interval);
      at = interval.end + pick(0, 6);
    }
    return row;
  }
  int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }

 private:
  std::mt19937 engine_{7};
};

void expect_normal(const Row& row) {
  for (std::size_t i = 0; i < row.size(); ++i) {
    ASSERT_LT(row[i].begin, row[i].end);
    ASSERT_EQ((row[i].end - 1 - row[i].begin) % row[i].step, 0);
    if (row[i].end - row[i].begin == 1) {
      ASSERT_EQ(row[i].step, 1);
    }
    if (i > 0) {
      ASSERT_GT(row[i].begin, row[i - 1].end);
    }
  }
}

TEST(Intervals, UniteIntersectAndClipAreSetOperations) {
  Rows rows;
  for (int round = 0; round < 20000; ++round) {
    const Row a = rows.next(), b = rows.next();
    expect_normal(a);
    const Keys ka = keys_of(a), kb = keys_of(b);
    Keys all = ka, both;
    all.insert(kb.begin(), kb.end());
    for (const std::int64_t k : ka) {
      if (kb.count(k) != 0) both.insert(k);
    }
    Row united, common;
    unite(a, b, united);
    intersect(a, b, common);
    expect_normal(united);
    expect_normal(common);
    ASSERT_EQ(keys_of(united), all);
    ASSERT_EQ(keys_of(common), both);

    Row clipped = a;
    const std::int64_t begin = rows.pick(0, 150), end = rows.pick(0, 250);
    clip_row(clipped, 0, begin, end);
    Keys inside;
    for (const std::int64_t k : ka) {
      if (k >= begin && k < end) inside.insert(k);
    }
    ASSERT_EQ(keys_of(clipped), inside);
    expect_normal(clipped);
    std::int64_t counted = 0;
    for (const Interval& i : a) counted += count(i);
    ASSERT_EQ(counted, static_cast<std::int64_t>(ka.size()));
    if (HasFatalFailure()) return;
  }
}

TEST(Intervals, BitsAreSetClearedAndReadBack) {
  Rows rows;
  for (int round = 0; round < 5000; ++round) {
    const Row a = rows.next();
    const Keys keys = keys_of(a);
    std::vector<std::uint64_t> words(8, 0);
    for (const Interval& i : a) set_bits(i, words.data());
    const std::int64_t length = rows.pick(0, 500);
    Row back;
    append_runs(words.data(), length, back);
    Keys expected;
    for (const std::int64_t k : keys) {
      if (k < length) expected.insert(k);
    }
    ASSERT_EQ(keys_of(back), expected);
    expect_normal(back);

    const std::int64_t begin = rows.pick(0, 200), end = rows.pick(0, 300);
    clear_bits(begin, end, words.data());
    Row rest;
    append_runs(words.data(), 500, rest);
    expected = keys;
    for (std::int64_t k = begin; k < end; ++k) expected.erase(k);
    ASSERT_EQ(keys_of(rest), expected);
    if (HasFatalFailure()) return;
  }
}

TEST(Intervals, NormaliseTakesAnyOrder) {
  Row pieces = {{5, 7, 1}, {0, 2, 1}, {9, 9, 1}, {6, 9, 1}, {2, 3, 1}, {20, 21, 1}};
  normalise(pieces);
  EXPECT_EQ(pieces, (Row{{0, 3, 1}, {5, 9, 1}, {20, 21, 1}}));
}

TEST(Intervals, TouchingProgressionsGiveUpTheirEnds) {
  Row row;
  append(row, 0, {0, 5, 2});
  append(row, 0, {5, 10, 2});
  EXPECT_EQ(row, (Row{{0, 3, 2}, {4, 6, 1}, {7, 10, 2}}));
}

}  // namespace
}  // namespace attn
