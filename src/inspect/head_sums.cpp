#include "inspect/head_sums.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>

#include "model/unicode.h"

namespace attn::inspect {

bool is_punctuation_text(const std::string& text) {
  bool some = false;
  for (const unicode::Character& c : unicode::decode(text)) {
    if (unicode::is_space(c.value)) continue;
    if (!unicode::is_punctuation(c.value)) return false;
    some = true;
  }
  return some;
}

std::vector<TokenKind> kinds_of(const std::vector<RecordToken>& tokens) {
  std::vector<TokenKind> kinds;
  for (const RecordToken& token : tokens) {
    kinds.push_back({.special = token.special,
                     .punctuation = !token.special && is_punctuation_text(token.text)});
  }
  return kinds;
}

HeadAnswers::HeadAnswers(std::int64_t layer_count, std::int64_t head_count,
                         std::int64_t token_count)
    : HeadAnswers(layer_count, head_count, token_count, token_count) {
  cross = false;
  distances.resize(static_cast<std::size_t>(layers * heads * bins()));
}

HeadAnswers::HeadAnswers(std::int64_t layer_count, std::int64_t head_count,
                         std::int64_t token_count, std::int64_t key_count)
    : layers(layer_count), heads(head_count), tokens(token_count), keys(key_count), cross(true) {
  const auto rows = static_cast<std::size_t>(layers * heads);
  for (auto* of_queries : {&entropy, &relative_entropy, &max_probability})
    of_queries->resize(rows * static_cast<std::size_t>(tokens));
  columns.resize(rows * static_cast<std::size_t>(keys));
}

Observed HeadAnswers::observed() {
  const Shape of_queries{layers, heads, tokens, 1};
  Observed o;
  o.entropy = {entropy.data(), of_queries};
  o.relative_entropy = {relative_entropy.data(), of_queries};
  o.max_probability = {max_probability.data(), of_queries};
  o.column_mass = {columns.data(), Shape{layers, heads, 1, keys}};
  if (cross) return o;
  o.distances = {.first = 1 - tokens,
                 .step = 1,
                 .bins = bins(),
                 .mass = {distances.data(), Shape{layers, heads, 1, bins()}}};
  return o;
}

// A row adds the same to neighbouring keys and distances: the change at each end of an interval
// is enough, summed up at the end.
void HeadAnswers::answer_evenly(std::int64_t layer, const Mask& mask) {
  const Geometry geometry{.q_len = tokens, .k_len = keys};
  std::vector<double> column(static_cast<std::size_t>(keys + 1)),
      distance(cross ? 0 : static_cast<std::size_t>(bins() + 1));
  for (std::int64_t q = 0; q < tokens; ++q) {
    const std::vector<Interval> intervals = mask.row(geometry, 0, 0, q);
    std::int64_t visible = 0;
    for (const Interval& i : intervals) visible += (i.end - i.begin + i.step - 1) / i.step;
    const double p = visible > 0 ? 1 / static_cast<double>(visible) : 0;
    for (const Interval& i : intervals) {
      const std::int64_t length = i.step == 1 ? i.end - i.begin : 1;
      for (std::int64_t k = i.begin; k < i.end; k += i.step == 1 ? length : i.step) {
        column[static_cast<std::size_t>(k)] += p;
        column[static_cast<std::size_t>(k + length)] -= p;
        if (cross) continue;
        distance[static_cast<std::size_t>(q - k - length + 1 + tokens)] += p;
        distance[static_cast<std::size_t>(q - k + 1 + tokens)] -= p;
      }
    }
    const std::size_t row = at(layer, tokens, q);
    entropy[row] = visible > 0 ? static_cast<float>(std::log(static_cast<double>(visible))) : 0;
    relative_entropy[row] = visible > 1 ? 1 : 0;
    max_probability[row] = static_cast<float>(p);
  }
  std::partial_sum(column.begin(), column.end() - 1, columns.begin() + layer * keys);
  if (!cross)
    std::partial_sum(distance.begin(), distance.end() - 1, distances.begin() + layer * bins());
}

HeadSums::HeadSums(std::int64_t layers, std::int64_t heads) {
  for (std::int64_t i = 0; i < layers * heads; ++i) {
    HeadMeasures& m = sums_.emplace_back();
    m.layer = static_cast<int>(i / heads);
    m.head = static_cast<int>(i % heads);
  }
}

void HeadSums::add(const HeadAnswers& answers, const std::vector<TokenKind>& kinds) {
  const std::int64_t n = answers.tokens;
  queries_ += static_cast<double>(n);
  pairs_ += static_cast<double>(n - 1);
  ++documents_;
  for (std::size_t i = 0; i < sums_.size(); ++i) {
    HeadMeasures& to = sums_[i];
    const auto row = static_cast<std::int64_t>(i);
    const auto sum = [&](const std::vector<float>& of_queries) {
      const auto begin = of_queries.begin() + row * n;
      return std::accumulate(begin, begin + n, 0.0);
    };
    to.entropy += sum(answers.entropy);
    to.relative_entropy += sum(answers.relative_entropy);
    to.max_probability += sum(answers.max_probability);
    for (std::int64_t k = 0; k < answers.keys; ++k) {
      const TokenKind& kind = kinds[static_cast<std::size_t>(k)];
      if (kind.special) to.special += answers.column(row, k);
      if (kind.punctuation) to.punctuation += answers.column(row, k);
    }
    const double first = answers.column(row, 0);
    to.first += first;
    if (first > kSinkMass * static_cast<double>(n)) ++to.sink;
    if (answers.cross) {
      to.self = to.previous = to.next = to.distance = std::numeric_limits<double>::quiet_NaN();
      continue;
    }
    to.self += answers.mass_at(row, 0);
    if (n > 1) {
      to.previous += answers.mass_at(row, 1);
      to.next += answers.mass_at(row, -1);
    }
    for (std::int64_t d = 1 - n; d < n; ++d)
      to.distance += static_cast<double>(std::abs(d)) * answers.mass_at(row, d);
  }
}

void HeadSums::add_repeated(const HeadAnswers& answers, std::int64_t period) {
  const auto queries = [&](std::int64_t distance) {
    return static_cast<double>(answers.tokens - distance);
  };
  repeated_previous_ += queries(1);
  repeated_duplicate_ += queries(period);
  repeated_induction_ += queries(period - 1);
  for (std::size_t i = 0; i < sums_.size(); ++i) {
    RepeatScores& to = sums_[i].repeated ? *sums_[i].repeated : sums_[i].repeated.emplace();
    const auto row = static_cast<std::int64_t>(i);
    to.previous += answers.mass_at(row, 1);
    to.duplicate += answers.mass_at(row, period);
    to.induction += answers.mass_at(row, period - 1);
  }
}

std::vector<HeadMeasures> HeadSums::means() const {
  std::vector<HeadMeasures> means = sums_;
  const auto mean = [](double& sum, double count) { sum = count > 0 ? sum / count : 0; };
  for (HeadMeasures& m : means) {
    for (double* sum : {&m.entropy, &m.relative_entropy, &m.max_probability, &m.special,
                        &m.punctuation, &m.first, &m.self, &m.distance}) {
      mean(*sum, queries_);
    }
    mean(m.previous, pairs_);
    mean(m.next, pairs_);
    mean(m.sink, documents_);
    if (!m.repeated) continue;
    mean(m.repeated->previous, repeated_previous_);
    mean(m.repeated->duplicate, repeated_duplicate_);
    mean(m.repeated->induction, repeated_induction_);
  }
  return means;
}

void TableSums::add(const HeadAnswers& heads, const HeadAnswers& even,
                    const std::vector<TokenKind>& kinds) {
  heads_.add(heads, kinds);
  even_.add(even, kinds);
  ++documents_;
  tokens_ += heads.tokens;
  longest_ = std::max(longest_, heads.tokens);
}

void TableSums::add_repeated(const HeadAnswers& heads, const HeadAnswers& even,
                             std::int64_t period) {
  heads_.add_repeated(heads, period);
  even_.add_repeated(even, period);
}

HeadTable TableSums::table() const {
  return {.heads = heads_.means(),
          .uniform = even_.means(),
          .documents = documents_,
          .tokens = tokens_,
          .length = longest_};
}

}  // namespace attn::inspect
