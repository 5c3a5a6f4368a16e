// What a Mask is made of: plain, immutable data, already validated and normalised by the factories
// of Mask. Read by src/mask (BoundMask) and, independently, by src/reference.
//
// The rule beside each leaf is the whole definition. q and k are indices, q_pos and k_pos the
// positions that the Geometry gives them; all arithmetic is meant without overflow.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <variant>
#include <vector>

#include "attn/mask.h"

namespace attn {

struct Mask::Node {
  // true
  struct Full {};
  // k_pos <= q_pos
  struct Causal {};
  // (left < 0 || q_pos - left <= k_pos) && (right < 0 || k_pos <= q_pos + right)
  struct Window {
    std::int64_t left, right;
  };
  // k_pos == q_pos + i * step for an integer i with (left < 0 || -left <= i) and
  // (right < 0 || i <= right). step >= 1.
  struct DilatedWindow {
    std::int64_t left, right, step;
  };
  // q_pos or k_pos is in `positions`, which is sorted and without repetition.
  struct GlobalTokens {
    std::vector<std::int64_t> positions;
  };
  // {floor(q_pos / size), floor(k_pos / size)} is in `visible`, which is sorted and without
  // repetition. size >= 1.
  struct Blocks {
    std::int64_t size;
    std::vector<std::pair<std::int64_t, std::int64_t>> visible;
  };
  // With q = floor(q_pos / size), k = floor(k_pos / size): (left < 0 || q - left <= k) &&
  // (right < 0 || k <= q + right). size >= 1.
  struct BlockWindow {
    std::int64_t size, left, right;
  };
  // With n = max(0, floor(p / size) + 1), p the highest key position (n = 0 without keys):
  // floor(q_pos / size) or floor(k_pos / size) is in [0, first) or in [max(0, n - last), n).
  // size >= 1; first, last >= 0.
  struct GlobalBlocks {
    std::int64_t size, first, last;
  };
  // As attn/mask.h says.
  struct DrawnBlocks {
    RandomBlocks rule;
  };
  // ends[d - 1] <= q_pos, k_pos < ends[d] for the same d, where ends[-1] stands for 0. `ends` are
  // the running sums of the lengths: they never decrease.
  struct Documents {
    std::vector<std::int64_t> ends;
  };
  // k_pos < n
  struct Prefix {
    std::int64_t n;
  };
  // With n = lengths[lengths.size() == 1 ? 0 : batch]: k < n (right) or k >= k_len - n (left).
  // n >= 0; a geometry with k_len < n does not fit.
  struct Padding {
    std::vector<std::int64_t> lengths;
    PaddingSide side;
  };
  // Bit `column` of the row ((batch * shape[1]) + head) * shape[2] + q, where an index into an axis
  // of extent 1 (batch, head, q or column = k) is 0: that axis broadcasts. A row takes row_words
  // words; its bits past shape[3] are zero.
  struct Dense {
    std::array<std::int64_t, 4> shape;
    std::int64_t row_words;
    std::vector<std::uint64_t> words;
  };
  // f fills row q of (batch, head); nonzero = visible. Never empty.
  struct Custom {
    Predicate f;
  };
  // masks[head]; masks[batch]. Not nested in their own kind.
  struct PerHead {
    std::vector<Mask> masks;
  };
  struct PerBatch {
    std::vector<Mask> masks;
  };
  // Every one of (&), at least one of (|). Two or more masks.
  struct All {
    std::vector<Mask> masks;
  };
  struct Any {
    std::vector<Mask> masks;
  };

  std::variant<Full, Causal, Window, DilatedWindow, GlobalTokens, Blocks, BlockWindow, GlobalBlocks,
               DrawnBlocks, Documents, Prefix, Padding, Dense, Custom, PerHead, PerBatch, All, Any>
      data;
};

}  // namespace attn
