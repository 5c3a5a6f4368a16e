// LLaMA models in GGUF: the names and keys that llama.cpp's converter writes (gguf-py,
// constants.py and tensor_mapping.py).
#include "attn/error.h"
#include "model/families.h"

namespace attn {

namespace {

class Metadata {
 public:
  explicit Metadata(const Gguf& gguf) : gguf_(gguf), prefix_("llama.") {}

  [[noreturn]] void fail(const std::string& key, const std::string& what) const {
    throw Error("key " + prefix_ + key + " " + what);
  }
  bool has(const std::string& key) const { return gguf_.has(prefix_ + key); }
  std::int64_t size(const std::string& key, std::int64_t largest = kLargestSize) const {
    const std::int64_t value = gguf_.integer(prefix_ + key);
    if (value < 1 || value > largest) {
      fail(key,
           "is " + std::to_string(value) + ", must be in [1, " + std::to_string(largest) + "]");
    }
    return value;
  }
  double real(const std::string& key, double otherwise) const {
    return has(key) ? gguf_.real(prefix_ + key) : otherwise;
  }
  std::string text(const std::string& key) const { return gguf_.text(prefix_ + key); }

 private:
  const Gguf& gguf_;
  std::string prefix_;
};

}  // namespace

DescribedModel load_gguf(Weights& weights) {
  const Gguf& gguf = *weights.gguf();
  const std::string architecture = gguf.text("general.architecture");
  if (architecture != "llama")
    throw Error("general.architecture \"" + architecture + "\" is not known (llama)");
  const Metadata in(gguf);
  DescribedModel model;
  TransformerConfig& c = model.config;
  c.layers = in.size("block_count", kLargestLayers);
  c.width = in.size("embedding_length");
  c.feed_forward_width = in.size("feed_forward_length");
  c.heads = in.size("attention.head_count");
  c.kv_heads = in.has("attention.head_count_kv") ? in.size("attention.head_count_kv") : c.heads;
  c.positions = in.size("context_length");
  if (c.width % c.heads != 0 || c.heads % c.kv_heads != 0)
    in.fail("attention.head_count", "does not fit embedding_length and head_count_kv");
  c.head_width = c.width / c.heads;
  for (const char* const key : {"attention.key_length", "attention.value_length"}) {
    if (in.has(key) && in.size(key) != c.head_width)
      in.fail(key, "is not the width over the heads, which we do not run");
  }
  c.norm = NormKind::rms;
  c.norm_epsilon = in.real("attention.layer_norm_rms_epsilon", 1e-5);
  c.activation = nn::Activation::silu;
  c.gated = true;
  // The converter has permuted the rows of queries and keys so that pairs lie side by side.
  RopeOptions rope{.layout = RopeLayout::interleaved};
  rope.base = in.real("rope.freq_base", 10000);
  if (in.has("rope.dimension_count")) {
    rope.fraction = static_cast<double>(in.size("rope.dimension_count", c.head_width)) /
                    static_cast<double>(c.head_width);
  }
  if (in.has("rope.scaling.type") && in.text("rope.scaling.type") != "none")
    in.fail("rope.scaling.type",
            "is \"" + in.text("rope.scaling.type") + "\", which we do not run");
  if (weights.has("rope_freqs.weight"))
    throw Error("tensor rope_freqs.weight scales rotations, which we do not run");
  if (in.has("expert_count") && gguf.integer("llama.expert_count") > 0)
    in.fail("expert_count", "is above 0: mixtures of experts are not run");
  c.rope = rope;

  TransformerWeights& w = model.weights;
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t width) {
    return read_linear(weights, name, out, width, weights.has(name + ".bias"));
  };
  const auto norm = [&](const std::string& name) {
    return read_norm(weights, name, c.width, false);
  };
  const auto tokens = gguf.texts("tokenizer.ggml.tokens");
  c.vocabulary = static_cast<std::int64_t>(tokens.size());
  const std::int64_t kv_width = c.kv_heads * c.head_width;
  w.embedding = weights.floats("token_embd.weight", {c.vocabulary, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string name = "blk." + std::to_string(i) + ".";
    TransformerWeights::Layer layer;
    layer.attention_norm = norm(name + "attn_norm");
    layer.query = linear(name + "attn_q", c.width, c.width);
    layer.key = linear(name + "attn_k", kv_width, c.width);
    layer.value = linear(name + "attn_v", kv_width, c.width);
    layer.output = linear(name + "attn_output", c.width, c.width);
    layer.feed_forward_norm = norm(name + "ffn_norm");
    layer.gate = linear(name + "ffn_gate", c.feed_forward_width, c.width);
    layer.up = linear(name + "ffn_up", c.feed_forward_width, c.width);
    layer.down = linear(name + "ffn_down", c.width, c.feed_forward_width);
    w.layers.push_back(layer);
  }
  w.final_norm = norm("output_norm");
  w.head.weight = weights.has("output.weight")
                      ? weights.floats("output.weight", {c.vocabulary, c.width})
                      : w.embedding;
  return model;
}

}  // namespace attn
