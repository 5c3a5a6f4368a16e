#include "model/translation_record.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "model/recorder.h"
#include "model/translate.h"

namespace attn {

void score_target(const Transformer& encoder, const Transformer& decoder,
                  std::span<const std::int32_t> source, std::span<const std::int32_t> target,
                  const Context& context, const AttentionWatch& encoder_watch,
                  const AttentionWatch& decoder_watch) {
  const auto sources = static_cast<std::int64_t>(source.size()),
             targets = static_cast<std::int64_t>(target.size());
  if (targets > decoder.config().positions) {
    throw std::invalid_argument("[translate] the target has " + std::to_string(targets) +
                                " tokens, the model " + std::to_string(decoder.config().positions) +
                                " positions");
  }
  const std::vector<float> encoded = encode_source(encoder, source, context, encoder_watch);
  KvCache kept(decoder.cache_options(sources), context),
      cache(decoder.cache_options(targets), context);
  const SequenceId from = decoder.keep_source(encoded, kept, context, decoder_watch);
  decoder.hidden({.ids = target,
                  .cache = cache,
                  .sequences = {cache.create()},
                  .counts = {targets},
                  .sources = &kept,
                  .source_of = {from}},
                 context, decoder_watch);
}

namespace {

AttentionRecord begin(const TransformerConfig& config, const std::vector<std::int64_t>& layers) {
  AttentionRecord record;
  record.heads = config.heads;
  record.kv_heads = config.kv_heads;
  record.width = config.head_width;
  record.layer_numbers = recorded_layers(layers, config.layers);
  record.layers.resize(record.layer_numbers.size());
  return record;
}

// The place of a model's layer in a record; null: it is not to be recorded.
LayerRecord* place_of(AttentionRecord& record, std::int64_t layer) {
  const auto& numbers = record.layer_numbers;
  const auto at = std::lower_bound(numbers.begin(), numbers.end(), layer);
  if (at == numbers.end() || *at != layer) return nullptr;
  return &record.layers[static_cast<std::size_t>(at - numbers.begin())];
}

}  // namespace

TranslationRecord record_target(const Transformer& encoder, const Transformer& decoder,
                                std::span<const std::int32_t> source,
                                std::span<const std::int32_t> target,
                                const std::vector<std::int64_t>& layers, const Context& context) {
  const TransformerConfig& d = decoder.config();
  const auto sources = static_cast<std::int64_t>(source.size()),
             targets = static_cast<std::int64_t>(target.size());
  TranslationRecord out{begin(encoder.config(), layers), begin(d, layers), begin(d, layers)};
  const auto keep_self = [&context](AttentionRecord& record, const SeenAttention& seen,
                                    std::int64_t tokens, const Transformer& model) {
    LayerRecord* const layer = place_of(record, seen.layer);
    if (layer == nullptr) return;
    *layer = record_layer(seen, tokens, model.config(), context);
    layer->mask = model.attention(seen.layer).mask;
    layer->score = model.attention(seen.layer).score;
  };
  const auto keep_cross = [&](const SeenAttention& seen) {
    LayerRecord* const layer = place_of(out.cross, seen.layer);
    if (layer == nullptr) return;
    if (d.attention_scale > 0) layer->score.scale = d.attention_scale;
    if (seen.q != nullptr) {
      layer->q = by_head(seen.q, targets, d.heads, d.head_width);
    } else {
      layer->k = by_head(seen.k, sources, d.kv_heads, d.head_width);
      layer->value_norm = value_norms(seen, sources, d, context);
    }
  };
  const auto see_encoder = [&](const SeenAttention& seen) {
    keep_self(out.encoder, seen, sources, encoder);
  };
  const auto see_decoder = [&](const SeenAttention& seen) {
    if (seen.source)
      keep_cross(seen);
    else
      keep_self(out.decoder, seen, targets, decoder);
  };
  score_target(encoder, decoder, source, target, context, {.see = see_encoder},
               {.see = see_decoder});
  return out;
}

}  // namespace attn
