// What a run reports beside its output: questions, answered tile by tile, never with an Lq x Lk
// matrix.
//
// Every field is a view that the caller owns; an empty one is not asked and costs nothing. Asking
// changes no bit of the output. Probabilities are those before dropout, with the sink in their
// denominator; the sink (-infinity: none) counts as one more entry of the entropy. Rows that see
// nothing give 0 (and -infinity for lse and max_logit). Float tensors are float32, or float64 for
// float64 queries; [B, Hq, Lq, 1] unless said. With a ragged batch B is 1, and indices of queries
// and keys, here, count along Lq and Lk through all sequences, as rows of the tensors do; distances
// are within a sequence.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attn/tensor.h"

namespace attn {

// The k largest weights of each row, largest first (equal ones: lower key first).
struct TopKeys {
  std::int64_t k = 0;
  Tensor weights = {};             // [B, Hq, Lq, k]; 0 past the visible keys
  std::span<std::int32_t> keys{};  // [B * Hq * Lq * k], contiguous; -1 past the visible keys
};

// Mass by distance q_pos - k_pos: bin 0 holds distances below `first`, bin i up to bins - 2 holds
// [first + (i - 1) * step, first + i * step), the last bin the rest. Weight is summed over queries.
struct DistanceMass {
  std::int64_t first = 0, step = 1, bins = 0;
  Tensor mass = {};  // [B, Hq, 1, bins], float64
};

// Mass at exact distances q_pos - k_pos (1: the previous token), summed over queries.
struct OffsetMass {
  std::vector<std::int64_t> offsets = {};
  Tensor mass = {};     // [B, Hq, 1, offsets], float64
  Tensor queries = {};  // [B, Hq, 1, offsets], float64: how many queries see a key there
};

// Mass of each row into sets of keys (special tokens, punctuation, sinks).
struct KeySetMass {
  std::vector<std::vector<std::int64_t>> sets = {};  // key indices
  Tensor mass = {};                                  // [B, Hq, Lq, sets]
};

// A picture of the rectangle of queries [q_begin, q_end) and keys [k_begin, k_end): each of
// `rows` x `columns` cells pools an equal share of it, row r the queries from q_begin + r * n /
// rows (rounded down; n = q_end - q_begin) to where row r + 1 begins; columns likewise.
struct Picture {
  std::int64_t q_begin = 0, q_end = 0, k_begin = 0, k_end = 0;
  std::int64_t rows = 0, columns = 0;
  Tensor largest = {};  // [B, Hq, rows, columns]: the largest probability of a cell
  Tensor mean = {};     // [B, Hq, rows, columns]: sum over the cell / its pairs, hidden ones too
};

// The probabilities of chosen queries, exactly.
struct ExactRows {
  std::vector<std::int64_t> queries = {};
  Tensor probabilities = {};  // [B, Hq, queries, Lk]
};

struct Observed {
  // In the pass that computes the output.
  // Natural-log sum of e^score over visible keys, without the sink; -infinity for a row that sees
  // nothing.
  Tensor lse = {};
  Tensor max_logit = {};         // the largest visible score, natural units
  Tensor entropy = {};           // nats
  Tensor relative_entropy = {};  // entropy / ln(visible keys, and the sink); 0 for one
  Tensor max_probability = {};
  Tensor mean_variance = {};  // mean over visible keys of p (1 - p)

  // In a second pass, which needs the log-sum-exp.
  Tensor column_mass = {};  // [B, Hq, 1, Lk], float64: what each key receives, over all queries
  TopKeys top = {};
  DistanceMass distances = {};
  OffsetMass offsets = {};
  KeySetMass key_sets = {};
  Picture picture = {};
  ExactRows rows = {};
  // sum over keys of |p v| (arXiv 2004.10102), where f(x) is what the caller puts into v: how much
  // is mixed; |sum of p v| is the norm of the output's row, which is smaller when values cancel.
  Tensor value_weighted = {};

  bool one_pass() const;  // something beside lse that the first pass answers
  bool two_passes() const;
};

}  // namespace attn
