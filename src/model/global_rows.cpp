#include "model/global_rows.h"

#include <algorithm>

#include "nn/dense.h"

namespace attn {
namespace {

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

std::vector<std::int64_t> offsets_of(const PackedTexts& texts) {
  std::vector<std::int64_t> offsets = {0};
  for (const std::int64_t n : texts.lengths) offsets.push_back(offsets.back() + n);
  return offsets;
}

std::vector<std::int64_t> rows_of(const PackedTexts& texts) {
  std::vector<std::int64_t> rows;
  std::int64_t first = 0;
  for (std::size_t t = 0; t < texts.lengths.size(); ++t) {
    for (const std::int64_t i : texts.globals_of(t)) rows.push_back(first + i);
    first += texts.lengths[t];
  }
  return rows;
}

LongformerPlan plan_of(const TransformerConfig& c, const PackedTexts& texts, std::int64_t window,
                       const Context& context) {
  AttentionShape shape;
  shape.q_heads = c.heads;
  shape.kv_heads = c.kv_heads;
  shape.q_len = shape.k_len = texts.tokens();
  shape.width = c.head_width;
  shape.v_width = c.value_width;
  LongformerOptions options;
  options.window = window;
  for (std::size_t t = 0; t < texts.lengths.size(); ++t) {
    const auto tokens = texts.globals_of(t);
    options.global_tokens.emplace_back(tokens.begin(), tokens.end());
  }
  options.offsets = offsets_of(texts);
  options.scale = c.attention_scale;
  return LongformerPlan(shape, options, context);
}

}  // namespace

GlobalRows::GlobalRows(const TransformerConfig& config, const PackedTexts& texts,
                       std::int64_t window, const Context& context)
    : config_(config),
      tokens_(texts.tokens()),
      offsets_(offsets_of(texts)),
      rows_(rows_of(texts)),
      plan_(plan_of(config, texts, window, context)) {}

void GlobalRows::project(const TransformerWeights::Layer& layer, const float* x,
                         const Context& context) {
  if (rows_.empty()) return;
  const std::int64_t width = config_.width;
  const auto product = [&](const TransformerWeights::Linear& linear, std::int64_t rows,
                           const float* from, std::int64_t out, std::vector<float>& y) {
    y.resize(size(rows * out));
    nn::dense({.rows = rows,
               .in = width,
               .out = out,
               .x = from,
               .w = linear.weight,
               .bias = linear.bias,
               .y = y.data()},
              context);
  };
  std::vector<float> picked;
  for (const std::int64_t i : rows_)
    picked.insert(picked.end(), x + i * width, x + (i + 1) * width);
  const auto rows = static_cast<std::int64_t>(rows_.size());
  product(layer.global_query, rows, picked.data(), config_.heads * config_.head_width, q_);
  product(layer.global_key, tokens_, x, config_.kv_heads * config_.head_width, k_);
  product(layer.global_value, tokens_, x, config_.kv_heads * config_.value_width, v_);
}

void GlobalRows::run(const Tensor& q, const Tensor& k, const ConstTensor& v,
                     const Tensor& out) const {
  LongformerInputs inputs{q, k, v};
  if (!rows_.empty()) {
    const auto rows = static_cast<std::int64_t>(rows_.size());
    inputs.global_q = ConstTensor::blhd(q_.data(), {1, config_.heads, rows, config_.head_width});
    inputs.global_k = ConstTensor::blhd(k_.data(), k.shape);
    inputs.global_v = ConstTensor::blhd(v_.data(), v.shape);
  }
  plan_.run(inputs, {.out = out});
}

WideHeads GlobalRows::wide(const Tensor& q, const Tensor& k) const {
  const std::int64_t width = config_.head_width;
  WideHeads both(q, k, 2 * width);
  const float* from = q_.data();
  for (const std::int64_t row : rows_) {
    float* to = both.q.data() + row * both.heads * both.width;
    for (std::int64_t h = 0; h < both.heads; ++h, from += width, to += both.width) {
      std::fill_n(to, width, 0.0f);
      std::copy_n(from, width, to + width);
    }
  }
  if (rows_.empty()) return both;
  for (std::int64_t i = 0; i < both.tokens * both.kv_heads; ++i)
    std::copy_n(k_.data() + i * width, width, both.k.data() + i * both.width + width);
  return both;
}

void GlobalRows::observe(const WideHeads& wide, const ConstTensor& v, const Mask& mask,
                         const Observed& observed, const Context& context) const {
  AttentionOptions options{.mask = mask, .score = {.scale = config_.attention_scale}};
  options.ragged = Ragged{.q_offsets = offsets_, .k_offsets = offsets_};
  std::vector<float> dropped(size(tokens_ * config_.heads * config_.value_width));
  plan(AttentionShape::of(wide.queries(), wide.keys(), v), options, context)
      .run(wide.queries(), wide.keys(), v,
           Tensor::blhd(dropped.data(), {1, config_.heads, tokens_, config_.value_width}),
           observed);
  if (observed.value_weighted.empty() || rows_.empty()) return;
  // Weighed by their own values.
  const auto rows = static_cast<std::int64_t>(rows_.size());
  std::vector<float> weighted(size(config_.heads * rows));
  dropped.resize(size(config_.heads * rows * config_.value_width));
  const Tensor answer(weighted.data(), Shape{1, config_.heads, rows, 1});
  plan_.global()->run(
      ConstTensor::blhd(q_.data(), {1, config_.heads, rows, config_.head_width}),
      ConstTensor::blhd(k_.data(), {1, config_.kv_heads, tokens_, config_.head_width}),
      ConstTensor::blhd(v_.data(), {1, config_.kv_heads, tokens_, config_.value_width}),
      Tensor::blhd(dropped.data(), {1, config_.heads, rows, config_.value_width}),
      {.value_weighted = answer});
  for (std::int64_t h = 0; h < config_.heads; ++h) {
    for (std::int64_t r = 0; r < rows; ++r)
      *observed.value_weighted.row<float>(0, h, rows_[size(r)]) = *answer.row<float>(0, h, r);
  }
}

}  // namespace attn
