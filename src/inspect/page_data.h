// A record as the page reads it.
#pragma once

#include <string>
#include <vector>

#include "attn/inspect.h"

namespace attn::inspect {

struct PageData {
  std::string json;                   // safe inside a script element
  std::vector<std::string> layers;    // packed numbers, one text a layer
  std::vector<std::string> sketches;  // of layers of long texts; else empty
};

// About `limit` bytes or fewer, but for what all pages have. Layers have room for queries and keys
// in their order; one that has none is a picture and some rows of each head. The record is checked
// before. Throws std::invalid_argument for a custom score, which is code.
PageData page_data(const AttentionRecord& record, const std::string& title, const Context& context,
                   double limit);

// findings() with the null at hand.
std::vector<std::string> findings_above(const AttentionRecord& record,
                                        const std::vector<HeadStatistics>& statistics,
                                        const std::vector<HeadStatistics>& uniform,
                                        std::size_t count);

}  // namespace attn::inspect
