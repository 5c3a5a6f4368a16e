// What the oracle's mechanisms share: who sees whom, and a row's scores and probabilities.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/attention.h"
#include "base/random.h"

namespace attn::reference {

inline std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

// An element of any floating-point type or int8, as double, and back.
double element(const ConstTensor& x, std::int64_t b, std::int64_t h, std::int64_t l,
               std::int64_t d);
void store(const Tensor& x, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t d,
           double value);
// The row (b, h, l) as double.
std::vector<double> row_of(const ConstTensor& x, std::int64_t b, std::int64_t h, std::int64_t l);

double dot(const std::vector<double>& a, const std::vector<double>& b);

// One sequence of the batch, and where its rows are in the tensors.
struct Sequence {
  std::int64_t index = 0;   // for masks, bias, custom scores
  std::int64_t tensor = 0;  // batch entry of the tensors
  std::int64_t q_begin = 0, k_begin = 0;
  std::uint32_t stream = 0;  // of dropout, offset included
  Geometry geometry;         // lengths and positions of this sequence
};

// One query of one head: what it makes of every key.
struct Row {
  std::vector<bool> seen;       // not hidden by mask, bias or custom score
  std::vector<double> product;  // scale * q.k
  std::vector<double> given;    // after soft cap and additions: what a custom score is given
  std::vector<double> score;    // -infinity where hidden
  std::vector<double> log_p;    // -infinity where hidden
  std::vector<double> p;        // probabilities, with the sink in the denominator; 0 where hidden
  std::vector<double> weight;   // after dropout: what multiplies the values
  double largest = 0;           // score; -infinity for a row that sees nothing
  double lse = 0;               // without the sink; likewise
  double sink_p = 0, sink_log_p = 0;  // of the sink; 0 and -infinity without one

  double entropy() const;  // nats; the sink is one more entry
};

class Problem {
 public:
  // Arguments are checked already.
  Problem(const AttentionShape& checked, const AttentionOptions& options, const ConstTensor& q,
          const KeyValue& kv);

  const AttentionShape& shape() const { return shape_; }
  const AttentionOptions& options() const { return options_; }
  const std::vector<Sequence>& sequences() const { return sequences_; }
  double scale() const { return scale_; }
  const DropoutRule& dropout() const { return dropout_; }
  std::int64_t kv_head(std::int64_t head) const {
    return head / (shape_.q_heads / shape_.kv_heads);
  }

  // Query i, key j and value j of a sequence, as stored, with scales and rotation.
  std::vector<double> query(const Sequence& s, std::int64_t head, std::int64_t i) const;
  std::vector<double> key(const Sequence& s, std::int64_t kv_head, std::int64_t j) const;
  std::vector<double> value(const Sequence& s, std::int64_t kv_head, std::int64_t j) const;

  // Keys that are hidden by mask or bias are never read.
  Row row(const Sequence& s, std::int64_t head, std::int64_t i) const;
  // Does dropout keep this pair?
  bool keeps(const Sequence& s, std::int64_t head, std::int64_t i, std::int64_t j) const {
    return dropout_.keeps(j, s.geometry.query_start + i, head, s.stream);
  }

 private:
  double additions(const Sequence& s, std::int64_t head, std::int64_t i, std::int64_t j) const;
  void list_sequences();
  // The row of the tensor (or pool) that holds key j.
  std::int64_t place(const Sequence& s, std::int64_t j) const;

  AttentionShape shape_;
  const AttentionOptions& options_;
  ConstTensor q_;
  KeyValue kv_;
  std::vector<Sequence> sequences_;
  double scale_;
  std::vector<float> slopes_;  // ALiBi; empty: none
  DropoutRule dropout_;
};

}  // namespace attn::reference
