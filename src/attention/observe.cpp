#include "attention/observe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "attention/parallel.h"

namespace attn {

namespace {

double from_fixed(std::uint64_t x) {
  if ((x & kernels::kNotFinite) != 0) return std::numeric_limits<double>::quiet_NaN();
  return std::ldexp(static_cast<double>(x), -kernels::kFixedBits);
}

bool asked(const TopKeys& top) { return !top.weights.empty() || !top.keys.empty(); }
bool asked(const OffsetMass& offsets) { return !offsets.mass.empty() || !offsets.queries.empty(); }
bool asked(const Picture& picture) { return !picture.largest.empty() || !picture.mean.empty(); }

// f(batch, head, row of sums) for each row of x.
template <class F>
void for_heads(const Tensor& x, const F& f) {
  for (std::int64_t b = 0; b < x.batch(); ++b) {
    for (std::int64_t h = 0; h < x.heads(); ++h) f(b, h, b * x.heads() + h);
  }
}

// Sums of [B * Hq][length] to a float64 tensor [B, Hq, 1, length].
void write_sums(const Tensor& to, const std::vector<std::uint64_t>& sums) {
  if (to.empty()) return;
  for_heads(to, [&](std::int64_t b, std::int64_t h, std::int64_t row) {
    const std::uint64_t* from = sums.data() + row * to.width();
    std::transform(from, from + to.width(), to.row<double>(b, h, 0), from_fixed);
  });
}

}  // namespace

bool Observed::one_pass() const {
  const Tensor* of_rows[] = {&max_logit, &entropy, &relative_entropy, &max_probability,
                             &mean_variance};
  return std::any_of(std::begin(of_rows), std::end(of_rows),
                     [](const Tensor* t) { return !t->empty(); });
}

bool Observed::two_passes() const {
  return !column_mass.empty() || asked(top) || !distances.mass.empty() || asked(offsets) ||
         !key_sets.mass.empty() || asked(picture) || !rows.probabilities.empty() ||
         !value_weighted.empty();
}

SecondPass::SecondPass(const Plan::Impl& plan, const Observed& observed)
    : plan_(plan), observed_(observed) {
  const AttentionShape& s = plan.shape;
  if (s.q_len > kernels::kMaxFixedQueries) {
    throw std::invalid_argument("[attention] q has length " + std::to_string(s.q_len) +
                                ", sums over queries take at most 2^24");
  }
  const auto heads = static_cast<std::size_t>(s.batch * s.q_heads);
  const auto sums = [heads](std::vector<std::uint64_t>& x, std::int64_t each) {
    x.assign(heads * static_cast<std::size_t>(each), 0);
    return x.data();
  };
  const std::size_t numbers = heads * static_cast<std::size_t>(s.q_len) * 2;
  softmax_.resize(s.dtype == DType::f64 ? numbers : (numbers + 1) / 2);
  asked_.softmax = {softmax_.data(), s.q_heads * s.q_len * 2, s.q_len * 2, 2};
  asked_.q_heads = s.q_heads;
  asked_.q_len = s.q_len;
  asked_.k_len = s.k_len;

  if (!observed.column_mass.empty()) asked_.columns = sums(columns_, s.k_len);
  if (const DistanceMass& d = observed.distances; !d.mass.empty()) {
    asked_.bins = {d.first, d.step, d.bins, sums(bins_, d.bins)};
  }
  if (asked(observed.offsets)) {
    offsets_ = observed.offsets.offsets;
    std::sort(offsets_.begin(), offsets_.end());
    offsets_.erase(std::unique(offsets_.begin(), offsets_.end()), offsets_.end());
    const auto count = static_cast<std::int64_t>(offsets_.size());
    asked_.offsets = {offsets_.data(), count, sums(offset_mass_, count),
                      sums(offset_queries_, count)};
  }
  if (const Picture& p = observed.picture; asked(p)) {
    asked_.cells = {p.q_begin, p.q_end,   p.k_begin, p.k_end,
                    p.rows,    p.columns, nullptr,   matrix_of(p.largest)};
    if (!p.mean.empty()) asked_.cells.mass = sums(cells_, p.rows * p.columns);
  }
  if (const KeySetMass& sets = observed.key_sets; !sets.mass.empty()) {
    for (std::size_t set = 0; set < sets.sets.size(); ++set) {
      for (std::int64_t key : sets.sets[set])
        keys_of_sets_.push_back({key, static_cast<std::int64_t>(set)});
    }
    const auto order = [](const auto& entry) { return std::pair(entry.key, entry.set); };
    std::sort(keys_of_sets_.begin(), keys_of_sets_.end(),
              [&](const auto& a, const auto& b) { return order(a) < order(b); });
    const auto end =
        std::unique(keys_of_sets_.begin(), keys_of_sets_.end(),
                    [&](const auto& a, const auto& b) { return order(a) == order(b); });
    keys_of_sets_.erase(end, keys_of_sets_.end());
    asked_.key_sets = {keys_of_sets_.data(), static_cast<std::int64_t>(keys_of_sets_.size()),
                       static_cast<std::int64_t>(sets.sets.size()), matrix_of(sets.mass)};
  }
  if (const ExactRows& rows = observed.rows; !rows.probabilities.empty()) {
    for (std::size_t i = 0; i < rows.queries.size(); ++i)
      exact_rows_.push_back({rows.queries[i], static_cast<std::int64_t>(i)});
    std::sort(exact_rows_.begin(), exact_rows_.end(),
              [](const auto& a, const auto& b) { return a.query < b.query; });
    asked_.exact = {exact_rows_.data(), static_cast<std::int64_t>(exact_rows_.size()),
                    matrix_of(rows.probabilities)};
  }
  if (const TopKeys& top = observed.top; asked(top)) {
    asked_.top = {top.k, matrix_of(top.weights), top.keys.data()};
    if (top.weights.empty()) {
      const std::size_t weights = heads * static_cast<std::size_t>(s.q_len * top.k);
      top_weights_.resize(s.dtype == DType::f64 ? weights : (weights + 1) / 2);
      asked_.top.weights = {top_weights_.data(), s.q_heads * s.q_len * top.k, s.q_len * top.k,
                            top.k};
    }
  }
  asked_.value_weighted = matrix_of(observed.value_weighted);
}

void SecondPass::run(const kernels::ForwardParams& params) {
  const kernels::ObserveKernel& kernel =
      kernels::observe_kernel(plan_.context.isa(), plan_.shape.dtype);
  const Tensor& largest = observed_.picture.largest;
  for (std::int64_t b = 0; b < largest.batch() && !largest.empty(); ++b) {
    for (std::int64_t h = 0; h < largest.heads(); ++h) {
      for (std::int64_t l = 0; l < largest.length(); ++l) {
        if (largest.dtype == DType::f64)
          std::fill_n(largest.row<double>(b, h, l), largest.width(), 0.0);
        else
          std::fill_n(largest.row<float>(b, h, l), largest.width(), 0.0f);
      }
    }
  }
  const std::size_t workspace = kernel.workspace_bytes(params, asked_, plan_.block_tokens);
  const auto observe = [&](int thread, const Unit& unit) {
    RowIntervalsUse rows;
    kernel.run(params, asked_, plan_.block_of(unit, *rows),
               plan_.context.workspace(thread, workspace));
  };
  const int threads = plan_.context.threads();
  parallel_units(threads, static_cast<std::int64_t>(plan_.units.size()),
                 [&](int thread, std::int64_t i) {
                   const Unit& unit = plan_.units[static_cast<std::size_t>(i)];
                   if (unit.run_begin < 0) observe(thread, unit);
                 });
  // Where the forward pass has split keys, a row's answers still need all of them.
  parallel_units(threads, static_cast<std::int64_t>(plan_.split_blocks.size()),
                 [&](int thread, std::int64_t i) {
                   observe(thread, plan_.split_blocks[static_cast<std::size_t>(i)].whole);
                 });
  write_sums(observed_.column_mass, columns_);
  write_sums(observed_.distances.mass, bins_);
  write_offsets();
  write_mean();
}

void SecondPass::write_offsets() const {
  const OffsetMass& to = observed_.offsets;
  for (std::size_t i = 0; i < to.offsets.size() && asked(to); ++i) {
    const auto found = std::lower_bound(offsets_.begin(), offsets_.end(), to.offsets[i]);
    const auto place = static_cast<std::size_t>(found - offsets_.begin());
    if (!to.mass.empty()) {
      for_heads(to.mass, [&](std::int64_t b, std::int64_t h, std::int64_t row) {
        to.mass.row<double>(b, h, 0)[i] =
            from_fixed(offset_mass_[static_cast<std::size_t>(row) * offsets_.size() + place]);
      });
    }
    if (!to.queries.empty()) {
      for_heads(to.queries, [&](std::int64_t b, std::int64_t h, std::int64_t row) {
        to.queries.row<double>(b, h, 0)[i] = static_cast<double>(
            offset_queries_[static_cast<std::size_t>(row) * offsets_.size() + place]);
      });
    }
  }
}

void SecondPass::write_mean() const {
  const Picture& p = observed_.picture;
  if (p.mean.empty()) return;
  const auto share = [](std::int64_t count, std::int64_t cells, std::int64_t i) {
    return static_cast<double>((i + 1) * count / cells - i * count / cells);
  };
  const std::uint64_t* from = cells_.data();
  for_heads(p.mean, [&](std::int64_t b, std::int64_t h, std::int64_t) {
    for (std::int64_t i = 0; i < p.rows; ++i) {
      for (std::int64_t j = 0; j < p.columns; ++j) {
        const double pairs =
            share(p.q_end - p.q_begin, p.rows, i) * share(p.k_end - p.k_begin, p.columns, j);
        const double mean = from_fixed(*from++) / pairs;
        if (p.mean.dtype == DType::f64)
          p.mean.row<double>(b, h, i)[j] = mean;
        else
          p.mean.row<float>(b, h, i)[j] = static_cast<float>(mean);
      }
    }
  });
}

std::string describe(const Observed& o) {
  std::vector<std::string> one, two;
  const auto list = [](std::vector<std::string>& to, bool is_asked, const std::string& what) {
    if (is_asked) to.push_back(what);
  };
  list(one, !o.lse.empty(), "log-sum-exp");
  list(one, !o.max_logit.empty(), "largest logit");
  list(one, !o.entropy.empty(), "entropy");
  list(one, !o.relative_entropy.empty(), "relative entropy");
  list(one, !o.max_probability.empty(), "largest probability");
  list(one, !o.mean_variance.empty(), "mean p(1 - p)");
  list(two, !o.column_mass.empty(), "column mass");
  list(two, asked(o.top), "top " + std::to_string(o.top.k) + " keys");
  list(two, !o.distances.mass.empty(), "mass by distance");
  list(two, asked(o.offsets), "mass at " + std::to_string(o.offsets.offsets.size()) + " offsets");
  list(two, !o.key_sets.mass.empty(),
       "mass into " + std::to_string(o.key_sets.sets.size()) + " sets of keys");
  list(two, asked(o.picture),
       "picture of " + std::to_string(o.picture.rows) + " x " + std::to_string(o.picture.columns));
  list(two, !o.rows.probabilities.empty(), std::to_string(o.rows.queries.size()) + " exact rows");
  list(two, !o.value_weighted.empty(), "value-weighted norms");
  const auto joined = [](const std::vector<std::string>& parts) {
    std::string text;
    for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
    return text;
  };
  std::string text;
  if (!one.empty()) text = joined(one) + " on the way";
  if (!two.empty()) text += (one.empty() ? "" : "; ") + ("second pass for " + joined(two));
  return text;
}

}  // namespace attn
