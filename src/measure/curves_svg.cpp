// Curves as a picture: two panels, time and memory, axes by factors, names at the ends of lines.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "attn/curves.h"
#include "attn/mechanism.h"

namespace attn {

namespace {

constexpr double kWidth = 960, kTop = 56, kHeight = 420, kBottom = kTop + kHeight;
constexpr double kLabel = 13;  // between names at line ends
constexpr double kNames = 108, kAxis = 52;
constexpr const char* kColours[] = {"#d1495b", "#e07a2f", "#b8860b", "#3d9a50", "#1f9e9e",
                                    "#3d7edb", "#7a5fd0", "#b455b4", "#6f7f8f", "#9a6b4f",
                                    "#5b9bd5", "#c2577f", "#7fa33a", "#3aa0c9"};

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", x);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
  }
  return out;
}

std::string text_at(double x, double y, const std::string& text, const std::string& more) {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" " + more + ">" + escaped(text) +
         "</text>\n";
}

// "4 s", "10 MB": a power of ten with its unit.
std::string tick(double value, bool seconds) {
  constexpr const char* kTime[] = {"ns", "µs", "ms", "s"};
  constexpr const char* kBytes[] = {"B", "kB", "MB", "GB", "TB"};
  double scaled = seconds ? value * 1e9 : value;
  std::size_t unit = 0;
  while (scaled >= 999.5 && unit + 1 < (seconds ? std::size(kTime) : std::size(kBytes))) {
    scaled /= 1000;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, "%.0f %s", scaled, seconds ? kTime[unit] : kBytes[unit]);
  return text;
}

std::string tokens(std::int64_t length) {
  return length >= 1024 && length % 1024 == 0 ? std::to_string(length / 1024) + "k"
                                              : std::to_string(length);
}

// One panel: what it shows of a point, and where.
struct Panel {
  const char* title;
  bool seconds;
  double left, right;  // of the lines; names stand beyond
  double low = 0, high = 0, first = 0, last = 0;

  double value(const CurvePoint& p) const {
    // Pages are the unit of what the system counts.
    return seconds ? p.seconds : std::max(p.peak_bytes, 4096.0);
  }
  double x(double length) const {
    const double span = std::max(1e-9, std::log(last / first));
    return left + (right - left) * std::log(length / first) / span;
  }
  double y(double v) const { return kBottom - kHeight * std::log(v / low) / std::log(high / low); }
  void fit(const std::vector<Curve>& curves) {
    low = first = std::numeric_limits<double>::infinity();
    for (const Curve& curve : curves) {
      for (const CurvePoint& p : curve.points) {
        first = std::min(first, static_cast<double>(p.length));
        last = std::max(last, static_cast<double>(p.length));
        low = std::min(low, value(p));
        high = std::max(high, value(p));
      }
    }
    low = std::pow(10, std::floor(std::log10(low)));
    high = std::pow(10, std::ceil(std::log10(high) + 1e-9));
  }
};

std::string axes(const Panel& panel) {
  std::string out = text_at(panel.left - kAxis + 4, kTop - 20, panel.title, "class=\"title\"");
  for (double v = panel.low; v <= panel.high * 1.001; v *= 10) {
    const double y = panel.y(v);
    out += "<line class=\"grid\" x1=\"" + number(panel.left) + "\" x2=\"" + number(panel.right) +
           "\" y1=\"" + number(y) + "\" y2=\"" + number(y) + "\"/>\n";
    out += text_at(panel.left - 6, y + 4, tick(v, panel.seconds), "text-anchor=\"end\"");
  }
  for (double length = panel.first; length <= panel.last * 1.001; length *= 4) {
    out += text_at(panel.x(length), kBottom + 18, tokens(static_cast<std::int64_t>(length)),
                   "text-anchor=\"middle\"");
  }
  return out +
         text_at((panel.left + panel.right) / 2, kBottom + 38, "tokens", "text-anchor=\"middle\"");
}

// Lines, and the names at their ends, moved apart.
std::string lines(const Panel& panel, const std::vector<Curve>& curves) {
  struct Name {
    double x, y;
    std::string text, colour;
  };
  std::vector<Name> names;
  std::string out;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const Curve& curve = curves[i];
    if (curve.points.empty()) continue;
    const std::string colour = kColours[i % std::size(kColours)];
    std::string path;
    for (const CurvePoint& p : curve.points) {
      path += (path.empty() ? "" : " ") + number(panel.x(static_cast<double>(p.length))) + "," +
              number(panel.y(panel.value(p)));
    }
    out += "<polyline points=\"" + path + "\" stroke=\"" + colour + "\"/>\n";
    std::string label = curve.mechanism;
    if (panel.seconds && curve.exponent) {
      char power[16];
      std::snprintf(power, sizeof power, "  %.2f", *curve.exponent);
      label += power;
    }
    const CurvePoint& end = curve.points.back();
    names.push_back(
        {panel.x(static_cast<double>(end.length)), panel.y(panel.value(end)), label, colour});
  }
  std::stable_sort(names.begin(), names.end(),
                   [](const Name& a, const Name& b) { return a.y < b.y; });
  // Downwards from the top, then back up from the bottom where they left the panel.
  std::vector<double> at;
  for (const Name& name : names) {
    at.push_back(at.empty() ? name.y : std::max(name.y, at.back() + kLabel));
  }
  double below = kBottom + kLabel;
  for (std::size_t i = at.size(); i-- > 0;) below = at[i] = std::min(at[i], below - kLabel);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Name& name = names[i];
    out += "<line class=\"lead\" x1=\"" + number(name.x + 2) + "\" y1=\"" + number(name.y) +
           "\" x2=\"" + number(panel.right + 10) + "\" y2=\"" + number(at[i]) + "\" stroke=\"" +
           name.colour + "\"/>\n";
    out += text_at(panel.right + 13, at[i] + 4, name.text, "style=\"fill:" + name.colour + "\"");
  }
  return out;
}

}  // namespace

std::string curves_svg(const std::vector<Curve>& curves, const std::string& facts) {
  const double half = kWidth / 2;
  std::string out =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 550\" font-family=\"system-ui, "
      "sans-serif\" font-size=\"12\">\n"
      "<style>\n"
      "text { fill: #444; } .title { font-size: 15px; font-weight: 600; fill: #222; }\n"
      ".grid { stroke: #8884; } polyline { fill: none; stroke-width: 2; }\n"
      ".lead { stroke-width: 1; stroke-dasharray: 1 3; }\n"
      "@media (prefers-color-scheme: dark) { text { fill: #bbb; } .title { fill: #eee; } }\n"
      "</style>\n";
  for (Panel panel :
       {Panel{"Time, and its growth exponent", true, kAxis, half - kNames},
        Panel{"Peak memory beside inputs and outputs", false, half + kAxis, kWidth - kNames}}) {
    panel.fit(curves);
    if (!(panel.low < panel.high)) continue;  // no points
    out += axes(panel) + lines(panel, curves);
  }
  if (!facts.empty()) out += text_at(kAxis, kBottom + 62, facts, "");
  return out + "</svg>\n";
}

}  // namespace attn
