// Answers about rows of implied attention: rows are computed by all threads, some at a time, and
// what is summed over queries is summed in their order, so that the bits are always the same.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "attention/parallel.h"
#include "base/check.h"
#include "base/checker.h"
#include "base/context_use.h"
#include "recurrent/implied.h"

namespace attn {

namespace {

constexpr Checker kCheck("implied");

// Rows that a thread computes together, and rows that are there at a time.
constexpr std::int64_t kUnitRows = 32, kBlockRows = 256;

DType type_of_answers(const Observed& o) {
  for (const Tensor* t : {&o.lse, &o.max_logit, &o.entropy, &o.relative_entropy, &o.max_probability,
                          &o.mean_variance, &o.top.weights, &o.key_sets.mass, &o.picture.largest,
                          &o.picture.mean, &o.rows.probabilities}) {
    if (!t->empty()) return t->dtype;
  }
  return DType::f32;
}

// Which of `cells` equal shares of 0, 1, ..., n - 1 does each number lie in?
std::vector<std::int64_t> shares(std::int64_t n, std::int64_t cells) {
  std::vector<std::int64_t> of(static_cast<std::size_t>(n));
  for (std::int64_t c = 0; c < cells; ++c)
    std::fill(of.begin() + c * n / cells, of.begin() + (c + 1) * n / cells, c);
  return of;
}

// Answers in A about rows in T.
template <class A, class T>
class Answers {
 public:
  Answers(const Observed& observed, std::int64_t tokens) : o_(observed), tokens_(tokens) {
    for (std::vector<std::int64_t> keys : o_.key_sets.sets) {  // a key named twice counts once
      std::sort(keys.begin(), keys.end());
      keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
      sets_.push_back(std::move(keys));
    }
    const Picture& p = o_.picture;
    if (p.mean.empty() && p.largest.empty()) return;
    row_cell_ = shares(p.q_end - p.q_begin, p.rows);
    column_cell_ = shares(p.k_end - p.k_begin, p.columns);
  }

  // One row, whose numbers sum to `sum`: they become weights. For different rows at once.
  void see(std::int64_t head, std::int64_t query, T* row) const {
    const T largest = *std::max_element(row, row + query + 1);
    const double sum = std::accumulate(row, row + query + 1, 0.0);
    const double entropy = make_weights(query, row, sum);
    const auto tell = [&](const Tensor& x, double value) {
      if (!x.empty()) *x.row<A>(0, head, query) = static_cast<A>(value);
    };
    const double visible = static_cast<double>(query + 1);
    tell(o_.lse, std::log(sum));
    tell(o_.max_logit, std::log(static_cast<double>(largest)));
    tell(o_.entropy, entropy);
    tell(o_.relative_entropy, query > 0 ? entropy / std::log(visible) : 0);
    tell(o_.max_probability, sum > 0 ? largest / sum : 0);
    if (!o_.mean_variance.empty()) {
      double variance = 0;
      for (std::int64_t k = 0; k <= query; ++k) variance += row[k] * (1 - row[k]);
      tell(o_.mean_variance, variance / visible);
    }
    see_top(head, query, row);
    see_sets(head, query, row);
    for (std::size_t i = 0; i < o_.rows.queries.size() && !o_.rows.probabilities.empty(); ++i) {
      if (o_.rows.queries[i] != query) continue;
      A* const to = o_.rows.probabilities.row<A>(0, head, static_cast<std::int64_t>(i));
      std::transform(row, row + query + 1, to, [](T x) { return static_cast<A>(x); });
      std::fill(to + query + 1, to + tokens_, A(0));
    }
  }

  void clear(std::int64_t head) {
    for (const Tensor* sums :
         {&o_.column_mass, &o_.distances.mass, &o_.offsets.mass, &o_.offsets.queries}) {
      if (!sums->empty()) std::fill_n(sums->row<double>(0, head, 0), sums->width(), 0.0);
    }
    cells_.assign(static_cast<std::size_t>(o_.picture.rows * o_.picture.columns), 0.0);
    for (std::int64_t r = 0; r < o_.picture.rows && !o_.picture.largest.empty(); ++r)
      std::fill_n(o_.picture.largest.row<A>(0, head, r), o_.picture.columns, A(0));
  }
  // One row after the other.
  void add(std::int64_t head, std::int64_t query, const T* row) {
    if (!o_.column_mass.empty()) {
      double* const mass = o_.column_mass.row<double>(0, head, 0);
      for (std::int64_t k = 0; k <= query; ++k) mass[k] += row[k];
    }
    add_distances(head, query, row);
    for (std::size_t i = 0; i < o_.offsets.offsets.size(); ++i) {
      const std::int64_t k = query - o_.offsets.offsets[i];
      if (k < 0 || k > query) continue;
      if (!o_.offsets.mass.empty()) o_.offsets.mass.row<double>(0, head, 0)[i] += row[k];
      if (!o_.offsets.queries.empty()) o_.offsets.queries.row<double>(0, head, 0)[i] += 1;
    }
    add_picture(head, query, row);
  }
  void finish(std::int64_t head) const {
    const Picture& p = o_.picture;
    if (p.mean.empty()) return;
    const auto size = [](std::int64_t cell, std::int64_t n, std::int64_t cells) {
      return static_cast<double>((cell + 1) * n / cells - cell * n / cells);
    };
    for (std::int64_t r = 0; r < p.rows; ++r) {
      for (std::int64_t c = 0; c < p.columns; ++c) {
        const double pairs =
            size(r, p.q_end - p.q_begin, p.rows) * size(c, p.k_end - p.k_begin, p.columns);
        p.mean.row<A>(0, head, r)[c] =
            static_cast<A>(cells_[static_cast<std::size_t>(r * p.columns + c)] / pairs);
      }
    }
  }

 private:
  // The entropy.
  double make_weights(std::int64_t query, T* row, double sum) const {
    if (sum == 0) return 0;
    const T factor = static_cast<T>(1 / sum);
    double logs = 0;
    const bool asked = !o_.entropy.empty() || !o_.relative_entropy.empty();
    for (std::int64_t k = 0; k <= query; ++k) {
      row[k] *= factor;
      if (asked && row[k] > 0) logs -= row[k] * std::log(row[k]);
    }
    return logs;
  }

  void see_top(std::int64_t head, std::int64_t query, const T* row) const {
    const TopKeys& top = o_.top;
    if (top.k == 0) return;
    const std::int64_t there = std::min(top.k, query + 1);
    std::vector<std::int32_t> order(static_cast<std::size_t>(query + 1));
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + there, order.end(),
                      [&](std::int32_t a, std::int32_t b) {
                        return row[a] > row[b] || (row[a] == row[b] && a < b);
                      });
    for (std::int64_t i = 0; i < top.k; ++i) {
      const std::int32_t key = i < there ? order[static_cast<std::size_t>(i)] : -1;
      if (!top.weights.empty())
        top.weights.row<A>(0, head, query)[i] = key < 0 ? A(0) : static_cast<A>(row[key]);
      if (!top.keys.empty())
        top.keys[static_cast<std::size_t>((head * tokens_ + query) * top.k + i)] = key;
    }
  }

  void see_sets(std::int64_t head, std::int64_t query, const T* row) const {
    for (std::size_t i = 0; i < sets_.size() && !o_.key_sets.mass.empty(); ++i) {
      double mass = 0;
      for (const std::int64_t k : sets_[i]) {
        if (k > query) break;
        mass += row[k];
      }
      o_.key_sets.mass.row<A>(0, head, query)[i] = static_cast<A>(mass);
    }
  }

  void add_distances(std::int64_t head, std::int64_t query, const T* row) {
    const DistanceMass& d = o_.distances;
    if (d.mass.empty()) return;
    double* const mass = d.mass.row<double>(0, head, 0);
    for (std::int64_t k = 0; k <= query; ++k) {
      const std::int64_t distance = query - k;
      const std::int64_t bin =
          distance < d.first ? 0 : std::min(1 + (distance - d.first) / d.step, d.bins - 1);
      mass[bin] += row[k];
    }
  }

  void add_picture(std::int64_t head, std::int64_t query, const T* row) {
    const Picture& p = o_.picture;
    if (row_cell_.empty() || query < p.q_begin || query >= p.q_end) return;
    const std::int64_t r = row_cell_[static_cast<std::size_t>(query - p.q_begin)];
    double* const cells = cells_.data() + r * p.columns;
    for (std::int64_t k = p.k_begin; k < std::min(p.k_end, query + 1); ++k) {
      const std::int64_t c = column_cell_[static_cast<std::size_t>(k - p.k_begin)];
      cells[c] += row[k];
      if (p.largest.empty()) continue;
      A& largest = p.largest.row<A>(0, head, r)[c];
      largest = std::max(largest, static_cast<A>(row[k]));
    }
  }

  const Observed& o_;
  const std::int64_t tokens_;
  std::vector<std::vector<std::int64_t>> sets_;  // ascending
  std::vector<std::int64_t> row_cell_, column_cell_;
  std::vector<double> cells_;  // sums of one head's picture
};

template <class A, class T>
void observe_rows(const ImpliedAttention::Impl& implied, const Observed& observed,
                  const Context& context) {
  const std::int64_t tokens = implied.tokens, block = std::min(kBlockRows, tokens);
  const ContextUse use(context);
  const kernels::ImpliedKernel& kernel = kernels::implied_kernel(context.isa(), implied.dtype);
  const std::size_t bytes = implied.workspace_bytes(kernel, kUnitRows);
  std::vector<T> rows(static_cast<std::size_t>(block * tokens));
  Answers<A, T> answers(observed, tokens);
  for (std::int64_t head = 0; head < implied.heads; ++head) {
    answers.clear(head);
    for (std::int64_t first = 0; first < tokens; first += block) {
      const std::int64_t count = std::min(block, tokens - first);
      parallel_units(context.threads(), (count + kUnitRows - 1) / kUnitRows,
                     [&](int thread, std::int64_t unit) {
                       const std::int64_t begin = unit * kUnitRows,
                                          size = std::min(kUnitRows, count - begin);
                       T* const out = rows.data() + begin * tokens;
                       std::fill_n(out, size * tokens, T(0));
                       implied.rows(kernel, head, first + begin, size, out, tokens,
                                    context.workspace(thread, bytes));
                       for (std::int64_t r = 0; r < size; ++r)
                         answers.see(head, first + begin + r, out + r * tokens);
                     });
      for (std::int64_t r = 0; r < count; ++r)
        answers.add(head, first + r, rows.data() + r * tokens);
    }
    answers.finish(head);
  }
}

}  // namespace

void ImpliedAttention::observe(const Observed& observed, const Context& context) const {
  const std::int64_t heads = impl_->heads, tokens = impl_->tokens;
  const DType type = type_of_answers(observed);
  check_observed({.batch = 1,
                  .q_heads = heads,
                  .kv_heads = heads,
                  .q_len = tokens,
                  .k_len = tokens,
                  .width = 1,
                  .dtype = type},
                 observed);
  if (!observed.value_weighted.empty())
    kCheck.fail("value_weighted is asked, but values are not kept");
  if (tokens == 0) return;
  const auto run = [&]<class A>(A) {
    if (impl_->dtype == DType::f64)
      observe_rows<A, double>(*impl_, observed, context);
    else
      observe_rows<A, float>(*impl_, observed, context);
  };
  type == DType::f64 ? run(double()) : run(float());
}

}  // namespace attn
