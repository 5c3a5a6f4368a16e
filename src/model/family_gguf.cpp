// GGUF files of LLaMA and of those whose layers are built as its are: the names and keys that
// llama.cpp's converter writes (gguf-py, constants.py and tensor_mapping.py).
#include <cmath>

#include "attn/error.h"
#include "model/families.h"
#include "model/gguf_settings.h"

namespace attn {

namespace {

struct Architecture {
  const char* name;
  // LLaMA's converter permutes the rows of queries and keys so that pairs lie side by side.
  RopeLayout layout = RopeLayout::half;
  bool biases = false;           // of queries, keys and values, always
  bool query_key_norms = false;  // of every head
  bool after_norms = false;      // of each branch before it is added
  bool fused = false;            // queries, keys and values are one matrix; gate and up are one
};

constexpr Architecture kArchitectures[] = {
    {.name = "llama", .layout = RopeLayout::interleaved},
    {.name = "qwen2", .biases = true},
    {.name = "qwen3", .query_key_norms = true},
    {.name = "gemma2", .after_norms = true},
    {.name = "phi3", .fused = true},
};

// Rows [first, first + out) of a matrix of that many columns.
TransformerWeights::Linear rows(const TransformerWeights::Linear& all, std::int64_t first,
                                std::int64_t columns) {
  return {all.weight + first * columns, all.bias != nullptr ? all.bias + first : nullptr};
}

void read_gemma2(const GgufSettings& in, TransformerConfig& c) {
  c.activation = nn::Activation::gelu_tanh;
  c.embedding_scale = std::sqrt(static_cast<double>(c.width));
  c.attention_cap = in.real("attn_logit_softcapping", 0, 1e9, 50);
  c.logit_cap = in.real("final_logit_softcapping", 0, 1e9, 30);
  // No key says it: the largest model, of 46 layers, scales by the width over the heads, the others
  // by the heads' own width (google/gemma_pytorch, config.py).
  constexpr std::int64_t kLayersOf27B = 46;
  const double scaled = c.layers == kLayersOf27B
                            ? static_cast<double>(c.width) / static_cast<double>(c.heads)
                            : static_cast<double>(c.head_width);
  c.attention_scale = 1 / std::sqrt(scaled);
  // Every `period` layers the last one sees all.
  const std::int64_t window = c.windows.empty() ? 4096 : c.windows[0];
  const std::int64_t period = in.size("attention.sliding_window_pattern", kLargestLayers, 2);
  c.windows.assign(static_cast<std::size_t>(c.layers), window);
  for (std::int64_t i = period - 1; i < c.layers; i += period)
    c.windows[static_cast<std::size_t>(i)] = 0;
}

TransformerWeights::Layer read_layer(const std::string& name, const Architecture& a,
                                     const TransformerConfig& c, GgufTensors& tensors) {
  const std::int64_t q_width = c.heads * c.head_width, kv_width = c.kv_heads * c.head_width;
  TransformerWeights::Layer layer;
  layer.attention_norm = tensors.norm(name + "attn_norm", c.width);
  if (a.fused) {
    const auto all = tensors.linear(name + "attn_qkv", q_width + 2 * kv_width, c.width);
    layer.query = rows(all, 0, c.width);
    layer.key = rows(all, q_width, c.width);
    layer.value = rows(all, q_width + kv_width, c.width);
    const auto both = tensors.linear(name + "ffn_up", 2 * c.feed_forward_width, c.width);
    layer.gate = rows(both, 0, c.width);
    layer.up = rows(both, c.feed_forward_width, c.width);
  } else {
    layer.query = tensors.linear(name + "attn_q", q_width, c.width, a.biases);
    layer.key = tensors.linear(name + "attn_k", kv_width, c.width, a.biases);
    layer.value = tensors.linear(name + "attn_v", kv_width, c.width, a.biases);
    layer.gate = tensors.linear(name + "ffn_gate", c.feed_forward_width, c.width);
    layer.up = tensors.linear(name + "ffn_up", c.feed_forward_width, c.width);
  }
  layer.output = tensors.linear(name + "attn_output", c.width, q_width);
  layer.feed_forward_norm = tensors.norm(name + "ffn_norm", c.width);
  layer.down = tensors.linear(name + "ffn_down", c.width, c.feed_forward_width);
  if (a.query_key_norms) {
    layer.query_norm = tensors.norm(name + "attn_q_norm", c.head_width);
    layer.key_norm = tensors.norm(name + "attn_k_norm", c.head_width);
  }
  if (a.after_norms) {
    layer.after_attention = tensors.norm(name + "post_attention_norm", c.width);
    layer.after_feed_forward = tensors.norm(name + "post_ffw_norm", c.width);
  }
  return layer;
}

DescribedModel load(const Architecture& a, const GgufSettings& in, GgufTensors& tensors) {
  DescribedModel model;
  TransformerConfig& c = model.config;
  c = read_sizes(in);
  c.norm = NormKind::rms;
  c.norm_epsilon = in.real("attention.layer_norm_rms_epsilon", 0, 1, 1e-5);
  c.activation = nn::Activation::silu;
  c.gated = true;
  c.rope = read_rope(in, tensors, c, a.layout);
  // What multiplies is weight + 1, which Gemma's converter has already made of it.
  if (in.architecture() == "gemma2") read_gemma2(in, c);

  TransformerWeights& w = model.weights;
  w.embedding = tensors.floats("token_embd.weight", {c.vocabulary, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i)
    w.layers.push_back(read_layer("blk." + std::to_string(i) + ".", a, c, tensors));
  w.final_norm = tensors.norm("output_norm", c.width);
  w.head.weight = tensors.has("output.weight")
                      ? tensors.floats("output.weight", {c.vocabulary, c.width})
                      : w.embedding;
  return model;
}

}  // namespace

DescribedModel load_gguf(Weights& weights) {
  const GgufSettings in(*weights.gguf());
  GgufTensors tensors(weights);
  std::string known = "gpt2";
  std::optional<DescribedModel> model;
  if (in.architecture() == "gpt2") model = load_gguf_gpt2(in, tensors);
  for (const Architecture& a : kArchitectures) {
    known += std::string(", ") + a.name;
    if (in.architecture() == a.name) model = load(a, in, tensors);
  }
  if (!model) {
    throw Error(in.gguf().source() + ": key general.architecture: \"" + in.architecture() +
                "\" is not known (" + known + ")");
  }
  in.refuse_others();
  tensors.refuse_others(in.architecture());
  return *std::move(model);
}

}  // namespace attn
