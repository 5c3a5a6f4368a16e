#include "head_columns.h"

#include <cmath>
#include <stdexcept>

namespace attn::cli {

const std::vector<HeadColumn>& head_columns() {
  using Value = std::optional<double>;
  const auto plain = [](double HeadMeasures::*place) {
    return [place](const HeadMeasures& head) {
      return std::isnan(head.*place) ? Value() : Value(head.*place);
    };
  };
  const auto repeated = [](double RepeatScores::*place) {
    return [place](const HeadMeasures& head) {
      return head.repeated ? Value((*head.repeated).*place) : Value();
    };
  };
  static const std::vector<HeadColumn> kColumns = {
      {"entropy", "entropy", 2, plain(&HeadMeasures::entropy)},
      {"relative_entropy", "share", 2, plain(&HeadMeasures::relative_entropy)},
      {"max_probability", "largest", 3, plain(&HeadMeasures::max_probability)},
      {"first", "first", 3, plain(&HeadMeasures::first)},
      {"sink", "sink", 2, plain(&HeadMeasures::sink)},
      {"self", "self", 3, plain(&HeadMeasures::self)},
      {"previous", "prev", 3, plain(&HeadMeasures::previous)},
      {"next", "next", 3, plain(&HeadMeasures::next)},
      {"distance", "distance", 1, plain(&HeadMeasures::distance)},
      {"special", "special", 3, plain(&HeadMeasures::special)},
      {"punctuation", "punct", 3, plain(&HeadMeasures::punctuation)},
      {"repeated_previous", "rep-prev", 3, repeated(&RepeatScores::previous)},
      {"duplicate", "duplicate", 3, repeated(&RepeatScores::duplicate)},
      {"induction", "induction", 3, repeated(&RepeatScores::induction)},
      {"ablation", "ablation", 4, [](const HeadMeasures& head) { return head.ablation; }},
  };
  return kColumns;
}

const HeadColumn& head_column(const std::string& name) {
  std::string known;
  for (const HeadColumn& column : head_columns()) {
    if (column.name == name) return column;
    known += (known.empty() ? "" : ", ") + column.name;
  }
  throw std::invalid_argument("heads: --sort " + name + " is none of " + known);
}

}  // namespace attn::cli
