// How a page carries numbers: float16 with a power of two a group, masks as runs of rows, bytes as
// base 85.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "attn/mask.h"

namespace attn::inspect {

// Nearest float16 (ties to even); beyond its range infinity.
std::uint16_t half_from_float(float x);
float float_from_half(std::uint16_t h);

// The exponent e for which x * 2^-e uses float16 best: the largest finite |x| comes to lie below
// 2^15. 0 when all are zero.
int group_exponent(std::span<const float> values);

// Appends little-endian bytes; every part begins at a multiple of four bytes.
class Packer {
 public:
  // One group of float16 values, divided by 2^exponent.
  void halves(std::span<const float> values, int exponent);
  void align();
  void floats(std::span<const float> values);
  // Four bytes to five characters, none of which means anything to HTML.
  std::string base85() const;

 private:
  std::vector<std::uint8_t> bytes_;
};

// Consecutive rows whose intervals move evenly with the row.
struct MovingInterval {
  std::int64_t begin = 0, begin_step = 0, end = 0, end_step = 0, step = 1;
  bool operator==(const MovingInterval&) const = default;
};
struct MaskRun {
  std::int64_t rows = 0;
  std::vector<MovingInterval> intervals;
  bool operator==(const MaskRun&) const = default;
};
// Causal is one run, a window three.
std::vector<MaskRun> mask_runs(const Mask& mask, const Geometry& geometry, std::int64_t head);

// Invalid sequences become U+FFFD.
std::string valid_utf8(const std::string& text);

}  // namespace attn::inspect
