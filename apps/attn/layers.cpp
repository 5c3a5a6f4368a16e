#include "layers.h"

#include <charconv>
#include <stdexcept>

namespace attn::cli {

namespace {

constexpr std::int64_t kMost = 100000;  // no model has as many layers or positions

// A number at `at`, which moves behind it; below 0: there is none.
std::int64_t number(const char*& at, const char* end) {
  std::int64_t value = 0;
  const auto [next, error] = std::from_chars(at, end, value);
  if (at == end || *at == '-' || error != std::errc() || value > kMost) return -1;
  at = next;
  return value;
}

}  // namespace

std::vector<std::int64_t> parse_list(const std::string& command, const std::string& option,
                                     const std::string& text) {
  std::vector<std::int64_t> list;
  const char* at = text.data();
  const char* const end = at + text.size();
  bool good = true;
  do {
    const std::int64_t first = number(at, end);
    std::int64_t last = first;
    if (at != end && *at == '-') last = number(++at, end);
    good = first >= 0 && last >= first && (at == end || *at == ',');
    for (std::int64_t i = first; good && i <= last; ++i) list.push_back(i);
  } while (good && at != end && ++at <= end);
  if (!good) {
    throw std::invalid_argument(command + ": " + option + " is '" + text +
                                "', must be numbers and ranges such as 0,5,10-12; see attn " +
                                command + " --help");
  }
  return list;
}

}  // namespace attn::cli
