#include <algorithm>
#include <charconv>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "attn/position.h"

namespace attn {

RopeScaling RopeScaling::from_text(const std::string& text) {
  const std::size_t colon = std::min(text.find(':'), text.size());
  const std::string kind = text.substr(0, colon);
  const char* const begin = text.data() + std::min(colon + 1, text.size());
  const char* const end = text.data() + text.size();
  double factor = 0;
  const auto read = std::from_chars(begin, end, factor);
  const bool number = read.ec == std::errc() && read.ptr == end && std::isfinite(factor);
  if (number && factor >= 1) {
    for (const auto& [name, known] :
         {std::pair("none", Kind::none), std::pair("linear", Kind::linear),
          std::pair("ntk", Kind::ntk), std::pair("dynamic", Kind::dynamic_ntk),
          std::pair("yarn", Kind::yarn)}) {
      if (kind == name) return {.kind = known, .factor = factor};
    }
  }
  throw std::invalid_argument("[rope] a scaling is '" + text +
                              "', must be linear, ntk, dynamic, yarn or none, a colon and a factor "
                              "of 1 or more, as yarn:4");
}

}  // namespace attn
