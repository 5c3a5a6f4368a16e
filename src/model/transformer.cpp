#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "nn/dense.h"

namespace attn {

// What a layer works in; x is the residual stream.
struct Transformer::Buffers {
  Buffers(std::int64_t count, const TransformerConfig& c)
      : tokens(count),
        x(size(c.width)),
        normed(size(c.width)),
        q(size(c.heads * c.head_width)),
        k(size(c.kv_heads * c.head_width)),
        v(size(c.kv_heads * c.head_width)),
        attended(size(c.heads * c.head_width)),
        branch(size(c.width)),
        gate(c.gated ? size(c.feed_forward_width) : 0),
        wide(size(c.feed_forward_width)) {}
  std::size_t size(std::int64_t width) const { return static_cast<std::size_t>(tokens * width); }

  std::int64_t tokens;
  std::vector<float> x, normed, q, k, v, attended, branch, gate, wide;
  std::optional<RopeAngles> angles;  // of the tokens
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

}  // namespace

Transformer::Transformer(const TransformerConfig& config, TransformerWeights weights)
    : config_(config), weights_(std::move(weights)) {
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    const std::int64_t window =
        config_.windows.empty() ? 0 : config_.windows[static_cast<std::size_t>(i)];
    const auto known = std::find(windows_.begin(), windows_.end(), window);
    window_index_.push_back(static_cast<std::size_t>(known - windows_.begin()));
    if (known == windows_.end()) windows_.push_back(window);
  }
}

// One for each window.
std::vector<Plan> Transformer::plans(const KvBatch& batch, const Context& context) const {
  std::vector<Plan> all;
  for (const std::int64_t window : windows_) {
    AttentionOptions options;
    options.mask = window > 0 ? Mask::causal() & Mask::window(window - 1, 0) : Mask::causal();
    if (config_.attention_scale > 0) options.score.scale = config_.attention_scale;
    options.score.soft_cap = config_.attention_cap;
    if (config_.alibi) options.score.alibi_slopes = alibi_slopes(config_.heads, config_.alibi_max);
    all.push_back(plan(batch.shape(config_.heads), batch.options(options), context));
  }
  return all;
}

bool Transformer::rotates_late() const {
  return config_.rope && config_.rope->scaling.kind == RopeScaling::Kind::dynamic_ntk;
}

KvCacheOptions Transformer::cache_options(std::int64_t tokens, DType dtype) const {
  KvCacheOptions options;
  options.layers = config_.layers;
  options.kv_heads = config_.kv_heads;
  options.width = config_.head_width;
  options.dtype = dtype;
  if (rotates_late()) options.rotation = config_.rope;
  options.pages =
      std::max<std::int64_t>(1, (tokens + options.page_tokens - 1) / options.page_tokens);
  return options;
}

void Transformer::embed(std::span<const std::int32_t> ids, std::int64_t first, float* x,
                        const Context& context) const {
  const auto width = static_cast<std::size_t>(config_.width);
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= config_.vocabulary) {
      throw std::invalid_argument("[transformer] token " + std::to_string(id) + " is outside [0, " +
                                  std::to_string(config_.vocabulary) + ")");
    }
  }
  if (weights_.positions != nullptr) {
    std::vector<std::int64_t> positions(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i)
      positions[i] = first + static_cast<std::int64_t>(i);
    learned_positions(weights_.positions, config_.positions, config_.width, positions, x);
  } else {
    std::fill_n(x, ids.size() * width, 0.0F);
  }
  const auto scale = static_cast<float>(config_.embedding_scale);
  float* to = x;
  for (const std::int32_t id : ids) {
    const float* row = weights_.embedding + static_cast<std::size_t>(id) * width;
    for (std::size_t j = 0; j < width; ++j) *to++ += row[j] * scale;
  }
  if (weights_.embedding_norm.weight != nullptr) {
    normalise(weights_.embedding_norm, static_cast<std::int64_t>(ids.size()), config_.width, x, x,
              context);
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

// Of b.normed, into b.branch.
void Transformer::attend(std::int64_t index, const Plan& plan, const KvBatch& batch, KvCache& cache,
                         Buffers& b, const Context& context) const {
  const TransformerWeights::Layer& layer = weights_.layers[static_cast<std::size_t>(index)];
  const std::int64_t width = config_.width, q_width = config_.heads * config_.head_width,
                     kv_width = config_.kv_heads * config_.head_width;
  product(layer.query, b.tokens, b.normed.data(), width, b.q.data(), q_width, context);
  product(layer.key, b.tokens, b.normed.data(), width, b.k.data(), kv_width, context);
  product(layer.value, b.tokens, b.normed.data(), width, b.v.data(), kv_width, context);
  const Shape of_queries{1, config_.heads, b.tokens, config_.head_width},
      of_keys{1, config_.kv_heads, b.tokens, config_.head_width};
  const Tensor q = Tensor::blhd(b.q.data(), of_queries), k = Tensor::blhd(b.k.data(), of_keys);
  if (layer.query_norm.weight != nullptr) {
    normalise(layer.query_norm, b.tokens * config_.heads, config_.head_width, b.q.data(),
              b.q.data(), context);
    normalise(layer.key_norm, b.tokens * config_.kv_heads, config_.head_width, b.k.data(),
              b.k.data(), context);
  }
  if (rotates_late()) {
    cache.rotate(q, batch);
  } else if (config_.rope) {
    b.angles->rotate(q);
    b.angles->rotate(k);
  }
  cache.write(index, batch, k, ConstTensor::blhd(b.v.data(), of_keys));
  plan.run(q, cache.view(index, batch), Tensor::blhd(b.attended.data(), of_queries));
  product(layer.output, b.tokens, b.attended.data(), q_width, b.branch.data(), width, context);
}

// Of b.normed, into b.branch.
void Transformer::feed_forward(const TransformerWeights::Layer& layer, Buffers& b,
                               const Context& context) const {
  const std::int64_t width = config_.width, wide = config_.feed_forward_width;
  const float* x = b.normed.data();
  if (config_.gated) {
    product(layer.gate, b.tokens, x, width, b.gate.data(), wide, context);
    product(layer.up, b.tokens, x, width, b.wide.data(), wide, context);
    nn::gate(b.tokens * wide, b.gate.data(), b.wide.data(), config_.activation, context);
  } else {
    product(layer.up, b.tokens, x, width, b.wide.data(), wide, context, config_.activation);
  }
  product(layer.down, b.tokens, b.wide.data(), wide, b.branch.data(), width, context);
}

std::vector<float> Transformer::hidden(std::span<const std::int32_t> ids, KvCache& cache,
                                       SequenceId sequence, const Context& context) const {
  if (ids.empty()) return {};
  const auto tokens = static_cast<std::int64_t>(ids.size());
  Buffers b(tokens, config_);
  embed(ids, cache.seen(sequence), b.x.data(), context);
  const std::int64_t before = cache.length(sequence);
  cache.append(sequence, tokens);
  try {
    const KvBatch batch = cache.batch({sequence}, {tokens});
    const std::vector<Plan> attention = plans(batch, context);
    if (config_.rope && !rotates_late())
      b.angles.emplace(batch.q_positions(), config_.head_width, *config_.rope);
    const auto add_branch = [&](const TransformerWeights::Norm& after) {
      if (after.weight != nullptr)
        normalise(after, tokens, config_.width, b.branch.data(), b.branch.data(), context);
      nn::add(tokens * config_.width, b.branch.data(), b.x.data(), context);
    };
    for (std::int64_t i = 0; i < config_.layers; ++i) {
      const TransformerWeights::Layer& layer = weights_.layers[static_cast<std::size_t>(i)];
      normalise(layer.attention_norm, tokens, config_.width, b.x.data(), b.normed.data(), context);
      attend(i, attention[window_index_[static_cast<std::size_t>(i)]], batch, cache, b, context);
      if (config_.parallel) {
        normalise(layer.feed_forward_norm, tokens, config_.width, b.x.data(), b.normed.data(),
                  context);
        add_branch(layer.after_attention);
      } else {
        add_branch(layer.after_attention);
        normalise(layer.feed_forward_norm, tokens, config_.width, b.x.data(), b.normed.data(),
                  context);
      }
      feed_forward(layer, b, context);
      add_branch(layer.after_feed_forward);
    }
  } catch (...) {
    cache.truncate(sequence, before);
    throw;
  }
  normalise(weights_.final_norm, tokens, config_.width, b.x.data(), b.x.data(), context);
  return std::move(b.x);
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
