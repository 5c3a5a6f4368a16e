// GGUF files of GPT-2, whose matrices the converter has transposed to [out][in].
#include "model/families.h"
#include "model/gguf_settings.h"

namespace attn {

DescribedModel load_gguf_gpt2(const GgufSettings& in, GgufTensors& tensors) {
  DescribedModel model;
  TransformerConfig& c = model.config;
  c = read_sizes(in);
  if (c.kv_heads != c.heads || c.head_width * c.heads != c.width)
    in.fail("attention.head_count", "does not share out the width, as GPT-2's heads do");
  c.norm_epsilon = in.real("attention.layer_norm_epsilon", 0, 1, 1e-5);
  c.activation = nn::Activation::gelu_tanh;

  TransformerWeights& w = model.weights;
  w.embedding = tensors.floats("token_embd.weight", {c.vocabulary, c.width});
  w.positions = tensors.floats("position_embd.weight", {c.positions, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = "blk." + std::to_string(i) + ".";
    const auto all = tensors.linear(name + "attn_qkv", 3 * c.width, c.width, true);
    const auto part = [&](std::int64_t which) {
      return TransformerWeights::Linear{all.weight + which * c.width * c.width,
                                        all.bias + which * c.width};
    };
    TransformerWeights::Layer layer;
    layer.attention_norm = tensors.norm(name + "attn_norm", c.width, true);
    layer.query = part(0);
    layer.key = part(1);
    layer.value = part(2);
    layer.output = tensors.linear(name + "attn_output", c.width, c.width, true);
    layer.feed_forward_norm = tensors.norm(name + "ffn_norm", c.width, true);
    layer.up = tensors.linear(name + "ffn_up", c.feed_forward_width, c.width, true);
    layer.down = tensors.linear(name + "ffn_down", c.width, c.feed_forward_width, true);
    w.layers.push_back(layer);
  }
  w.final_norm = tensors.norm("output_norm", c.width, true);
  w.head.weight = tensors.has("output.weight")
                      ? tensors.floats("output.weight", {c.vocabulary, c.width})
                      : w.embedding;
  return model;
}

}  // namespace attn
