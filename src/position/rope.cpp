// Rotary position embedding (arXiv 2104.09864) and its context extensions. Frequencies and angles
// are double; the rotation is in the type of x.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>
#include <stdexcept>
#include <string>
#include <utility>

#include "attn/position.h"

namespace attn {

namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument("[rope] " + what); }

void require(bool ok, const char* field, double value, const char* rule) {
  if (!ok || !std::isfinite(value)) {
    fail(std::string(field) + " is " + std::to_string(value) + ", must be " + rule);
  }
}

void check_scaling(const RopeScaling& s, double base) {
  using Kind = RopeScaling::Kind;
  if (s.kind == Kind::none) return;
  require(s.factor >= 1, "factor", s.factor, "1 or more");
  const bool needs_length =
      s.kind == Kind::dynamic_ntk || s.kind == Kind::yarn || s.kind == Kind::llama3;
  if (needs_length && s.original_length < 1) {
    fail("original_length is " + std::to_string(s.original_length) + ", must be 1 or more");
  }
  if (s.kind == Kind::yarn) {
    require(s.beta_slow > 0, "beta_slow", s.beta_slow, "positive");
    require(s.beta_fast > s.beta_slow, "beta_fast", s.beta_fast, "above beta_slow");
    require(s.attention_factor >= 0, "attention_factor", s.attention_factor, "0 or more");
    require(s.mscale >= 0, "mscale", s.mscale, "0 or more");
    require(s.mscale_all_dim >= 0, "mscale_all_dim", s.mscale_all_dim, "0 or more");
    require(base > 1, "base", base, "above 1 with YaRN");
  }
  if (s.kind == Kind::llama3) {
    require(s.low_freq_factor > 0, "low_freq_factor", s.low_freq_factor, "positive");
    require(s.high_freq_factor > s.low_freq_factor, "high_freq_factor", s.high_freq_factor,
            "above low_freq_factor");
  }
  for (const double divisor : s.divisors) require(divisor > 0, "divisor", divisor, "positive");
}

// The part of a head that rotates; `fraction` of 0.4 of 80 must give 32 whatever its rounding.
std::int64_t rotary_width(const RopeOptions& options, std::int64_t width) {
  if (width < 1) fail("head width is " + std::to_string(width) + ", must be 1 or more");
  require(options.fraction > 0 && options.fraction <= 1, "fraction", options.fraction,
          "above 0, at most 1");
  const double pairs = options.fraction * static_cast<double>(width) / 2;
  const std::int64_t rotary = 2 * static_cast<std::int64_t>(std::floor(pairs + 1e-6));
  if (rotary < 2) {
    fail("fraction " + std::to_string(options.fraction) + " of head width " +
         std::to_string(width) + " leaves no pair to rotate");
  }
  return rotary;
}

// base * stretch^(D/(D-2)): the slowest frequency slows down by `stretch`, the fastest stays.
double ntk_base(double base, double stretch, double d) {
  return d > 2 ? base * std::pow(stretch, d / (d - 2)) : base;  // D = 2 has the fastest alone
}

// How much of pair i is interpolated: 0 keeps its frequency, 1 divides it by the factor.
std::vector<double> yarn_ramp(const RopeScaling& s, double base, double d,
                              const std::vector<double>& frequency) {
  const double length = static_cast<double>(s.original_length);
  std::vector<double> ramp(frequency.size());
  if (s.paper_ramp) {  // linear in the turns that a pair makes over the training length
    for (std::size_t i = 0; i < ramp.size(); ++i) {
      const double turns = length * frequency[i] / kTwoPi;
      ramp[i] = 1 - std::clamp((turns - s.beta_slow) / (s.beta_fast - s.beta_slow), 0.0, 1.0);
    }
    return ramp;
  }
  // The index at which a pair makes `turns` turns; the published code is linear between two such.
  const auto correction = [&](double turns) {
    return d * std::log(length / (turns * kTwoPi)) / (2 * std::log(base));
  };
  double low = correction(s.beta_fast);
  double high = correction(s.beta_slow);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < ramp.size(); ++i) {
    ramp[i] = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  }
  return ramp;
}

double yarn_magnitude(const RopeScaling& s) {
  if (s.attention_factor > 0) return s.attention_factor;
  const auto grow = [&](double m) { return 0.1 * m * std::log(s.factor) + 1; };
  if (s.mscale > 0 && s.mscale_all_dim > 0) return grow(s.mscale) / grow(s.mscale_all_dim);
  return grow(1);
}

double llama3_frequency(const RopeScaling& s, double theta) {
  const double turns = static_cast<double>(s.original_length) * theta / kTwoPi;  // L0 / wavelength
  if (turns < s.low_freq_factor) return theta / s.factor;
  if (turns > s.high_freq_factor) return theta;
  const double t = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - t) * theta / s.factor + t * theta;
}

// Rotates every row at one position; first and second are the pair's components.
template <class T>
void rotate_position(const Tensor& x, std::int64_t l, RopeLayout layout, const std::vector<T>& cos,
                     const std::vector<T>& sin) {
  const std::size_t pairs = cos.size();
  for (std::int64_t b = 0; b < x.batch(); ++b) {
    for (std::int64_t h = 0; h < x.heads(); ++h) {
      T* row = x.row<T>(b, h, l);
      if (layout == RopeLayout::half) {
        T* upper = row + pairs;
        for (std::size_t i = 0; i < pairs; ++i) {
          const T first = row[i], second = upper[i];
          row[i] = first * cos[i] - second * sin[i];
          upper[i] = second * cos[i] + first * sin[i];
        }
      } else {
        for (std::size_t i = 0; i < pairs; ++i) {
          const T first = row[2 * i], second = row[2 * i + 1];
          row[2 * i] = first * cos[i] - second * sin[i];
          row[2 * i + 1] = second * cos[i] + first * sin[i];
        }
      }
    }
  }
}

// angles(l, i) is a pair (cosine, sine) in double, times the magnitude.
template <class T, class Angles>
void rotate(const Tensor& x, RopeLayout layout, std::size_t pairs, const Angles& angles) {
  std::vector<T> cos(pairs), sin(pairs);
  for (std::int64_t l = 0; l < x.length(); ++l) {
    for (std::size_t i = 0; i < pairs; ++i) {
      const std::pair<double, double> angle = angles(l, i);
      cos[i] = static_cast<T>(angle.first);
      sin[i] = static_cast<T>(angle.second);
    }
    rotate_position(x, l, layout, cos, sin);
  }
}

template <class Angles>
void rotate(const Tensor& x, RopeLayout layout, std::size_t pairs, const Angles& angles) {
  if (x.dtype == DType::f32) {
    rotate<float>(x, layout, pairs, angles);
  } else {
    rotate<double>(x, layout, pairs, angles);
  }
}

void check_tensor(const Tensor& x) {
  if (x.dtype != DType::f32 && x.dtype != DType::f64) {
    fail(std::string("x is ") + name(x.dtype) + ", must be float32 or float64");
  }
  for (std::int64_t n : x.shape) {
    if (n < 0) fail("x has shape " + to_string(x.shape));
  }
  if (x.empty() && x.size() > 0) fail("x has no data");
  if (x.width() > 1 && x.strides[3] != 1) {
    fail("x has stride " + std::to_string(x.strides[3]) + " along its width, must be 1");
  }
  for (std::size_t i = 0; i < 3; ++i) {  // a row that stands twice would rotate twice
    if (x.shape[i] > 1 && std::abs(x.strides[i]) < x.width()) {
      fail("x has shape " + to_string(x.shape) + " and strides " + to_string(x.strides) +
           ": rows overlap");
    }
  }
}

void check_count(std::int64_t positions, const Tensor& x) {
  if (positions != x.length()) {
    fail(std::to_string(positions) + " positions for length " + std::to_string(x.length()));
  }
}

std::int64_t length_of(std::span<const std::int64_t> positions) {
  return std::max<std::int64_t>(*std::max_element(positions.begin(), positions.end()), -1) + 1;
}

void apply(const Tensor& x, std::span<const std::int64_t> positions, const RopeOptions& options,
           std::int64_t sequence_length, bool inverse) {
  check_tensor(x);
  if (!positions.empty()) check_count(static_cast<std::int64_t>(positions.size()), x);
  if (sequence_length == 0) sequence_length = positions.empty() ? x.length() : length_of(positions);
  const RopeTable table = rope_table(options, x.width(), sequence_length);
  const double magnitude = inverse ? 1 / table.magnitude : table.magnitude;
  const double direction = inverse ? -1 : 1;
  rotate(x, options.layout, table.frequency.size(), [&](std::int64_t l, std::size_t i) {
    const auto position =
        static_cast<double>(positions.empty() ? l : positions[static_cast<std::size_t>(l)]);
    const double angle = position * table.frequency[i];
    return std::pair(magnitude * std::cos(angle), magnitude * direction * std::sin(angle));
  });
}

}  // namespace

RopeScaling RopeScaling::linear(double factor) { return {.kind = Kind::linear, .factor = factor}; }

RopeScaling RopeScaling::ntk(double factor) { return {.kind = Kind::ntk, .factor = factor}; }

RopeScaling RopeScaling::dynamic_ntk(double factor, std::int64_t original_length) {
  return {.kind = Kind::dynamic_ntk, .factor = factor, .original_length = original_length};
}

RopeScaling RopeScaling::yarn(double factor, std::int64_t original_length) {
  return {.kind = Kind::yarn, .factor = factor, .original_length = original_length};
}

RopeScaling RopeScaling::llama3(double factor, double low_freq_factor, double high_freq_factor,
                                std::int64_t original_length) {
  return {.kind = Kind::llama3,
          .factor = factor,
          .original_length = original_length,
          .low_freq_factor = low_freq_factor,
          .high_freq_factor = high_freq_factor};
}

RopeScaling RopeScaling::divided(std::vector<double> divisors) {
  return {.kind = Kind::divided, .divisors = std::move(divisors)};
}

RopeTable rope_table(const RopeOptions& options, std::int64_t width, std::int64_t sequence_length) {
  using Kind = RopeScaling::Kind;
  const RopeScaling& s = options.scaling;
  require(options.base > 0, "base", options.base, "positive");
  check_scaling(s, options.base);
  if (sequence_length < 0) {
    fail("sequence_length is " + std::to_string(sequence_length) + ", must be 0 or more");
  }
  const std::int64_t rotary = rotary_width(options, width);
  const double d = static_cast<double>(rotary);

  // 1. The base, which the NTK scalings move.
  double base = options.base;
  if (s.kind == Kind::ntk) base = ntk_base(base, s.factor, d);
  if (s.kind == Kind::dynamic_ntk) {
    const double l0 = static_cast<double>(s.original_length);
    const double length = std::max(static_cast<double>(sequence_length), l0);
    base = ntk_base(base, s.factor * length / l0 - (s.factor - 1), d);
  }
  // 2. One frequency a pair.
  RopeTable table;
  for (std::int64_t i = 0; i < rotary / 2; ++i) {
    table.frequency.push_back(std::pow(base, -2 * static_cast<double>(i) / d));
  }
  // 3. The scalings that move frequencies.
  if (s.kind == Kind::linear) {
    for (double& theta : table.frequency) theta /= s.factor;
  }
  if (s.kind == Kind::llama3) {
    for (double& theta : table.frequency) theta = llama3_frequency(s, theta);
  }
  if (s.kind == Kind::divided) {
    if (s.divisors.size() != table.frequency.size()) {
      fail(std::to_string(s.divisors.size()) + " divisors for " +
           std::to_string(table.frequency.size()) + " frequencies");
    }
    for (std::size_t i = 0; i < s.divisors.size(); ++i) table.frequency[i] /= s.divisors[i];
  }
  if (s.kind == Kind::yarn) {
    const std::vector<double> ramp = yarn_ramp(s, base, d, table.frequency);
    for (std::size_t i = 0; i < ramp.size(); ++i) {
      double& theta = table.frequency[i];
      theta = theta / s.factor * ramp[i] + theta * (1 - ramp[i]);
    }
    table.magnitude = yarn_magnitude(s);
  }
  return table;
}

void rope(const Tensor& x, std::span<const std::int64_t> positions, const RopeOptions& options,
          std::int64_t sequence_length) {
  apply(x, positions, options, sequence_length, false);
}

void rope_inverse(const Tensor& x, std::span<const std::int64_t> positions,
                  const RopeOptions& options, std::int64_t sequence_length) {
  apply(x, positions, options, sequence_length, true);
}

RopeAngles::RopeAngles(std::span<const std::int64_t> positions, std::int64_t width,
                       const RopeOptions& options, std::int64_t sequence_length)
    : layout_(options.layout),
      length_(static_cast<std::int64_t>(positions.size())),
      width_(width),
      pairs_(0) {
  if (sequence_length == 0 && length_ > 0) sequence_length = length_of(positions);
  const RopeTable table = rope_table(options, width, sequence_length);
  pairs_ = static_cast<std::int64_t>(table.frequency.size());
  cosines_.reserve(static_cast<std::size_t>(length_ * pairs_));
  sines_.reserve(cosines_.capacity());
  for (const std::int64_t position : positions) {
    for (const double frequency : table.frequency) {
      const double angle = static_cast<double>(position) * frequency;
      cosines_.push_back(table.magnitude * std::cos(angle));
      sines_.push_back(table.magnitude * std::sin(angle));
    }
  }
}

void RopeAngles::rotate(const Tensor& x) const {
  check_tensor(x);
  check_count(length_, x);
  if (x.width() != width_) {
    fail("x has width " + std::to_string(x.width()) + ", the angles are of " +
         std::to_string(width_));
  }
  const auto pairs = static_cast<std::size_t>(pairs_);
  attn::rotate(x, layout_, pairs, [&](std::int64_t l, std::size_t i) {
    const std::size_t at = static_cast<std::size_t>(l) * pairs + i;
    return std::pair(cosines_[at], sines_[at]);
  });
}

}  // namespace attn
