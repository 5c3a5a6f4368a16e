// Lists of layers and tokens on the command line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace attn::cli {

// "0,5,10-12": numbers and ranges, both ends included. Throws std::invalid_argument in the name of
// `command` and its `option`.
std::vector<std::int64_t> parse_list(const std::string& command, const std::string& option,
                                     const std::string& text);

}  // namespace attn::cli
