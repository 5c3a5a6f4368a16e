// Records as the page reads them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "attn/inspect.h"

namespace attn::inspect {

// A record and the tab that it has in a page of several.
struct PageTab {
  std::string name;
  const AttentionRecord* record = nullptr;
};

struct PageData {
  std::string json;  // safe inside a script element
  // Packed numbers by name: "layer-1-4" is of layer 4 of tab 1, "sketch-1-4" of the same where the
  // text is long.
  std::vector<std::pair<std::string, std::string>> texts;
};

// About `limit` bytes or fewer, but for what all pages have. Layers have room for queries and keys
// in their order; one that has none is a picture and some rows of each head. The records are
// checked before. Throws std::invalid_argument for a custom score, which is code.
PageData page_data(const std::vector<PageTab>& tabs, const std::string& title,
                   const Context& context, double limit);

// findings() with the null at hand.
std::vector<std::string> findings_above(const AttentionRecord& record,
                                        const std::vector<HeadStatistics>& statistics,
                                        const std::vector<HeadStatistics>& uniform,
                                        std::size_t count);

}  // namespace attn::inspect
