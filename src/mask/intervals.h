// Set operations on one mask row: a list of key intervals in normal form.
//
// Normal form: no interval is empty; hulls [begin, end) ascend and do not overlap; end is one past
// the last key; an interval of one key has step 1; a run of two or more neighbouring keys is one
// interval of step 1, so intervals that touch do not occur.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "attn/mask.h"

namespace attn {

inline bool is_empty(const Interval& interval) { return interval.begin >= interval.end; }

inline std::int64_t count(const Interval& interval) {
  return interval.step == 1 ? interval.end - interval.begin
                            : (interval.end - interval.begin - 1) / interval.step + 1;
}

// The keys of `interval` in [begin, end), in normal form or empty.
Interval clip(const Interval& interval, std::int64_t begin, std::int64_t end);

// Adds a non-empty interval that lies behind every key of row[first...], keeping normal form.
// Entries before `first` are somebody else's.
void append(std::vector<Interval>& row, std::size_t first, Interval next);

// Appends a & b, a | b to out.
void intersect(std::span<const Interval> a, std::span<const Interval> b,
               std::vector<Interval>& out);
void unite(std::span<const Interval> a, std::span<const Interval> b, std::vector<Interval>& out);

// Brings step-1 intervals of any order and overlap into normal form.
void normalise(std::vector<Interval>& pieces);

// Keeps of row[first...] what lies in [begin, end).
void clip_row(std::vector<Interval>& row, std::size_t first, std::int64_t begin, std::int64_t end);

// Bits of a row of keys: bit j % 64 of words[j / 64].
inline std::int64_t words_for(std::int64_t bits) { return bits / 64 + (bits % 64 != 0); }
void set_bits(const Interval& interval, std::uint64_t* words);
void clear_bits(std::int64_t begin, std::int64_t end, std::uint64_t* words);
// Appends the runs of set bits among the first `length`.
void append_runs(const std::uint64_t* words, std::int64_t length, std::vector<Interval>& out);

// A buffer that keeps its memory between calls. A thread has a stack of them, not one, because a
// predicate may itself evaluate masks.
template <typename T>
class Scratch {
 public:
  Scratch() : stack_(local()) {
    if (stack_.used == stack_.buffers.size()) stack_.buffers.emplace_back();
    buffer_ = &stack_.buffers[stack_.used++];
    buffer_->clear();
  }
  ~Scratch() { --stack_.used; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::vector<T>& operator*() const { return *buffer_; }
  std::vector<T>* operator->() const { return buffer_; }

 private:
  struct Stack {
    std::deque<std::vector<T>> buffers;  // a deque: growing it moves no buffer
    std::size_t used = 0;
  };
  static Stack& local() {
    thread_local Stack stack;
    return stack;
  }

  Stack& stack_;
  std::vector<T>* buffer_;
};

}  // namespace attn
