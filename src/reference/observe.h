// Answers to the questions of attn/observe.h, from whole rows of probabilities.
#pragma once

#include "attn/observe.h"
#include "reference/problem.h"

namespace attn::reference {

class Observers {
 public:
  // Sums over queries start at 0.
  Observers(const Problem& problem, const Observed& observed);

  // Query i of this sequence and head.
  void see(const Sequence& s, std::int64_t head, std::int64_t i, const Row& row);

 private:
  void see_row(const Sequence& s, std::int64_t head, std::int64_t i, const Row& row) const;
  void see_top(const Sequence& s, std::int64_t head, std::int64_t i, const Row& row) const;
  void see_positions(const Sequence& s, std::int64_t head, std::int64_t i, const Row& row) const;
  void see_keys(const Sequence& s, std::int64_t head, std::int64_t i, const Row& row) const;
  void see_picture(const Sequence& s, std::int64_t head, std::int64_t i, const Row& row);

  const Problem& problem_;
  const Observed& o_;
  std::vector<double> cells_;  // sums of the picture's cells
};

}  // namespace attn::reference
