// Attention rows of one head of a record, in double precision, one row at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attn/record.h"

namespace attn::inspect {

// Throws std::invalid_argument, naming `function`, when parts of the record do not fit each other.
void check_record(const AttentionRecord& record, const char* function);

Geometry geometry(const AttentionRecord& record);

// The scale that a layer's scores have.
double scale_of(const Score& score, std::int64_t width);

// What ALiBi and T5 add to head `head`, by k - q + queries - 1; empty when there is neither.
std::vector<double> relative_bias(const Score& score, std::int64_t head, const Geometry& geometry);

// The additive bias of one pair (0 without one).
double bias_at(const ConstTensor& bias, std::int64_t head, std::int64_t q, std::int64_t k);

class HeadRows {
 public:
  // The record is checked before, and outlives this.
  HeadRows(const AttentionRecord& record, int layer, int head);

  // Probabilities of query q, [keys]; 0 where hidden. Not for two threads at once.
  void row(std::int64_t q, double* out);

 private:
  const LayerRecord& layer_;
  std::int64_t head_, width_;
  Geometry geometry_;
  double scale_;
  std::vector<double> keys_;  // [width][key tokens], so that a row's products run over keys
  std::vector<double> relative_;
  std::vector<double> scores_;
};

}  // namespace attn::inspect
