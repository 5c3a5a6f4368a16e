// What heads answered about documents, and its sums.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attn/heads.h"
#include "attn/mask.h"
#include "attn/observe.h"

namespace attn::inspect {

// What a token is to a head's measures.
struct TokenKind {
  bool special = false, punctuation = false;
};

// Of tokens as models tell them.
std::vector<TokenKind> kinds_of(const std::vector<RecordToken>& tokens);

// Is it a text of nothing but punctuation, spaces around it aside?
bool is_punctuation_text(const std::string& text);

// The questions about one document, with places for the answers of every head.
struct HeadAnswers {
  HeadAnswers(std::int64_t layer_count, std::int64_t head_count, std::int64_t token_count);
  // Of tokens that look at those of another text, at no distance.
  HeadAnswers(std::int64_t layer_count, std::int64_t head_count, std::int64_t token_count,
              std::int64_t key_count);

  // [layers, heads, ...]. Views of this object.
  Observed observed();
  // Answers for heads (one a layer) that spread evenly over what `mask` shows them.
  void answer_evenly(std::int64_t layer, const Mask& mask);

  // Of head `row` = layer * heads + head, summed over queries.
  double column(std::int64_t row, std::int64_t k) const { return columns[at(row, keys, k)]; }
  double mass_at(std::int64_t row, std::int64_t distance) const {
    return distances[at(row, bins(), distance + tokens)];
  }

  std::int64_t layers, heads, tokens, keys;
  bool cross = false;                                             // keys are another text's
  std::vector<float> entropy, relative_entropy, max_probability;  // [layers][heads][tokens]
  std::vector<double> columns;                                    // [layers][heads][keys]
  // [layers][heads][bins]: bin i is distance i - tokens; none in cross-attention.
  std::vector<double> distances;

 private:
  std::int64_t bins() const { return 2 * tokens + 1; }
  static std::size_t at(std::int64_t row, std::int64_t width, std::int64_t i) {
    return static_cast<std::size_t>(row * width + i);
  }
};

class HeadSums {
 public:
  HeadSums(std::int64_t layers, std::int64_t heads);

  // kinds [keys].
  void add(const HeadAnswers& answers, const std::vector<TokenKind>& kinds);
  // Of `period` random tokens that come twice.
  void add_repeated(const HeadAnswers& answers, std::int64_t period);
  // layers x heads.
  std::vector<HeadMeasures> means() const;

 private:
  std::vector<HeadMeasures> sums_;
  double queries_ = 0, pairs_ = 0, documents_ = 0;  // pairs: queries with a neighbour on one side
  double repeated_previous_ = 0, repeated_duplicate_ = 0, repeated_induction_ = 0;  // queries
};

// Sums of a model's heads and of even ones in their place: a table.
class TableSums {
 public:
  TableSums(std::int64_t layers, std::int64_t heads) : heads_(layers, heads), even_(layers, 1) {}

  // One document more; kinds [keys].
  void add(const HeadAnswers& heads, const HeadAnswers& even, const std::vector<TokenKind>& kinds);
  // Of `period` random tokens that come twice.
  void add_repeated(const HeadAnswers& heads, const HeadAnswers& even, std::int64_t period);
  HeadTable table() const;

 private:
  HeadSums heads_, even_;
  std::int64_t documents_ = 0, tokens_ = 0, longest_ = 0;
};

}  // namespace attn::inspect
