// Scores: how a visible pair is scored.
//
//   s = scale * q.k;  s = soft_cap * tanh(s / soft_cap);  s += bias, ALiBi, T5;  s = custom(s)
//
// then the mask hides, then softmax. A sink adds exp(sink) to the denominator only. All values are
// in natural units (a softmax over e^s).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attn/tensor.h"

namespace attn {

// The T5 relative position bias (arXiv 1910.10683): one learned value a bucket and head, bucket of
// k_pos - q_pos.
struct T5Bias {
  std::vector<float> table;  // [buckets][heads]
  int buckets = 32;
  int max_distance = 128;
  bool bidirectional = true;  // decoders: false
};

// A tile of scores of one head: rows are queries, columns consecutive keys.
struct ScoreTile {
  std::int64_t batch = 0;
  std::int64_t head = 0;            // query head
  std::span<const std::int64_t> q;  // query index of each row
  std::int64_t k_begin = 0;         // key index of column 0
  std::int64_t k_count = 0;         // columns
  std::int64_t stride = 0;          // elements between rows
  float* s32 = nullptr;             // scores, changed in place; exactly one of s32 and s64 is set
  double* s64 = nullptr;
};

// Called once a tile, from several threads; must be a pure function of (batch, head, q, k, s).
// -infinity hides a pair. It also sees pairs that the mask hides; what it does there is ignored.
using ScoreFunction = std::function<void(const ScoreTile&)>;

// A tile of the derivative of a custom score: `d` holds dL/d(what the function returned) and is
// changed in place to dL/d(what it was given); `s` is what it was given. Both as in ScoreTile.
// Hidden pairs have d = 0. It may sum gradients of its own: tiles that share a query come one at a
// time, by ascending keys, and tiles that share a key of a head one at a time, by ascending
// queries; a tile lies within keys [256 n, 256 (n + 1)). Sums by query, and by key one query after
// the other, then do not depend on threads.
struct ScoreGradientTile {
  ScoreTile s;
  float* d32 = nullptr;
  double* d64 = nullptr;
};
using ScoreGradient = std::function<void(const ScoreGradientTile&)>;

struct Score {
  std::optional<double> scale = {};  // default 1/sqrt(D)
  double soft_cap = 0;               // 0: none
  // Added to the scores; float32 or float64 as the queries; shape [B|1, H|1, Lq|1, Lk|1]
  // broadcasts. -infinity hides its pair. Read during run(): must stay alive.
  ConstTensor bias = {};
  // ALiBi (arXiv 2108.12409): -slope[h] * |q_pos - k_pos|. An empty list means the published
  // slopes for the number of heads.
  std::optional<std::vector<float>> alibi_slopes = {};
  std::optional<T5Bias> t5 = {};
  std::vector<float> sinks = {};  // [heads]: one logit a head, neither scaled nor capped
  ScoreFunction custom = {};
  ScoreGradient custom_gradient = {};  // for backward

  static Score alibi() { return {.alibi_slopes = std::vector<float>{}}; }

  // "scale 0.125, soft cap 50, ALiBi"
  std::string to_string() const;
  // For command lines: "none", "alibi", "softcap:30", "scale:0.1", joined by '+'.
  static Score parse(const std::string& text);
};

}  // namespace attn
