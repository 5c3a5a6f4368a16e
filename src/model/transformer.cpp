#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "model/global_rows.h"
#include "model/text_pattern.h"
#include "nn/dense.h"

namespace attn {

void PackedTexts::add(std::span<const std::int32_t> text_ids,
                      std::span<const std::int32_t> text_type_ids) {
  ids.insert(ids.end(), text_ids.begin(), text_ids.end());
  type_ids.insert(type_ids.end(), text_type_ids.begin(), text_type_ids.end());
  lengths.push_back(static_cast<std::int64_t>(text_ids.size()));
}

// One pass of tokens through the layers: what those work in, and what they share.
struct Transformer::Pass {
  Pass(std::int64_t count, const TransformerConfig& c, const Context& where)
      : tokens(count),
        context(where),
        x(size(c.width)),
        normed(c.post_norm ? 0 : size(c.width)),
        q(size(c.heads * c.head_width)),
        k(size(c.kv_heads * c.head_width)),
        v(size(c.kv_heads * c.value_width)),
        attended(size(c.heads * c.value_width)),
        branch(size(c.width)),
        gate(c.gated ? size(c.feed_forward_width) : 0),
        wide(size(c.feed_forward_width)) {}
  std::size_t size(std::int64_t width) const { return static_cast<std::size_t>(tokens * width); }
  // What a branch reads.
  const float* input() const { return normed.empty() ? x.data() : normed.data(); }

  std::int64_t tokens;
  const Context& context;
  std::vector<float> x;  // the residual stream
  std::vector<float> normed, q, k, v, attended, branch, gate, wide;
  std::vector<Plan> plans;              // as attention_
  std::optional<RopeAngles> angles;     // that rotate queries and keys
  AppendedNumbers appended;             // to queries and keys
  std::vector<GlobalRows> global_rows;  // as attention_
  const PackedTexts* texts = nullptr;
  // Where keys and values are kept; null: nowhere, the pass has them all.
  KvCache* cache = nullptr;
  const KvBatch* batch = nullptr;
  const AttentionWatch* watch = nullptr;
  // What a decoder reads of its sources.
  KvCache* sources = nullptr;
  const KvBatch* source_batch = nullptr;
  const Plan* source_plan = nullptr;
};

namespace {

void product(const TransformerWeights::Linear& linear, std::int64_t rows, const float* x,
             std::int64_t in, float* y, std::int64_t out, const Context& context,
             nn::Activation activation = nn::Activation::none) {
  nn::dense({.rows = rows,
             .in = in,
             .out = out,
             .x = x,
             .w = linear.weight,
             .bias = linear.bias,
             .y = y,
             .activation = activation},
            context);
}

// The last `width` numbers of each head.
Tensor last_of_heads(const Tensor& x, std::int64_t width) {
  Shape shape = x.shape;
  shape[3] = width;
  return {static_cast<float*>(x.data) + (x.width() - width), shape, x.strides};
}

}  // namespace

Transformer::Transformer(const TransformerConfig& config, TransformerWeights weights)
    : config_(config), weights_(std::move(weights)) {
  if (config_.value_width == 0) config_.value_width = config_.head_width;
  // Kept where queries and keys may be wider.
  if ((config_.block_sparse || config_.global_tokens) && config_.attention_scale == 0)
    config_.attention_scale = 1 / std::sqrt(static_cast<double>(config_.head_width));
  const bool alike = config_.masks.empty() &&
                     std::all_of(weights_.layers.begin(), weights_.layers.end(),
                                 [](const auto& layer) { return layer.sinks == nullptr; });
  for (std::size_t i = 0; i < static_cast<std::size_t>(config_.layers); ++i) {
    const std::int64_t window = config_.windows.empty() ? 0 : config_.windows[i];
    const auto known = alike ? std::find(windows_.begin(), windows_.end(), window) : windows_.end();
    attention_index_.push_back(static_cast<std::size_t>(known - windows_.begin()));
    if (known != windows_.end()) continue;
    windows_.push_back(window);
    AttentionOptions& options = attention_.emplace_back();
    if (window > 0) options.mask = Mask::window(window - 1, config_.causal ? 0 : window - 1);
    if (config_.causal) options.mask = window > 0 ? Mask::causal() & options.mask : Mask::causal();
    if (!config_.masks.empty()) options.mask = options.mask & config_.masks[i];
    if (config_.attention_scale > 0) options.score.scale = config_.attention_scale;
    options.score.soft_cap = config_.attention_cap;
    if (config_.alibi) options.score.alibi_slopes = alibi_slopes(config_.heads, config_.alibi_max);
    options.score.t5 = config_.t5;
    if (const float* const sinks = weights_.layers[i].sinks)
      options.score.sinks.assign(sinks, sinks + config_.heads);
  }
}

bool Transformer::reads_source() const {
  return !weights_.layers.empty() && weights_.layers.front().source_query.weight != nullptr;
}

bool Transformer::rotates_late() const {
  return config_.rope && config_.rope->scaling.kind == RopeScaling::Kind::dynamic_ntk;
}

std::int64_t Transformer::rotated_width() const {
  return config_.latent ? config_.latent->rotated : config_.head_width;
}

KvCacheOptions Transformer::cache_options(std::int64_t tokens, DType dtype, bool evicts) const {
  KvCacheOptions options;
  options.layers = config_.layers;
  options.kv_heads = config_.kv_heads;
  options.width = config_.head_width;
  options.v_width = config_.value_width;
  options.dtype = dtype;
  if (rotates_late() || evicts) options.rotation = config_.rope;
  options.pages =
      std::max<std::int64_t>(1, (tokens + options.page_tokens - 1) / options.page_tokens);
  return options;
}

void Transformer::embed(std::span<const std::int32_t> ids, std::span<const std::int32_t> type_ids,
                        std::span<const std::int64_t> positions, Pass& p) const {
  const auto check = [](const char* what, std::span<const std::int32_t> list, std::int64_t limit) {
    for (const std::int32_t id : list) {
      if (id < 0 || id >= limit) {
        throw std::invalid_argument("[transformer] " + std::string(what) + " " +
                                    std::to_string(id) + " is outside [0, " +
                                    std::to_string(limit) + ")");
      }
    }
  };
  check("token", ids, config_.vocabulary);
  const auto width = static_cast<std::size_t>(config_.width);
  if (weights_.positions != nullptr)
    learned_positions(weights_.positions, config_.positions, config_.width, positions, p.x.data());
  const auto scale = static_cast<float>(config_.embedding_scale);
  float* to = p.x.data();
  for (const std::int32_t id : ids) {
    const float* row = weights_.embedding + static_cast<std::size_t>(id) * width;
    for (std::size_t j = 0; j < width; ++j) *to++ += row[j] * scale;
  }
  if (weights_.types != nullptr) {
    check("type", type_ids, config_.types);
    to = p.x.data();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto type = static_cast<std::size_t>(type_ids.empty() ? 0 : type_ids[i]);
      const float* row = weights_.types + type * width;
      for (std::size_t j = 0; j < width; ++j) *to++ += row[j];
    }
  }
  if (weights_.embedding_norm.weight != nullptr) {
    normalise(weights_.embedding_norm, p.tokens, config_.width, p.x.data(), p.x.data(), p.context);
  }
}

void Transformer::normalise(const TransformerWeights::Norm& norm, std::int64_t rows,
                            std::int64_t width, const float* x, float* y,
                            const Context& context) const {
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  if (config_.norm == NormKind::rms) {
    nn::rms_norm({rows, width, x, norm.weight, epsilon, y}, context);
  } else {
    nn::layer_norm({.rows = rows,
                    .width = width,
                    .x = x,
                    .weight = norm.weight,
                    .bias = norm.bias,
                    .epsilon = epsilon,
                    .y = y},
                   context);
  }
}

void Transformer::begin_branch(const TransformerWeights::Norm& norm, Pass& p) const {
  if (!config_.post_norm)
    normalise(norm, p.tokens, config_.width, p.x.data(), p.normed.data(), p.context);
}

void Transformer::end_branch(const TransformerWeights::Norm& norm,
                             const TransformerWeights::Norm& after, Pass& p) const {
  if (after.weight != nullptr)
    normalise(after, p.tokens, config_.width, p.branch.data(), p.branch.data(), p.context);
  if (config_.post_norm && config_.norm == NormKind::layer) {
    nn::layer_norm({.rows = p.tokens,
                    .width = config_.width,
                    .x = p.branch.data(),
                    .residual = p.x.data(),
                    .weight = norm.weight,
                    .bias = norm.bias,
                    .epsilon = static_cast<float>(config_.norm_epsilon),
                    .y = p.x.data()},
                   p.context);
    return;
  }
  nn::add(p.tokens * config_.width, p.branch.data(), p.x.data(), p.context);
  if (config_.post_norm)
    normalise(norm, p.tokens, config_.width, p.x.data(), p.x.data(), p.context);
}

// Queries, keys and values by way of latent vectors.
void Transformer::expand_latent(const TransformerWeights::Layer& layer, Pass& p) const {
  const LatentConfig& c = *config_.latent;
  const std::int64_t n = p.tokens, heads = config_.heads, head_width = config_.head_width,
                     value_width = config_.value_width, plain = head_width - c.rotated,
                     each = plain + value_width;
  const auto norm = [&](const TransformerWeights::Norm& weights, std::vector<float>& x,
                        std::int64_t width) {
    nn::rms_norm({n, width, x.data(), weights.weight, static_cast<float>(c.norm_epsilon), x.data()},
                 p.context);
  };
  if (c.query_rank > 0) {
    std::vector<float> latent(p.size(c.query_rank));
    product(layer.query_latent, n, p.input(), config_.width, latent.data(), c.query_rank,
            p.context);
    norm(layer.query_latent_norm, latent, c.query_rank);
    product(layer.query, n, latent.data(), c.query_rank, p.q.data(), heads * head_width, p.context);
  } else {
    product(layer.query, n, p.input(), config_.width, p.q.data(), heads * head_width, p.context);
  }
  std::vector<float> latent(p.size(c.rank)), shared(p.size(c.rotated)),
      expanded(p.size(heads * each));
  product(layer.latent, n, p.input(), config_.width, latent.data(), c.rank, p.context);
  const TransformerWeights::Linear behind = {
      layer.latent.weight + c.rank * config_.width,
      layer.latent.bias != nullptr ? layer.latent.bias + c.rank : nullptr};
  product(behind, n, p.input(), config_.width, shared.data(), c.rotated, p.context);
  norm(layer.latent_norm, latent, c.rank);
  product(layer.expand, n, latent.data(), c.rank, expanded.data(), heads * each, p.context);
  float *k = p.k.data(), *v = p.v.data();
  const float* from = expanded.data();
  for (std::int64_t t = 0; t < n; ++t) {
    for (std::int64_t h = 0; h < heads; ++h, from += each) {
      k = std::copy_n(from, plain, k);
      k = std::copy_n(shared.data() + t * c.rotated, c.rotated, k);
      v = std::copy_n(from + plain, value_width, v);
    }
  }
}

void Transformer::attend(std::int64_t index, Pass& p) const {
  const TransformerWeights::Layer& layer = weights_.layers[static_cast<std::size_t>(index)];
  const Context& context = p.context;
  const std::int64_t width = config_.width, heads = config_.heads, kv_heads = config_.kv_heads,
                     head_width = config_.head_width, value_width = config_.value_width;
  if (config_.latent) {
    expand_latent(layer, p);
  } else {
    product(layer.query, p.tokens, p.input(), width, p.q.data(), heads * head_width, context);
    product(layer.key, p.tokens, p.input(), width, p.k.data(), kv_heads * head_width, context);
    product(layer.value, p.tokens, p.input(), width, p.v.data(), kv_heads * value_width, context);
  }
  const Tensor q = Tensor::blhd(p.q.data(), {1, heads, p.tokens, head_width}),
               k = Tensor::blhd(p.k.data(), {1, kv_heads, p.tokens, head_width});
  if (layer.query_norm.weight != nullptr) {
    normalise(layer.query_norm, p.tokens * heads, head_width, p.q.data(), p.q.data(), context);
    normalise(layer.key_norm, p.tokens * kv_heads, head_width, p.k.data(), p.k.data(), context);
  }
  if (p.cache != nullptr && p.cache->options().rotation) {
    p.cache->rotate(q, *p.batch);
  } else if (config_.rope) {
    p.angles->rotate(last_of_heads(q, rotated_width()));
    p.angles->rotate(last_of_heads(k, rotated_width()));
  }
  if (!p.global_rows.empty()) {
    p.global_rows[attention_index_[static_cast<std::size_t>(index)]].project(layer, p.input(),
                                                                             context);
  }
  run_attention(index, q, k, p);
  if (layer.attention_gate.weight != nullptr) {
    std::vector<float> gate(p.attended.size());
    product(layer.attention_gate, p.tokens, p.input(), width, gate.data(), heads * value_width,
            context);
    nn::gate(static_cast<std::int64_t>(gate.size()), gate.data(), p.attended.data(),
             nn::Activation::sigmoid, context);
  }
  if (p.watch->outputs) p.watch->outputs(index, p.tokens, p.attended.data());
  product(layer.output, p.tokens, p.attended.data(), heads * value_width, p.branch.data(), width,
          context);
}

// Queries and keys are rotated, but for the keys of a cache that rotates them when it reads them.
void Transformer::run_attention(std::int64_t index, const Tensor& q, const Tensor& k,
                                Pass& p) const {
  const std::size_t kind = attention_index_[static_cast<std::size_t>(index)];
  const Tensor attended =
      Tensor::blhd(p.attended.data(), {1, config_.heads, p.tokens, config_.value_width});
  const ConstTensor v =
      ConstTensor::blhd(p.v.data(), {1, config_.kv_heads, p.tokens, config_.value_width});
  const Observed observed = p.watch->ask ? p.watch->ask(index) : Observed{};
  std::optional<WideHeads> wide;
  if (p.cache != nullptr) {
    p.cache->write(index, *p.batch, k, v);
    p.plans[kind].run(q, p.cache->view(index, *p.batch), attended, observed);
    // As they were read.
    if (p.watch->see && p.cache->options().rotation) p.cache->rotate(k, *p.batch);
  } else if (!p.global_rows.empty()) {
    const GlobalRows& rows = p.global_rows[kind];
    rows.run(q, k, v, attended);
    if (p.watch->ask || p.watch->see) wide = rows.wide(q, k);
    if (p.watch->ask) {
      const Mask mask = texts_mask(config_, attention(index).mask, *p.texts);
      rows.observe(*wide, v, mask, observed, p.context);
    }
  } else if (!p.appended.empty()) {
    wide = p.appended.to(q, k);
    p.plans[kind].run(wide->queries(), wide->keys(), v, attended, observed);
  } else {
    p.plans[kind].run(q, k, v, attended, observed);
  }
  if (!p.watch->see) return;
  p.watch->see({.layer = index,
                .head_width = wide ? wide->width : config_.head_width,
                .q = wide ? wide->q.data() : p.q.data(),
                .k = wide ? wide->k.data() : p.k.data(),
                .v = p.v.data(),
                .output_weight = weights_.layers[static_cast<std::size_t>(index)].output.weight});
}

void Transformer::feed_forward(const TransformerWeights::Layer& layer, Pass& p) const {
  const std::int64_t width = config_.width, wide = config_.feed_forward_width;
  const float* x = p.input();
  if (config_.gated) {
    product(layer.gate, p.tokens, x, width, p.gate.data(), wide, p.context);
    product(layer.up, p.tokens, x, width, p.wide.data(), wide, p.context);
    nn::gate(p.tokens * wide, p.gate.data(), p.wide.data(), config_.activation, p.context);
  } else {
    product(layer.up, p.tokens, x, width, p.wide.data(), wide, p.context, config_.activation);
  }
  product(layer.down, p.tokens, p.wide.data(), wide, p.branch.data(), width, p.context);
}

void Transformer::attend_source(std::int64_t index, Pass& p) const {
  const TransformerWeights::Layer& layer = weights_.layers[static_cast<std::size_t>(index)];
  const std::int64_t width = config_.width, q_width = config_.heads * config_.head_width;
  product(layer.source_query, p.tokens, p.input(), width, p.q.data(), q_width, p.context);
  if (p.watch->see) {
    p.watch->see({.layer = index,
                  .head_width = config_.head_width,
                  .q = p.q.data(),
                  .output_weight = layer.source_output.weight,
                  .source = true});
  }
  const Shape shape{1, config_.heads, p.tokens, config_.head_width};
  const Observed observed = p.watch->ask_source ? p.watch->ask_source(index) : Observed{};
  p.source_plan->run(Tensor::blhd(p.q.data(), shape), p.sources->view(index, *p.source_batch),
                     Tensor::blhd(p.attended.data(), shape), observed);
  product(layer.source_output, p.tokens, p.attended.data(), q_width, p.branch.data(), width,
          p.context);
}

// Embedded tokens through all layers and the last norm.
std::vector<float> Transformer::run(Pass& p) const {
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    const TransformerWeights::Layer& layer = weights_.layers[static_cast<std::size_t>(i)];
    begin_branch(layer.attention_norm, p);
    attend(i, p);
    // Side by side, the feed-forward reads what attention has not been added to.
    if (config_.parallel) begin_branch(layer.feed_forward_norm, p);
    end_branch(layer.attention_norm, layer.after_attention, p);
    if (p.sources != nullptr) {
      begin_branch(layer.source_norm, p);
      attend_source(i, p);
      end_branch(layer.source_norm, {}, p);
    }
    if (!config_.parallel) begin_branch(layer.feed_forward_norm, p);
    feed_forward(layer, p);
    end_branch(layer.feed_forward_norm, layer.after_feed_forward, p);
  }
  if (weights_.final_norm.weight != nullptr) {
    normalise(weights_.final_norm, p.tokens, config_.width, p.x.data(), p.x.data(), p.context);
  }
  return std::move(p.x);
}

std::vector<float> Transformer::hidden(std::span<const std::int32_t> ids, KvCache& cache,
                                       SequenceId sequence, const Context& context,
                                       const AttentionWatch& watch) const {
  return hidden({.ids = ids,
                 .cache = cache,
                 .sequences = {sequence},
                 .counts = {static_cast<std::int64_t>(ids.size())}},
                context, watch);
}

std::vector<float> Transformer::hidden(const NextTokens& next, const Context& context,
                                       const AttentionWatch& watch) const {
  if (next.ids.empty()) return {};
  std::vector<std::int64_t> counts = next.counts;
  if (counts.empty()) counts.assign(next.sequences.size(), 1);
  const auto tokens = static_cast<std::int64_t>(next.ids.size());
  if (counts.size() != next.sequences.size() ||
      std::accumulate(counts.begin(), counts.end(), std::int64_t{0}) != tokens) {
    throw std::invalid_argument("[transformer] " + std::to_string(tokens) +
                                " tokens are not those of " +
                                std::to_string(next.sequences.size()) + " sequences");
  }
  if (reads_source() != (next.sources != nullptr) ||
      (next.sources != nullptr && next.source_of.size() != next.sequences.size())) {
    throw std::invalid_argument(
        "[transformer] a decoder needs a source for each sequence, and nothing else does");
  }
  Pass p(tokens, config_, context);
  std::vector<std::int64_t> positions, before;
  for (std::size_t s = 0; s < counts.size(); ++s) {
    const std::int64_t first = next.cache.seen(next.sequences[s]);
    for (std::int64_t i = 0; i < counts[s]; ++i) positions.push_back(first + i);
    before.push_back(next.cache.length(next.sequences[s]));
  }
  embed(next.ids, {}, positions, p);
  std::optional<KvBatch> source_batch;
  std::optional<Plan> source_plan;
  if (next.sources != nullptr) {
    std::vector<SequenceId> sources;
    std::vector<std::int64_t> queries;
    for (std::size_t s = 0; s < counts.size(); ++s) {
      if (sources.empty() || sources.back() != next.source_of[s]) {
        sources.push_back(next.source_of[s]);
        queries.push_back(0);
      }
      queries.back() += counts[s];
    }
    source_batch = next.sources->batch(std::move(sources), queries);
    AttentionOptions options;
    if (config_.attention_scale > 0) options.score.scale = config_.attention_scale;
    source_plan = plan(source_batch->shape(config_.heads), source_batch->options(options), context);
    p.sources = next.sources;
    p.source_batch = &*source_batch;
    p.source_plan = &*source_plan;
  }
  try {
    for (std::size_t s = 0; s < counts.size(); ++s) next.cache.append(next.sequences[s], counts[s]);
    const KvBatch batch = next.cache.batch(next.sequences, counts);
    for (const AttentionOptions& options : attention_)
      p.plans.push_back(plan(batch.shape(config_.heads), batch.options(options), context));
    if (config_.rope && !next.cache.options().rotation)
      p.angles.emplace(batch.q_positions(), rotated_width(), *config_.rope);
    p.cache = &next.cache;
    p.batch = &batch;
    p.watch = &watch;
    return run(p);
  } catch (...) {
    for (std::size_t s = 0; s < counts.size(); ++s)
      next.cache.truncate(next.sequences[s], before[s]);
    throw;
  }
}

SequenceId Transformer::keep_source(std::span<const float> hidden, KvCache& cache,
                                    const Context& context, const AttentionWatch& watch) const {
  const std::int64_t tokens = static_cast<std::int64_t>(hidden.size()) / config_.width,
                     kv_width = config_.kv_heads * config_.head_width;
  std::vector<float> k(static_cast<std::size_t>(tokens * kv_width)), v(k.size());
  const Shape shape{1, config_.kv_heads, tokens, config_.head_width};
  const SequenceId source = cache.create();
  try {
    cache.append(source, tokens);
    for (std::int64_t i = 0; i < config_.layers; ++i) {
      const TransformerWeights::Layer& layer = weights_.layers[static_cast<std::size_t>(i)];
      product(layer.source_key, tokens, hidden.data(), config_.width, k.data(), kv_width, context);
      product(layer.source_value, tokens, hidden.data(), config_.width, v.data(), kv_width,
              context);
      if (watch.see) {
        watch.see({.layer = i,
                   .head_width = config_.head_width,
                   .k = k.data(),
                   .v = v.data(),
                   .output_weight = layer.source_output.weight,
                   .source = true});
      }
      cache.write(i, source, ConstTensor::blhd(k.data(), shape),
                  ConstTensor::blhd(v.data(), shape));
    }
  } catch (...) {
    cache.drop(source);
    throw;
  }
  return source;
}

std::vector<float> Transformer::hidden(const PackedTexts& texts, const Context& context,
                                       const AttentionWatch& watch) const {
  if (texts.ids.empty()) return {};
  if (reads_source()) throw std::invalid_argument("[transformer] a decoder needs its source");
  Pass p(texts.tokens(), config_, context);
  std::vector<std::int64_t> offsets = {0}, positions;
  for (const std::int64_t length : texts.lengths) {
    for (std::int64_t i = 0; i < length; ++i) positions.push_back(i);
    offsets.push_back(offsets.back() + length);
  }
  if (!texts.global_tokens.empty() && !config_.global_tokens)
    throw std::invalid_argument("[transformer] the model has no global tokens");
  if (offsets.back() != p.tokens ||
      (!texts.global_tokens.empty() && texts.global_tokens.size() != texts.lengths.size()) ||
      (!texts.type_ids.empty() && texts.type_ids.size() != texts.ids.size())) {
    throw std::invalid_argument("[transformer] " + std::to_string(p.tokens) + " tokens, " +
                                std::to_string(offsets.back()) + " in all texts, " +
                                std::to_string(texts.type_ids.size()) + " types");
  }
  embed(texts.ids, texts.type_ids, positions, p);
  if (config_.rope) p.angles.emplace(positions, rotated_width(), *config_.rope);
  AttentionShape shape;
  shape.q_heads = config_.heads;
  shape.kv_heads = config_.kv_heads;
  shape.q_len = shape.k_len = p.tokens;
  shape.width = config_.head_width;
  shape.v_width = config_.value_width;
  p.texts = &texts;
  p.appended = AppendedNumbers(config_, texts);
  if (!p.appended.empty()) ++shape.width;
  for (std::size_t kind = 0; kind < attention_.size(); ++kind) {
    if (config_.global_tokens) {
      p.global_rows.emplace_back(config_, texts, windows_[kind] - 1, context);
      continue;
    }
    AttentionOptions options = attention_[kind];
    options.mask = texts_mask(config_, options.mask, texts);
    options.ragged = Ragged{.q_offsets = offsets, .k_offsets = offsets};
    p.plans.push_back(plan(shape, options, context));
  }
  p.watch = &watch;
  return run(p);
}

std::vector<float> Transformer::logits(std::span<const float> hidden,
                                       const Context& context) const {
  const auto rows = static_cast<std::int64_t>(hidden.size()) / config_.width;
  std::vector<float> out(static_cast<std::size_t>(rows * config_.vocabulary));
  product(weights_.head, rows, hidden.data(), config_.width, out.data(), config_.vocabulary,
          context);
  if (config_.logit_cap > 0) {
    const auto cap = static_cast<float>(config_.logit_cap);
    for (float& x : out) x = cap * std::tanh(x / cap);
  }
  return out;
}

}  // namespace attn
