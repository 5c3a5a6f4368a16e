// Shapes on the command line.
#pragma once

#include <string>

#include "attn/attention.h"

namespace attn::cli {

// "B,Hq,Hkv,Lq,Lk,D" or "B,Hq,Hkv,Lq,Lk,D,Dv"; x instead of commas will do. Throws
// std::invalid_argument in the name of `command`.
AttentionShape parse_shape(const std::string& command, const std::string& text);

}  // namespace attn::cli
