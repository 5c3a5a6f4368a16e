#include "model/trie.h"

#include <algorithm>

namespace attn {

Trie::Trie(std::vector<std::pair<std::string, std::int32_t>> strings) : nodes_(1) {
  std::stable_sort(strings.begin(), strings.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  // Breadth first: strings [begin, end) share their first `depth` bytes, which lead to `node`.
  struct Open {
    std::size_t node, begin, end, depth;
  };
  std::vector<Open> open = {{0, 0, strings.size(), 0}};
  for (std::size_t next = 0; next < open.size(); ++next) {
    const Open at = open[next];
    std::size_t begin = at.begin;
    while (begin < at.end && strings[begin].first.size() == at.depth) {
      if (at.depth > 0) nodes_[at.node].number = strings[begin].second;
      ++begin;
    }
    nodes_[at.node].first = static_cast<std::uint32_t>(nodes_.size());
    while (begin < at.end) {
      const char label = strings[begin].first[at.depth];
      std::size_t end = begin + 1;
      while (end < at.end && strings[end].first[at.depth] == label) ++end;
      open.push_back({nodes_.size(), begin, end, at.depth + 1});
      nodes_.push_back({0, 0, static_cast<std::uint8_t>(label), -1});
      ++nodes_[at.node].count;
      begin = end;
    }
  }
}

}  // namespace attn
