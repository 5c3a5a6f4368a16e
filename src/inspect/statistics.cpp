#include <cmath>
#include <exception>
#include <stdexcept>
#include <string>

#include "attn/inspect.h"
#include "inspect/rows.h"

namespace attn {

namespace {

// Sums over queries, then means.
class Means {
 public:
  Means(const AttentionRecord& record, int layer, int head) : record_(record) {
    result_.layer = static_cast<int>(record.layer_number(static_cast<std::size_t>(layer)));
    result_.head = head;
  }

  void add(std::int64_t q, const double* p, std::int64_t entries, double entropy) {
    const auto n = static_cast<std::int64_t>(record_.tokens.size());
    ++rows_;
    result_.entropy += entropy;
    if (entries > 1) result_.relative_entropy += entropy / std::log(static_cast<double>(entries));
    if (q > 0) {
      ++have_previous_;
      result_.previous += p[q - 1];
    }
    if (q + 1 < n) {
      ++have_next_;
      result_.next += p[q + 1];
    }
    result_.self += p[q];
    result_.first += p[0];
    double special = 0, distance = 0, most = 0;
    for (std::int64_t k = 0; k < n; ++k) {
      if (record_.tokens[static_cast<std::size_t>(k)].special) special += p[k];
      distance += p[k] * static_cast<double>(std::abs(q - k));
      if (!(p[k] <= most)) most = p[k];
    }
    result_.special += special;
    result_.distance += distance;
    result_.max_probability += most;
  }

  HeadStatistics finish() const {
    HeadStatistics r = result_;
    const auto mean = [](double& sum, std::int64_t count) {
      if (count > 0) sum /= static_cast<double>(count);
    };
    for (double* sum : {&r.entropy, &r.relative_entropy, &r.self, &r.first, &r.special, &r.distance,
                        &r.max_probability}) {
      mean(*sum, rows_);
    }
    mean(r.previous, have_previous_);
    mean(r.next, have_next_);
    return r;
  }

 private:
  const AttentionRecord& record_;
  HeadStatistics result_;
  std::int64_t rows_ = 0, have_previous_ = 0, have_next_ = 0;
};

// f(layer, head) for every head, on the context's threads; the first exception is thrown on.
template <class F>
std::vector<HeadStatistics> for_each_head(const AttentionRecord& record, const Context& context,
                                          const F& f) {
  const int heads = static_cast<int>(record.heads);
  const int count = static_cast<int>(record.layers.size()) * heads;
  std::vector<HeadStatistics> results(static_cast<std::size_t>(count));
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic) num_threads(context.threads())
  for (int i = 0; i < count; ++i) {
    try {
      results[static_cast<std::size_t>(i)] = f(i / heads, i % heads);
    } catch (...) {
#pragma omp critical(attn_inspect_failure)
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
  return results;
}

}  // namespace

std::vector<HeadStatistics> head_statistics(const AttentionRecord& record, const Context& context) {
  inspect::check_record(record, "head_statistics");
  const std::size_t n = record.tokens.size();
  return for_each_head(record, context, [&](int layer, int head) {
    inspect::HeadRows rows(record, layer, head);
    Means means(record, layer, head);
    std::vector<double> p(n);
    for (std::size_t q = 0; q < n; ++q) {
      const auto query = static_cast<std::int64_t>(q);
      const inspect::RowSummary row = rows.row(query, p.data());
      if (!row.empty) means.add(query, p.data(), row.entries, row.entropy);
    }
    return means.finish();
  });
}

std::vector<HeadStatistics> uniform_statistics(const AttentionRecord& record,
                                               const Context& context) {
  inspect::check_record(record, "uniform_statistics");
  const std::size_t n = record.tokens.size();
  const Geometry geometry = inspect::geometry(record);
  return for_each_head(record, context, [&](int layer, int head) {
    Means means(record, layer, head);
    std::vector<double> p(n);
    for (std::size_t q = 0; q < n; ++q) {
      const auto query = static_cast<std::int64_t>(q);
      std::fill(p.begin(), p.end(), 0.0);
      std::int64_t visible = 0;
      const auto intervals =
          record.layers[static_cast<std::size_t>(layer)].mask.row(geometry, 0, head, query);
      for (int pass = 0; pass < 2; ++pass) {
        for (const Interval& i : intervals) {
          for (std::int64_t k = i.begin; k < i.end; k += i.step) {
            if (pass == 0)
              ++visible;
            else
              p[static_cast<std::size_t>(k)] = 1.0 / static_cast<double>(visible);
          }
        }
      }
      if (visible > 0) means.add(query, p.data(), visible, std::log(static_cast<double>(visible)));
    }
    return means.finish();
  });
}

std::vector<double> attention_row(const AttentionRecord& record, int layer, int head,
                                  std::int64_t query) {
  inspect::check_record(record, "attention_row");
  const auto n = static_cast<std::int64_t>(record.tokens.size());
  const auto outside = [](const char* what, std::int64_t value, std::int64_t limit) {
    if (value >= 0 && value < limit) return;
    throw std::invalid_argument("[attention_row] " + std::string(what) + " " +
                                std::to_string(value) + " is not in 0 ... " +
                                std::to_string(limit - 1));
  };
  int place = 0;
  while (place < static_cast<int>(record.layers.size()) &&
         record.layer_number(static_cast<std::size_t>(place)) != layer) {
    ++place;
  }
  if (record.layer_numbers.empty()) {
    outside("layer", layer, static_cast<std::int64_t>(record.layers.size()));
  } else if (place == static_cast<int>(record.layers.size())) {
    throw std::invalid_argument("[attention_row] layer " + std::to_string(layer) +
                                " is not in the record");
  }
  outside("head", head, record.heads);
  outside("query", query, n);
  std::vector<double> row(static_cast<std::size_t>(n));
  inspect::HeadRows(record, place, head).row(query, row.data());
  return row;
}

}  // namespace attn
