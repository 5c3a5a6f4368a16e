// Time and memory of mechanisms against the length of a sequence.
//
//   const auto curves = attn::measure_curves({.mechanisms = {"causal", "linear"}});
//   curves[1].exponent         // 1: twice the tokens take twice the time
//   attn::curves_svg(curves)   // a picture
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "attn/context.h"

namespace attn {

struct CurvePoint {
  std::int64_t length = 0;
  double seconds = 0;     // forward, fastest of a few runs
  double peak_bytes = 0;  // resident memory above inputs and outputs
};

struct Curve {
  std::string mechanism;
  std::vector<CurvePoint> points;  // lengths ascend
  // Of the length in the time; see growth_exponent().
  std::optional<double> exponent = {};
};

struct CurveOptions {
  Isa isa = Isa::automatic;
  int threads = 0;                           // 0: as many as the process may use
  std::vector<std::string> mechanisms = {};  // as mechanisms() names them; none: all
  std::int64_t heads = 12, width = 64;
  std::int64_t first = 256,
               last = 65536;  // lengths: doubled from the first while not past the last
  double most_seconds = 10;   // a mechanism ends with the point that takes this
  // Called before each point, with the share of points that are done.
  std::function<void(const std::string& mechanism, std::int64_t length, double done)> progress = {};
};

// One mechanism after the other, a length at a time. One caller at a time: it resets the process's
// mark of peak memory. Throws std::invalid_argument.
std::vector<Curve> measure_curves(const CurveOptions& options = {});

// e of seconds = c length^e by least squares between the logarithms, over points from 2,048 tokens
// on that take more than a millisecond; none of fewer than two.
std::optional<double> growth_exponent(const std::vector<CurvePoint>& points);

// "mechanism,length,seconds,peak_bytes,exponent", a line a point.
std::string curves_csv(const std::vector<Curve>& curves);
// Both against the length, all axes by factors; light or dark as the reader's system is. `facts`
// stands below: the machine, the shape.
std::string curves_svg(const std::vector<Curve>& curves, const std::string& facts = "");

}  // namespace attn
