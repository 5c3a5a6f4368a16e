// Scores as text: to_string for people, parse for command lines.
#include "attn/score.h"

#include <array>
#include <charconv>
#include <cmath>
#include <set>
#include <stdexcept>
#include <string_view>

namespace attn {

namespace {

constexpr const char* kKnown = "none, alibi, softcap:NUMBER, scale:NUMBER, joined by '+'";

[[noreturn]] void fail(std::string_view part, const std::string& why) {
  std::string what = "[score] '";
  what.append(part).append("'").append(why).append("; known are ").append(kKnown);
  throw std::invalid_argument(what);
}

// The shortest text that reads back as the same number.
std::string text(double value) {
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  return {buffer.data(), end};
}

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
  return s;
}

double number(std::string_view part, std::string_view value) {
  double x = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), x);
  if (error != std::errc() || end != value.data() + value.size() || !std::isfinite(x)) {
    fail(part, " needs a number, '" + std::string(value) + "' is none");
  }
  return x;
}

}  // namespace

std::string Score::to_string() const {
  std::string all;
  const auto add = [&all](const std::string& part) {
    if (!all.empty()) all += ", ";
    all += part;
  };
  if (scale) add("scale " + text(*scale));
  if (soft_cap > 0) add("soft cap " + text(soft_cap));
  if (!bias.empty()) add("bias " + attn::to_string(bias.shape));
  if (alibi_slopes) add(alibi_slopes->empty() ? "ALiBi" : "ALiBi with given slopes");
  if (t5) add("T5 bias of " + std::to_string(t5->buckets) + " buckets");
  if (!sinks.empty()) add("sinks");
  if (custom) add("custom");
  return all.empty() ? "none" : all;
}

Score Score::parse(const std::string& words) {
  Score score;
  std::set<std::string, std::less<>> seen;
  std::string_view rest = words;
  for (bool last = false; !last;) {
    const std::size_t plus = rest.find('+');
    last = plus == std::string_view::npos;
    const std::string_view part = trimmed(rest.substr(0, plus));
    if (!last) rest.remove_prefix(plus + 1);

    const std::size_t colon = part.find(':');
    const bool has_value = colon != std::string_view::npos;
    const std::string name(trimmed(part.substr(0, colon)));
    const std::string_view value = has_value ? trimmed(part.substr(colon + 1)) : std::string_view();
    if (name == "none" || name == "alibi") {
      if (has_value) fail(part, ": " + name + " takes no value");
      if (name == "alibi") score.alibi_slopes = std::vector<float>{};
    } else if (name == "softcap") {
      score.soft_cap = number(part, value);
      if (!(score.soft_cap > 0)) fail(part, ": the cap must be above 0");
    } else if (name == "scale") {
      score.scale = number(part, value);
    } else {
      fail(part, " is no score");
    }
    if (!seen.insert(name).second) fail(name, " stands twice in '" + words + "'");
  }
  if (seen.size() > 1 && seen.contains("none"))
    fail("none", " stands alone, not in '" + words + "'");
  return score;
}

}  // namespace attn
