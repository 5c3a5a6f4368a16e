// A set of byte strings with a number each, asked which of them a text begins with.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attn {

class Trie {
 public:
  // Of equal strings the last one counts; empty ones are never found.
  explicit Trie(std::vector<std::pair<std::string, std::int32_t>> strings);

  // Calls found(length, number) for every string that the text begins with, shortest first.
  template <class Found>
  void prefixes(std::string_view text, const Found& found) const {
    std::size_t node = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      node = child(node, static_cast<unsigned char>(text[i]));
      if (node == 0) return;
      if (nodes_[node].number >= 0) found(i + 1, nodes_[node].number);
    }
  }

 private:
  // Children of a node lie side by side, by label.
  struct Node {
    std::uint32_t first = 0;
    std::uint16_t count = 0;
    std::uint8_t label = 0;
    std::int32_t number = -1;
  };

  // 0, which is the root, when there is none.
  std::size_t child(std::size_t node, unsigned char label) const {
    std::size_t low = nodes_[node].first, high = low + nodes_[node].count;
    while (low < high) {
      const std::size_t middle = (low + high) / 2;
      if (nodes_[middle].label == label) return middle;
      if (nodes_[middle].label < label) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return 0;
  }

  std::vector<Node> nodes_;
};

}  // namespace attn
