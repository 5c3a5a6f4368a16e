// Which blocks a row of blocks draws; RandomBlocks in attn/mask.h says how.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "attn/mask.h"

namespace attn {

// Ascending runs [first, last] of the blocks that row `row` of `head` draws among `blocks` blocks,
// of which there may be 2^63.
std::vector<std::pair<std::int64_t, std::int64_t>> drawn_blocks(const RandomBlocks& rule,
                                                                std::uint64_t blocks,
                                                                std::int64_t row,
                                                                std::int64_t head);

}  // namespace attn
