// What a description can say and no family does: masks of the algebra, learned sinks. Against the
// oracle, on the queries, keys and values that ran.
#include "model/transformer.h"

#include <gtest/gtest.h>

#include <vector>

#include "attn/reference.h"
#include "made_transformer.h"

namespace attn {
namespace {

// Every layer's heads are those of the oracle with `options(layer)`; alone, in pieces, and packed
// with another text.
void expect_attention(const Transformer& model, const std::vector<AttentionOptions>& options) {
  const TransformerConfig& c = model.config();
  const auto ids = made_ids(37);
  const auto n = static_cast<std::int64_t>(ids.size());
  std::vector<std::vector<double>> expected(options.size());
  std::int64_t layers = 0;
  const auto see = [&](const SeenAttention& seen) {
    const auto doubles = [&](const float* x, std::int64_t width) {
      return std::vector<double>(x, x + n * width);
    };
    const auto q = doubles(seen.q, c.heads * c.head_width),
               k = doubles(seen.k, c.kv_heads * c.head_width),
               v = doubles(seen.v, c.kv_heads * c.value_width);
    auto& out = expected[static_cast<std::size_t>(seen.layer)];
    out.resize(static_cast<std::size_t>(n * c.heads * c.value_width));
    reference::attention(ConstTensor::blhd(q.data(), {1, c.heads, n, c.head_width}),
                         ConstTensor::blhd(k.data(), {1, c.kv_heads, n, c.head_width}),
                         ConstTensor::blhd(v.data(), {1, c.kv_heads, n, c.value_width}),
                         Tensor::blhd(out.data(), {1, c.heads, n, c.value_width}),
                         options[static_cast<std::size_t>(seen.layer)]);
  };
  const auto compare = [&](std::int64_t layer, std::int64_t, const float* heads) {
    const auto& out = expected[static_cast<std::size_t>(layer)];
    for (std::size_t i = 0; i < out.size(); ++i)
      ASSERT_NEAR(heads[i], out[i], 1e-5) << "layer " << layer << ", number " << i;
    ++layers;
  };
  KvCache cache(model.cache_options(n), one_thread());
  const auto whole =
      model.hidden(ids, cache, cache.create(), one_thread(), {.see = see, .outputs = compare});
  EXPECT_EQ(layers, c.layers);

  KvCache other(model.cache_options(n), one_thread());
  const SequenceId id = other.create();
  std::vector<float> pieces;
  for (std::size_t at = 0; at < ids.size(); at += 10) {
    const auto piece = std::span(ids).subspan(at, std::min<std::size_t>(10, ids.size() - at));
    const auto part = model.hidden(piece, other, id, one_thread());
    pieces.insert(pieces.end(), part.begin(), part.end());
  }
  PackedTexts texts;
  texts.add(made_ids(5, 3), {});
  texts.add(ids, {});
  auto packed = model.hidden(texts, one_thread());
  packed.erase(packed.begin(), packed.begin() + 5 * c.width);
  ASSERT_EQ(packed.size(), whole.size());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    ASSERT_NEAR(pieces[i], whole[i], 1e-4) << i;
    ASSERT_NEAR(packed[i], whole[i], 1e-4) << i;
  }
}

TEST(Transformer, LayersHaveMasksOfTheAlgebra) {
  TransformerConfig c = small_llama(3);
  c.windows = {0, 9, 0};
  c.masks = {Mask::dilated_window(12, 0, 3) | Mask::prefix(2), Mask::full(), Mask::window(4, 0)};
  const Transformer model(c, made_transformer_weights(c));
  expect_attention(model, {{.mask = Mask::causal() & c.masks[0]},
                           {.mask = Mask::causal() & Mask::window(8, 0)},
                           {.mask = Mask::causal() & c.masks[2]}});
}

TEST(Transformer, LayersHaveSinksOfTheirOwn) {
  const TransformerConfig c = small_llama(3);
  TransformerWeights w = made_transformer_weights(c);
  const std::vector<float> first = {0.5F, -1, 2}, last = {3, 0, -2};
  w.layers[0].sinks = first.data();
  w.layers[2].sinks = last.data();
  const Transformer model(c, std::move(w));
  std::vector<AttentionOptions> options(3, {.mask = Mask::causal()});
  options[0].score.sinks = first;
  options[2].score.sinks = last;
  expect_attention(model, options);
}

}  // namespace
}  // namespace attn
