// WordPiece's rule: the pieces of a word by longest match from the left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace attn {

// Calls piece(id, first, last) for each, of characters [first, last). `starts` says where the
// characters begin in the word's text, and where it ends; a piece that does not begin the word is
// looked up behind `prefix`; no piece has more than `longest` bytes. find(text) gives a piece's id,
// or -1. False when a part of the word matches nothing; the pieces before it were called then.
template <class Find, class Piece>
bool longest_match(std::string_view word, const std::vector<std::size_t>& starts,
                   std::string_view prefix, std::size_t longest, const Find& find,
                   const Piece& piece) {
  const std::size_t count = starts.size() - 1;
  std::string candidate;
  for (std::size_t first = 0; first < count;) {
    std::size_t last = count;
    std::int32_t id = -1;
    for (; last > first; --last) {
      const std::size_t bytes = starts[last] - starts[first];
      if (bytes > longest) continue;
      candidate.assign(first == 0 ? std::string_view() : prefix);
      candidate += word.substr(starts[first], bytes);
      id = find(candidate);
      if (id >= 0) break;
    }
    if (id < 0) return false;
    piece(id, first, last);
    first = last;
  }
  return true;
}

}  // namespace attn
