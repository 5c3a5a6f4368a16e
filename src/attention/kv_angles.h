// Cosines and sines by which a cache rotates keys when they are read.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attn/position.h"

namespace attn {

// Rows [positions][pairs], magnitude included.
struct KvAngles {
  std::int64_t pairs = 0;
  std::vector<float> cosines, sines;
  std::vector<std::int64_t> first_row;  // tables of several sequences: the row of each one's key 0

  std::int64_t rows() const { return static_cast<std::int64_t>(cosines.size()) / pairs; }
  // Adds the rows of positions [first, first + count). A position's row is always the same.
  void add(const RopeTable& table, std::int64_t first, std::int64_t count);
};

// The tables of one cache. What has been handed out stays as it is.
class KvAngleTables {
 public:
  KvAngleTables(const RopeOptions& options, std::int64_t width)
      : options_(options), width_(width), fixed_(rope_table(options, width)) {}

  std::int64_t pairs() const { return static_cast<std::int64_t>(fixed_.frequency.size()); }
  bool interleaved() const { return options_.layout == RopeLayout::interleaved; }
  // Does the base depend on how long the sequence is, at this length?
  bool moves(std::int64_t length) const;
  // Rows of positions 0 to `length` - 1 or more, while the base does not move.
  std::shared_ptr<const KvAngles> fixed(std::int64_t length);
  // Rows of these ascending positions of a sequence of `length`, added to `to`.
  void add(std::int64_t length, const std::vector<std::int64_t>& positions, KvAngles& to) const;

 private:
  RopeOptions options_;
  std::int64_t width_;
  RopeTable fixed_;
  std::shared_ptr<const KvAngles> shared_;
};

}  // namespace attn
