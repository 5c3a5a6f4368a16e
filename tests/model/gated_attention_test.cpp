// A gate after attention against Transformers (tests/data/gated_attention.json): Qwen3-Next, whose
// layers all attend, described by hand.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "golden_models.h"
#include "made_transformer.h"
#include "model/weights.h"

namespace attn {
namespace {

TransformerConfig gated_config() {
  TransformerConfig c = small_llama();
  c.head_width = c.value_width = 12;
  c.norm_epsilon = 1e-6;
  c.rope = RopeOptions{.fraction = 0.5};
  return c;
}

class GatedAttention : public testing::TestWithParam<const char*> {
 protected:
  GatedAttention() : given_(*golden().find("cases")->find(GetParam())), made_(given_) {}

  static const Json& golden() {
    static const Json json = read_golden("gated_attention.json");
    return json;
  }

  // Half of each head's rows in q_proj: its queries, or what gates it. `width` 0: of the bias.
  const float* half(TransformerWeights& w, const std::string& name, std::int64_t width, bool gate) {
    const TransformerConfig c = gated_config();
    const std::int64_t row = std::max<std::int64_t>(width, 1), count = c.head_width * row;
    std::vector<std::int64_t> shape = {2 * c.heads * c.head_width};
    if (width > 0) shape.push_back(width);
    const float* from = file_.floats(name, shape) + (gate ? count : 0);
    std::vector<float>& made = w.made.emplace_back();
    for (std::int64_t h = 0; h < c.heads; ++h, from += 2 * count)
      made.insert(made.end(), from, from + count);
    return made.data();
  }

  TransformerWeights weights() {
    const TransformerConfig c = gated_config();
    TransformerWeights w;
    // Qwen3-Next's norms multiply by 1 + weight.
    const auto norm = [&](const std::string& name, std::int64_t width) {
      const float* const from = file_.floats(name + ".weight", {width});
      std::vector<float>& made = w.made.emplace_back(from, from + width);
      for (float& x : made) x += 1;
      return TransformerWeights::Norm{made.data(), nullptr};
    };
    const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
      const bool bias = file_.has(name + ".bias");
      return TransformerWeights::Linear{file_.floats(name + ".weight", {out, in}),
                                        bias ? file_.floats(name + ".bias", {out}) : nullptr};
    };
    const auto halves = [&](const std::string& name, bool gate) {
      const bool bias = file_.has(name + ".bias");
      return TransformerWeights::Linear{half(w, name + ".weight", c.width, gate),
                                        bias ? half(w, name + ".bias", 0, gate) : nullptr};
    };
    w.embedding = file_.floats("model.embed_tokens.weight", {c.vocabulary, c.width});
    const std::int64_t q_width = c.heads * c.head_width, kv_width = c.kv_heads * c.head_width;
    for (std::int64_t i = 0; i < c.layers; ++i) {
      const std::string at = "model.layers." + std::to_string(i) + ".";
      TransformerWeights::Layer layer;
      layer.attention_norm = norm(at + "input_layernorm", c.width);
      layer.query = halves(at + "self_attn.q_proj", false);
      layer.attention_gate = halves(at + "self_attn.q_proj", true);
      layer.key = linear(at + "self_attn.k_proj", kv_width, c.width);
      layer.value = linear(at + "self_attn.v_proj", kv_width, c.width);
      layer.output = linear(at + "self_attn.o_proj", c.width, q_width);
      layer.query_norm = norm(at + "self_attn.q_norm", c.head_width);
      layer.key_norm = norm(at + "self_attn.k_norm", c.head_width);
      layer.feed_forward_norm = norm(at + "post_attention_layernorm", c.width);
      layer.gate = linear(at + "mlp.gate_proj", c.feed_forward_width, c.width);
      layer.up = linear(at + "mlp.up_proj", c.feed_forward_width, c.width);
      layer.down = linear(at + "mlp.down_proj", c.width, c.feed_forward_width);
      w.layers.push_back(layer);
    }
    w.final_norm = norm("model.norm", c.width);
    w.head.weight = file_.floats("lm_head.weight", {c.vocabulary, c.width});
    return w;
  }

  const Json& given_;
  GoldenWeights made_;
  Weights& file_ = made_.weights;
};

TEST_P(GatedAttention, AgreesWithTransformers) {
  const Transformer model(gated_config(), weights());
  const Context context({.threads = 2});
  for (const Json& run : given_.find("runs")->items) {
    const auto ids = ids_of(*run.find("ids"));
    const auto hidden = hidden_of(model, ids, context);
    expect_rows(run, "hidden", hidden, ids.size());
    expect_rows(run, "logits", model.logits(hidden, context), ids.size());
  }
}

TEST_P(GatedAttention, GreedyContinuationIsTheSame) {
  expect_greedy(given_, Transformer(gated_config(), weights()));
}

// A gate that is half open everywhere halves what the output projection reads.
TEST_P(GatedAttention, OutputsAreToldAsTheyAreProjected) {
  const TransformerConfig c = gated_config();
  TransformerWeights w = weights();
  const std::vector<float> zeros(static_cast<std::size_t>(c.heads * c.value_width * c.width));
  std::vector<std::vector<float>> told;
  for (const bool gated : {false, true}) {
    for (TransformerWeights::Layer& layer : w.layers)
      layer.attention_gate = {gated ? zeros.data() : nullptr, nullptr};
    const auto outputs = [&](std::int64_t layer, std::int64_t tokens, float* heads) {
      if (layer == 0) told.emplace_back(heads, heads + tokens * c.heads * c.value_width);
    };
    hidden_of(Transformer(c, w), made_ids(7), one_thread(), outputs);
  }
  ASSERT_EQ(told.size(), 2U);
  for (std::size_t i = 0; i < told[0].size(); ++i) ASSERT_EQ(told[1][i], told[0][i] / 2);
}

INSTANTIATE_TEST_SUITE_P(Transformers, GatedAttention,
                         testing::Values("qwen3_next", "qwen3_next, biases"),
                         [](const auto& tested) {
                           return std::string(tested.param).find(',') == std::string::npos
                                      ? "without_biases"
                                      : "biases";
                         });

}  // namespace
}  // namespace attn
