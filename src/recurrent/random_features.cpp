#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "attn/linear_attention.h"
#include "base/checker.h"
#include "base/random.h"
#include "recurrent/packed_features.h"

namespace attn {

namespace {

constexpr std::int64_t kMost = 1024;

// Standard normal numbers by Box and Muller, two a counter.
class Normal {
 public:
  explicit Normal(std::uint64_t seed)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)} {}

  double next() {
    if (left_) {
      left_ = false;
      return kept_;
    }
    const std::array<std::uint32_t, 4> words = philox4x32(
        {static_cast<std::uint32_t>(count_), static_cast<std::uint32_t>(count_ >> 32), 0, 0}, key_);
    ++count_;
    const auto unit = [](std::uint32_t high, std::uint32_t low) {  // in (0, 1]
      const std::uint64_t bits = (std::uint64_t{high} << 32 | low) >> 11;
      return (static_cast<double>(bits) + 1) * 0x1p-53;
    };
    const double radius = std::sqrt(-2 * std::log(unit(words[0], words[1])));
    const double angle = 2 * std::numbers::pi * unit(words[2], words[3]);
    kept_ = radius * std::sin(angle);
    left_ = true;
    return radius * std::cos(angle);
  }

 private:
  std::array<std::uint32_t, 2> key_;
  std::uint64_t count_ = 0;
  bool left_ = false;
  double kept_ = 0;
};

double dot(const double* a, const double* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Makes `rows` (at most `width`) orthogonal and of length 1, by Gram and Schmidt, twice for
// precision: the Q of a QR decomposition of independent normal rows, whose directions are uniform.
void make_orthonormal(double* x, std::int64_t rows, std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r) {
    double* row = x + r * width;
    for (int pass = 0; pass < 2; ++pass) {
      for (std::int64_t s = 0; s < r; ++s) {
        const double along = dot(row, x + s * width, width);
        for (std::int64_t c = 0; c < width; ++c) row[c] -= along * x[s * width + c];
      }
    }
    const double length = std::sqrt(dot(row, row, width));
    for (std::int64_t c = 0; c < width; ++c) row[c] /= length;
  }
}

}  // namespace

RandomFeatures::RandomFeatures(std::int64_t width, std::int64_t count, std::uint64_t seed,
                               bool orthogonal)
    : width_(width), count_(count) {
  constexpr Checker kCheck("random_features");
  if (width < 1 || width > kMost)
    kCheck.fail("the width is " + text(width) + ", must be 1 to " + text(kMost));
  if (count < 1 || count > kMost)
    kCheck.fail("the number of features is " + text(count) + ", must be 1 to " + text(kMost));
  directions_.resize(static_cast<std::size_t>(width * count));
  Normal normal(seed);
  for (double& x : directions_) x = normal.next();
  for (std::int64_t r = 0; r < count && orthogonal; r += width) {
    const std::int64_t rows = std::min(width, count - r);
    make_orthonormal(directions_.data() + r * width, rows, width);
  }
  // Lengths of independent normal vectors: the estimate stays unbiased.
  for (std::int64_t r = 0; r < count && orthogonal; ++r) {
    double square = 0;
    for (std::int64_t c = 0; c < width; ++c) {
      const double x = normal.next();
      square += x * x;
    }
    const double length = std::sqrt(square);
    for (std::int64_t c = 0; c < width; ++c)
      directions_[static_cast<std::size_t>(r * width + c)] *= length;
  }
  packed_ = std::shared_ptr<const Packed>(
      new Packed{{directions_, width, count}, {directions_, width, count}});
}

}  // namespace attn
