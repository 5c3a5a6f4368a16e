#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>

#include "attn/inspect.h"
#include "inspect/layer_rows.h"
#include "inspect/rows.h"

namespace attn {

std::vector<HeadStatistics> head_statistics(const AttentionRecord& record, const Context& context) {
  inspect::check_record(record, "head_statistics");
  std::vector<HeadStatistics> all;
  for (std::size_t l = 0; l < record.layers.size(); ++l) {
    const auto of_layer =
        inspect::layer_statistics(record, l, inspect::layer_rows(record, l, context));
    all.insert(all.end(), of_layer.begin(), of_layer.end());
  }
  return all;
}

std::vector<HeadStatistics> inspect::layer_statistics(const AttentionRecord& record,
                                                      std::size_t layer, const LayerRows& rows) {
  const std::size_t n = record.tokens.size();
  std::vector<HeadStatistics> all;
  for (std::size_t h = 0; h < static_cast<std::size_t>(record.heads); ++h) {
    const auto sees = [&](std::size_t q) {
      return rows.lse[h * n + q] != -std::numeric_limits<double>::infinity();
    };
    double count = 0;
    for (std::size_t q = 0; q < n; ++q) count += sees(q) ? 1 : 0;
    // Rows that see nothing hold zeros.
    const auto mean = [&](const std::vector<double>& values) {
      double sum = 0;
      for (std::size_t q = 0; q < n; ++q) sum += values[h * n + q];
      return count > 0 ? sum / count : 0;
    };
    const auto share = [](double sum, double queries) {
      return queries > 0 || std::isnan(sum) ? sum / queries : 0;
    };
    const double before = count - (sees(0) ? 1 : 0), after = count - (sees(n - 1) ? 1 : 0);
    all.push_back({.layer = static_cast<int>(record.layer_number(layer)),
                   .head = static_cast<int>(h),
                   .entropy = mean(rows.entropy),
                   .relative_entropy = mean(rows.relative_entropy),
                   .previous = share(rows.previous[h], before),
                   .next = share(rows.next[h], after),
                   .self = share(rows.self[h], count),
                   .first = mean(rows.first),
                   .special = mean(rows.special),
                   .distance = share(rows.distance[h], count),
                   .max_probability = mean(rows.max_probability)});
  }
  return all;
}

std::vector<HeadStatistics> uniform_statistics(const AttentionRecord& record,
                                               const Context& context) {
  inspect::check_record(record, "uniform_statistics");
  // Queries that are zero spread evenly. Layers with the same mask have the same answers.
  AttentionRecord even;
  even.tokens = record.tokens;
  even.keys = record.keys;
  even.heads = record.heads;
  even.kv_heads = even.width = 1;
  even.layers.resize(1);
  even.layers[0].q.resize(static_cast<std::size_t>(record.heads) * record.tokens.size());
  even.layers[0].k.resize(record.key_tokens().size());
  std::map<const Mask::Node*, std::vector<HeadStatistics>> known;
  std::vector<HeadStatistics> all;
  for (std::size_t l = 0; l < record.layers.size(); ++l) {
    std::vector<HeadStatistics>& of_layer = known[&record.layers[l].mask.node()];
    if (of_layer.empty()) {
      even.layers[0].mask = record.layers[l].mask;
      of_layer = inspect::layer_statistics(even, 0, inspect::layer_rows(even, 0, context));
    }
    for (HeadStatistics& s : of_layer) s.layer = static_cast<int>(record.layer_number(l));
    all.insert(all.end(), of_layer.begin(), of_layer.end());
  }
  return all;
}

std::vector<double> attention_row(const AttentionRecord& record, int layer, int head,
                                  std::int64_t query) {
  inspect::check_record(record, "attention_row");
  const auto n = static_cast<std::int64_t>(record.tokens.size());
  const auto outside = [](const char* what, std::int64_t value, std::int64_t limit) {
    if (value >= 0 && value < limit) return;
    throw std::invalid_argument("[attention_row] " + std::string(what) + " " +
                                std::to_string(value) + " is not in 0 ... " +
                                std::to_string(limit - 1));
  };
  int place = 0;
  while (place < static_cast<int>(record.layers.size()) &&
         record.layer_number(static_cast<std::size_t>(place)) != layer) {
    ++place;
  }
  if (record.layer_numbers.empty()) {
    outside("layer", layer, static_cast<std::int64_t>(record.layers.size()));
  } else if (place == static_cast<int>(record.layers.size())) {
    throw std::invalid_argument("[attention_row] layer " + std::to_string(layer) +
                                " is not in the record");
  }
  outside("head", head, record.heads);
  outside("query", query, n);
  std::vector<double> row(record.key_tokens().size());
  inspect::HeadRows(record, place, head).row(query, row.data());
  return row;
}

}  // namespace attn
