// A unit of work of recurrences over single channels.
#pragma once

#include <cstdint>

#include "kernels/params.h"

namespace attn::kernels {

// Some channels, all of one group, of one sequence.
struct ChannelBlock {
  std::int64_t batch = 0, begin = 0, length = 0;  // of its tokens in the tensors
  std::int64_t sequence = 0;                      // of its states
  std::int64_t group = 0, channel = 0, channels = 0;
};

}  // namespace attn::kernels
