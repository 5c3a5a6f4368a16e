#include "measure/attention_problem.h"

#include <algorithm>
#include <numeric>

namespace attn::measuring {

namespace {

constexpr std::int64_t kPage = 64;
// Copies of a cache that take turns hold at most this.
constexpr double kMostCopies = 2e9;

// The lengths of the sequences of a ragged batch, as offsets.
std::vector<std::int64_t> offsets(std::int64_t batch, std::int64_t length) {
  std::vector<std::int64_t> ends = {0};
  for (std::int64_t b = 0; b < batch; ++b) {
    ends.push_back(ends.back() + std::max<std::int64_t>(1, length * (b + 1) / batch));
  }
  return ends;
}

}  // namespace

Call call_of(const Workload& workload) {
  Call call{.shape = workload.shape,
            .options = {.mask = Mask::parse(workload.mask), .score = Score::parse(workload.score)}};
  AttentionShape& s = call.shape;
  if (s.v_width == 0) s.v_width = s.width;
  if (!s.kv_dtype) s.kv_dtype = s.dtype;
  call.options.dropout.p = workload.dropout;
  if (workload.ragged) {
    Ragged& r = call.options.ragged;
    r.q_offsets = offsets(s.batch, s.q_len);
    r.k_offsets = offsets(s.batch, s.k_len);
    for (std::size_t b = 0; workload.decode && b + 1 < r.q_offsets.size(); ++b) {
      r.query_starts.push_back(r.k_offsets[b + 1] - r.k_offsets[b] -
                               (r.q_offsets[b + 1] - r.q_offsets[b]));
    }
    s.batch = 1;
    s.q_len = r.q_offsets.back();
    s.k_len = r.k_offsets.back();
  } else if (workload.decode) {
    call.options.query_start = s.k_len - s.q_len;
  }
  return call;
}

AttentionProblem::AttentionProblem(const Workload& workload, const Context& context)
    : workload_(workload), call_(call_of(workload)), context_(context) {
  const AttentionShape& s = call_.shape;
  q_ = Buffer::random(s.dtype, {s.batch, s.q_heads, s.q_len, s.width}, 1);
  out_ = Buffer(s.dtype, {s.batch, s.q_heads, s.q_len, s.v_width});
  make_cache(2);
  const Cache& first = caches_.front();
  const double stored_bytes =
      first.k.bytes() + first.v.bytes() + first.k_scale.bytes() + first.v_scale.bytes();
  bytes_ = q_.bytes() + out_.bytes() +
           stored_bytes * visible_keys() / static_cast<double>(std::max<std::int64_t>(s.k_len, 1));
  if (workload.decode) {
    const double cold = std::min(2.0 * static_cast<double>(machine().l3_bytes), kMostCopies);
    for (double held = stored_bytes; held < cold && held + stored_bytes <= kMostCopies;
         held += stored_bytes) {
      make_cache(static_cast<std::uint32_t>(caches_.size()) + 2);
    }
  }
  make_observed();
  if (workload.backward) make_gradients();
}

void AttentionProblem::make_cache(std::uint32_t seed) {
  const AttentionShape& s = call_.shape;
  const bool paged = workload_.layout == Layout::paged;
  Cache cache;
  Shape rows{s.batch, s.kv_heads, s.k_len, 1};
  if (paged) {
    const std::int64_t pages = (s.k_len + kPage - 1) / kPage;
    rows = {1, s.kv_heads, s.batch * pages * kPage, 1};
    std::vector<std::int64_t> order(static_cast<std::size_t>(s.batch * pages));
    std::iota(order.begin(), order.end(), std::int64_t{0});
    Noise noise(seed);
    for (std::size_t i = order.size(); i > 1; --i) {
      std::swap(order[i - 1], order[(noise.bits() >> 8) % i]);
    }
    cache.pages.run_begin.push_back(0);
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t p = 0; p < pages; ++p) {
        cache.pages.runs.push_back(
            {p * kPage, order[static_cast<std::size_t>(b * pages + p)] * kPage});
      }
      cache.pages.run_begin.push_back(static_cast<std::int64_t>(cache.pages.runs.size()));
    }
  }
  const auto shaped = [&](std::int64_t width) { return Shape{rows[0], rows[1], rows[2], width}; };
  cache.k = Buffer::random(*s.kv_dtype, shaped(s.width), seed);
  cache.v = Buffer::random(*s.kv_dtype, shaped(s.v_width), seed + 1000);
  if (s.kv_dtype == DType::i8) {
    for (Buffer* scale : {&cache.k_scale, &cache.v_scale}) {
      *scale = Buffer(DType::f32, shaped(1));
      std::fill_n(static_cast<float*>(scale->view().data), elements(shaped(1)), 1.0f / 127);
    }
  }
  caches_.push_back(std::move(cache));
}

// Keys that some query of the first head sees; all of them where asking row by row would be long.
double AttentionProblem::visible_keys() const {
  const AttentionShape& s = call_.shape;
  if (!workload_.decode || workload_.ragged) return static_cast<double>(s.k_len);
  const Geometry geometry{.batch = s.batch,
                          .heads = s.q_heads,
                          .q_len = s.q_len,
                          .k_len = s.k_len,
                          .query_start = call_.options.query_start};
  std::vector<bool> seen(static_cast<std::size_t>(s.k_len), false);
  for (std::int64_t row = 0; row < s.q_len; ++row) {
    for (const Interval& keys : call_.options.mask.row(geometry, 0, 0, row)) {
      for (std::int64_t j = keys.begin; j < keys.end; j += keys.step) {
        seen[static_cast<std::size_t>(j)] = true;
      }
    }
  }
  return static_cast<double>(std::count(seen.begin(), seen.end(), true));
}

KeyValue AttentionProblem::stored(const Cache& cache) const {
  KeyValue kv{.k = cache.k.view(), .v = cache.v.view()};
  if (call_.shape.kv_dtype == DType::i8) {
    kv.k_scale = cache.k_scale.view();
    kv.v_scale = cache.v_scale.view();
  }
  if (workload_.layout == Layout::paged) kv.pages = &cache.pages;
  return kv;
}

// One of every kind of question.
void AttentionProblem::make_observed() {
  const AttentionShape& s = call_.shape;
  const Observing asked = workload_.observe;
  const DType dtype = s.dtype == DType::f64 ? DType::f64 : DType::f32;
  const auto report = [&](DType type, std::int64_t rows, std::int64_t columns) {
    reports_.emplace_back(type, Shape{s.batch, s.q_heads, rows, columns});
    return reports_.back().view();
  };
  if (asked == Observing::one_pass || asked == Observing::everything) {
    for (Tensor* t :
         {&observed_.lse, &observed_.max_logit, &observed_.entropy, &observed_.relative_entropy,
          &observed_.max_probability, &observed_.mean_variance}) {
      *t = report(dtype, s.q_len, 1);
    }
  }
  if (asked == Observing::two_passes || asked == Observing::everything) {
    constexpr std::int64_t kBins = 64, kCells = 64;
    observed_.column_mass = report(DType::f64, 1, s.k_len);
    observed_.distances = {.first = 0,
                           .step = std::max<std::int64_t>(1, s.k_len / kBins),
                           .bins = kBins,
                           .mass = report(DType::f64, 1, kBins)};
    observed_.offsets = {.offsets = {0, 1, 2},
                         .mass = report(DType::f64, 1, 3),
                         .queries = report(DType::f64, 1, 3)};
    observed_.picture = {.q_end = s.q_len,
                         .k_end = s.k_len,
                         .rows = std::min(kCells, s.q_len),
                         .columns = std::min(kCells, s.k_len)};
    observed_.picture.largest = report(dtype, observed_.picture.rows, observed_.picture.columns);
    observed_.picture.mean = report(dtype, observed_.picture.rows, observed_.picture.columns);
  }
  if (asked == Observing::everything) {
    constexpr std::int64_t kTop = 4;
    top_keys_.resize(static_cast<std::size_t>(s.batch * s.q_heads * s.q_len * kTop));
    observed_.top = {.k = kTop, .weights = report(dtype, s.q_len, kTop), .keys = top_keys_};
    observed_.key_sets = {.sets = {{0}}, .mass = report(dtype, s.q_len, 1)};
    observed_.rows = {.queries = {s.q_len / 2}, .probabilities = report(dtype, 1, s.k_len)};
    observed_.value_weighted = report(dtype, s.q_len, 1);
  }
}

// Runs forward, on a workspace that is gone before anybody asks for the memory of backward.
void AttentionProblem::make_gradients() {
  const AttentionShape& s = call_.shape;
  lse_ = Buffer(s.dtype, {s.batch, s.q_heads, s.q_len, 1});
  d_out_ = Buffer::random(s.dtype, {s.batch, s.q_heads, s.q_len, s.v_width}, 4);
  dq_ = Buffer(s.dtype, {s.batch, s.q_heads, s.q_len, s.width});
  dk_ = Buffer(s.dtype, {s.batch, s.kv_heads, s.k_len, s.width});
  dv_ = Buffer(s.dtype, {s.batch, s.kv_heads, s.k_len, s.v_width});
  for (const Buffer* b : {&lse_, &d_out_, &dq_, &dk_, &dv_}) bytes_ += b->bytes();
  const Context own({.threads = context_.threads(), .isa = context_.isa()});
  attn::plan(s, call_.options, own)
      .run(q_.view(), stored(caches_.front()), out_.view(), {.lse = lse_.view()});
}

void AttentionProblem::plan() { plan_ = {attn::plan(call_.shape, call_.options, context_)}; }

void AttentionProblem::run() {
  if (workload_.backward) {
    const Cache& kv = caches_.front();
    plan_.front().backward({q_.view(), kv.k.view(), kv.v.view()},
                           {.out = out_.view(), .lse = lse_.view()}, {.out = d_out_.view()},
                           {.q = dq_.view(), .k = dk_.view(), .v = dv_.view()});
    return;
  }
  plan_.front().run(q_.view(), stored(caches_[turn_]), out_.view(), observed_);
  turn_ = (turn_ + 1) % caches_.size();
}

double AttentionProblem::flops() const {
  // Backward: the scores again, and the gradients of values, probabilities, queries and keys.
  return plan_.front().summary().flops * (workload_.backward ? 2.5 : 1);
}

}  // namespace attn::measuring
