// What one run over a layer of a record tells of all its heads: the engine's observers, in double
// precision, so that no matrix is formed and long texts take seconds.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/context.h"
#include "attn/inspect.h"
#include "attn/record.h"

namespace attn::inspect {

// What to tell beside rows and sums.
struct LayerQuestions {
  std::int64_t rows = 0, columns = 0;      // cells of the picture; 0: none
  std::vector<std::int64_t> queries = {};  // of exact rows
};

struct LayerRows {
  // [heads][tokens]; lse is -infinity where a row sees no key.
  std::vector<double> lse, entropy, relative_entropy, max_probability;
  std::vector<double> first, special, plain;  // mass on key 0, on special tokens, on the others
  // [heads], summed over queries; NaN in cross-attention, where places of queries and keys are not
  // of one text.
  std::vector<double> previous, self, next, distance;
  std::vector<double> picture;  // [heads][rows][columns]: means
  std::vector<double> exact;    // [heads][queries][key tokens]
};

// The record is checked before.
LayerRows layer_rows(const AttentionRecord& record, std::size_t layer, const Context& context,
                     const LayerQuestions& questions = {});

// The statistics of the layer's heads: means over the rows that see a key.
std::vector<HeadStatistics> layer_statistics(const AttentionRecord& record, std::size_t layer,
                                             const LayerRows& rows);

}  // namespace attn::inspect
