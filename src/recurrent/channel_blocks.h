// Recurrences of single channels, cut into units of work: some channels of one sequence each.
#pragma once

#include <cstdint>
#include <vector>

#include "base/check_scan.h"
#include "kernels/channel_block.h"

namespace attn {

struct ChannelCut {
  std::int64_t channels = 0, groups = 1;
  std::int64_t lanes = 1;
  std::int64_t width = 1;   // channels of a block that suit the caches
  std::int64_t states = 1;  // of a channel: the work of a token
  int threads = 1;          // that are there
};

struct ChannelBlocks {
  std::vector<kernels::ChannelBlock> blocks;  // by sequence, then by channel
  int threads = 1;                            // that the work is worth
};

// As wide as suits the caches, and narrower where threads would lack work. How channels are cut
// moves no bit.
ChannelBlocks cut_channels(const std::vector<Stretch>& sequences, const ChannelCut& cut);

// Blocks of at most `width` channels, a multiple of the lanes.
std::vector<kernels::ChannelBlock> channel_blocks(const std::vector<Stretch>& sequences,
                                                  const ChannelCut& cut, std::int64_t width);

// Of a sequence's states, one is kept every so many tokens: about as many as are computed again at
// a time.
std::int64_t tokens_kept(std::int64_t length);

}  // namespace attn
