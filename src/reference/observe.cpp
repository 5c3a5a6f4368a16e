#include "reference/observe.h"

#include <algorithm>
#include <cmath>

namespace attn::reference {

namespace {

void clear(const Tensor& x) {
  if (x.empty()) return;
  for (std::int64_t b = 0; b < x.batch(); ++b) {
    for (std::int64_t h = 0; h < x.heads(); ++h) {
      for (std::int64_t l = 0; l < x.length(); ++l) {
        for (std::int64_t d = 0; d < x.width(); ++d) store(x, b, h, l, d, 0);
      }
    }
  }
}

void add(const Tensor& x, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t d,
         double value) {
  store(x, b, h, l, d, element(x, b, h, l, d) + value);
}

// Which of `cells` equal shares of 0, 1, ..., n - 1 holds x? Share c begins at floor(c * n /
// cells).
std::int64_t share_of(std::int64_t x, std::int64_t n, std::int64_t cells) {
  std::int64_t cell = 0;
  while ((cell + 1) * n / cells <= x) ++cell;
  return cell;
}

std::int64_t share_size(std::int64_t cell, std::int64_t n, std::int64_t cells) {
  return (cell + 1) * n / cells - cell * n / cells;
}

}  // namespace

Observers::Observers(const Problem& problem, const Observed& observed)
    : problem_(problem), o_(observed) {
  for (const Tensor* sums : {&o_.column_mass, &o_.distances.mass, &o_.offsets.mass,
                             &o_.offsets.queries, &o_.picture.largest, &o_.picture.mean}) {
    clear(*sums);
  }
  cells_.assign(at(o_.picture.mean.size()), 0.0);
}

void Observers::see(const Sequence& s, std::int64_t head, std::int64_t i, const Row& row) {
  see_row(s, head, i, row);
  see_top(s, head, i, row);
  see_positions(s, head, i, row);
  see_keys(s, head, i, row);
  see_picture(s, head, i, row);
}

// One number a row.
void Observers::see_row(const Sequence& s, std::int64_t head, std::int64_t i,
                        const Row& row) const {
  const auto tell = [&](const Tensor& x, double value) {
    if (!x.empty()) store(x, s.tensor, head, s.q_begin + i, 0, value);
  };
  tell(o_.lse, row.lse);
  tell(o_.max_logit, row.largest);

  double visible = 0, largest = 0, variance = 0, norms = 0;
  for (std::int64_t j = 0; j < s.geometry.k_len; ++j) {
    if (!row.seen[at(j)]) continue;
    const double p = row.p[at(j)];
    visible += 1;
    largest = std::max(largest, p);
    variance += p * (1 - p);
    if (!o_.value_weighted.empty()) {
      const std::vector<double> value = problem_.value(s, problem_.kv_head(head), j);
      norms += p * std::sqrt(dot(value, value));
    }
  }
  tell(o_.max_probability, largest);
  tell(o_.mean_variance, visible > 0 ? variance / visible : 0);
  tell(o_.value_weighted, norms);
  // The sink is one more entry.
  const double entries = visible + (std::isinf(row.sink_log_p) ? 0 : 1);
  tell(o_.entropy, row.entropy());
  tell(o_.relative_entropy, entries > 1 ? row.entropy() / std::log(entries) : 0);
}

void Observers::see_top(const Sequence& s, std::int64_t head, std::int64_t i,
                        const Row& row) const {
  const TopKeys& top = o_.top;
  if (top.weights.empty() && top.keys.empty()) return;
  std::vector<std::int64_t> order;
  for (std::int64_t j = 0; j < s.geometry.k_len; ++j) {
    if (row.seen[at(j)]) order.push_back(j);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&row](std::int64_t a, std::int64_t b) { return row.p[at(a)] > row.p[at(b)]; });
  const std::int64_t l = s.q_begin + i;
  const AttentionShape& shape = problem_.shape();
  for (std::int64_t n = 0; n < top.k; ++n) {
    const bool exists = at(n) < order.size();
    if (!top.weights.empty()) {
      store(top.weights, s.tensor, head, l, n, exists ? row.p[at(order[at(n)])] : 0.0);
    }
    if (!top.keys.empty()) {
      const std::int64_t place = ((s.tensor * shape.q_heads + head) * shape.q_len + l) * top.k + n;
      top.keys[at(place)] =
          exists ? static_cast<std::int32_t>(s.k_begin + order[at(n)]) : std::int32_t{-1};
    }
  }
}

// Mass by distance, and at given distances.
void Observers::see_positions(const Sequence& s, std::int64_t head, std::int64_t i,
                              const Row& row) const {
  const DistanceMass& bins = o_.distances;
  const OffsetMass& offsets = o_.offsets;
  for (std::int64_t j = 0; j < s.geometry.k_len; ++j) {
    if (!row.seen[at(j)]) continue;
    const std::int64_t distance = s.geometry.q_position(i) - s.geometry.k_position(j);
    if (!bins.mass.empty()) {
      std::int64_t bin = 0;
      if (distance >= bins.first) {
        bin = std::min(1 + (distance - bins.first) / bins.step, bins.bins - 1);
      }
      add(bins.mass, s.tensor, head, 0, bin, row.p[at(j)]);
    }
    for (std::size_t n = 0; n < offsets.offsets.size(); ++n) {
      if (distance != offsets.offsets[n]) continue;
      const auto d = static_cast<std::int64_t>(n);
      if (!offsets.mass.empty()) add(offsets.mass, s.tensor, head, 0, d, row.p[at(j)]);
      if (!offsets.queries.empty()) add(offsets.queries, s.tensor, head, 0, d, 1);
    }
  }
}

// Mass by key: of each, of sets, and the whole row.
void Observers::see_keys(const Sequence& s, std::int64_t head, std::int64_t i,
                         const Row& row) const {
  const std::int64_t l = s.q_begin + i;
  if (!o_.column_mass.empty()) {
    for (std::int64_t j = 0; j < s.geometry.k_len; ++j) {
      add(o_.column_mass, s.tensor, head, 0, s.k_begin + j, row.p[at(j)]);
    }
  }
  if (!o_.key_sets.mass.empty()) {
    for (std::size_t n = 0; n < o_.key_sets.sets.size(); ++n) {
      const std::vector<std::int64_t>& set = o_.key_sets.sets[n];
      double mass = 0;
      for (std::int64_t j = 0; j < s.geometry.k_len; ++j) {
        const bool member = std::find(set.begin(), set.end(), s.k_begin + j) != set.end();
        if (member) mass += row.p[at(j)];
      }
      store(o_.key_sets.mass, s.tensor, head, l, static_cast<std::int64_t>(n), mass);
    }
  }
  if (!o_.rows.probabilities.empty()) {
    for (std::size_t n = 0; n < o_.rows.queries.size(); ++n) {
      if (o_.rows.queries[n] != l) continue;
      for (std::int64_t j = 0; j < problem_.shape().k_len; ++j) {
        const bool own = s.k_begin <= j && j < s.k_begin + s.geometry.k_len;
        store(o_.rows.probabilities, s.tensor, head, static_cast<std::int64_t>(n), j,
              own ? row.p[at(j - s.k_begin)] : 0.0);
      }
    }
  }
}

void Observers::see_picture(const Sequence& s, std::int64_t head, std::int64_t i, const Row& row) {
  const Picture& p = o_.picture;
  const std::int64_t l = s.q_begin + i, queries = p.q_end - p.q_begin, keys = p.k_end - p.k_begin;
  if ((p.largest.empty() && p.mean.empty()) || l < p.q_begin || l >= p.q_end) return;
  const std::int64_t y = share_of(l - p.q_begin, queries, p.rows);
  for (std::int64_t j = 0; j < s.geometry.k_len; ++j) {
    const std::int64_t key = s.k_begin + j;
    if (key < p.k_begin || key >= p.k_end) continue;
    const std::int64_t x = share_of(key - p.k_begin, keys, p.columns);
    if (!p.largest.empty()) {
      const double largest = std::max(element(p.largest, s.tensor, head, y, x), row.p[at(j)]);
      store(p.largest, s.tensor, head, y, x, largest);
    }
    if (!p.mean.empty()) {
      const auto pairs =
          static_cast<double>(share_size(y, queries, p.rows) * share_size(x, keys, p.columns));
      double& sum = cells_[at(((s.tensor * p.mean.heads() + head) * p.rows + y) * p.columns + x)];
      sum += row.p[at(j)];
      store(p.mean, s.tensor, head, y, x, sum / pairs);
    }
  }
}

}  // namespace attn::reference
