#include "recurrent/channel_blocks.h"

#include <algorithm>
#include <cmath>

namespace attn {

namespace {

// State updates that are worth starting a thread: some 20 microseconds.
constexpr std::int64_t kWorkOfThread = 1 << 16;
constexpr std::int64_t kBlocksOfThread = 2;

std::int64_t round_up(std::int64_t x, std::int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

}  // namespace

std::vector<kernels::ChannelBlock> channel_blocks(const std::vector<Stretch>& sequences,
                                                  const ChannelCut& cut, std::int64_t width) {
  std::vector<kernels::ChannelBlock> blocks;
  const std::int64_t in_group = cut.channels / cut.groups;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const Stretch& tokens = sequences[s];
    for (std::int64_t group = 0; group < cut.groups; ++group) {
      for (std::int64_t c = 0; c < in_group; c += width) {
        blocks.push_back({.batch = tokens.batch,
                          .begin = tokens.begin,
                          .length = tokens.length,
                          .sequence = static_cast<std::int64_t>(s),
                          .group = group,
                          .channel = group * in_group + c,
                          .channels = std::min(width, in_group - c)});
      }
    }
  }
  return blocks;
}

ChannelBlocks cut_channels(const std::vector<Stretch>& sequences, const ChannelCut& cut) {
  std::int64_t tokens = 0;
  for (const Stretch& s : sequences) tokens += s.length;
  const std::int64_t in_group = std::max<std::int64_t>(1, cut.channels / cut.groups);
  ChannelBlocks result;
  result.threads = static_cast<int>(
      std::clamp<std::int64_t>(tokens * cut.channels * cut.states / kWorkOfThread, 1, cut.threads));
  const std::int64_t wanted = result.threads == 1 ? 1 : kBlocksOfThread * result.threads;
  std::int64_t width = round_up(std::min(cut.width, in_group), cut.lanes);
  const auto blocks = [&] {
    return static_cast<std::int64_t>(sequences.size()) * cut.groups *
           ((in_group + width - 1) / width);
  };
  while (width > cut.lanes && blocks() < wanted) width = round_up(width / 2, cut.lanes);
  result.blocks = channel_blocks(sequences, cut, width);
  return result;
}

std::int64_t tokens_kept(std::int64_t length) {
  return std::max<std::int64_t>(16, std::llround(std::sqrt(static_cast<double>(length))));
}

}  // namespace attn
