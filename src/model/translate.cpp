#include "model/translate.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "attn/error.h"

namespace attn {

namespace {

// The cached sequences of the running texts; each holds all tokens but the last.
class RunningTexts {
 public:
  explicit RunningTexts(KvCache& cache) : cache_(cache), sequences_{cache.create()} {}

  const std::vector<SequenceId>& sequences() const { return sequences_; }
  // One for each beam: the first of a parent's takes its sequence over, the others fork it.
  void follow(const std::vector<BeamSearch::Beam>& beams) {
    std::vector<SequenceId> next;
    std::vector<bool> taken(sequences_.size());
    for (const BeamSearch::Beam& beam : beams) {
      const SequenceId parent = sequences_[beam.parent];
      next.push_back(taken[beam.parent] ? cache_.fork(parent) : parent);
      taken[beam.parent] = true;
    }
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      if (!taken[i]) cache_.drop(sequences_[i]);
    }
    sequences_ = std::move(next);
  }

 private:
  KvCache& cache_;
  std::vector<SequenceId> sequences_;
};

KvCacheOptions cache_of_beams(const Transformer& decoder, const SearchSettings& settings) {
  KvCacheOptions options = decoder.cache_options(1);
  // Small pages, because texts that share one copy it when they go apart.
  options.page_tokens = 16;
  const std::int64_t of_text = settings.max_tokens / options.page_tokens + 1;
  options.pages = 2 * settings.beams * of_text;
  return options;
}

}  // namespace

std::vector<float> encode_source(const Transformer& encoder, std::span<const std::int32_t> source,
                                 const Context& context, const AttentionWatch& watch) {
  const auto tokens = static_cast<std::int64_t>(source.size());
  if (tokens == 0) throw std::invalid_argument("[translate] the source has no tokens");
  if (tokens > encoder.config().positions) {
    throw std::invalid_argument("[translate] the source has " + std::to_string(tokens) +
                                " tokens, the model " + std::to_string(encoder.config().positions) +
                                " positions; give it in pieces, as sentences");
  }
  PackedTexts texts;
  texts.add(source, {});
  return encoder.hidden(texts, context, watch);
}

std::vector<FoundText> translate(const Transformer& encoder, const Transformer& decoder,
                                 std::span<const std::int32_t> source, std::int32_t start,
                                 const SearchSettings& settings, const Context& context) {
  BeamSearch search(settings, start);
  if (settings.max_tokens > decoder.config().positions) {
    throw std::invalid_argument("[translate] " + std::to_string(settings.max_tokens) +
                                " tokens are more than the model's " +
                                std::to_string(decoder.config().positions) + " positions");
  }
  const std::vector<float> encoded = encode_source(encoder, source, context);
  KvCache sources(decoder.cache_options(static_cast<std::int64_t>(source.size())), context);
  const SequenceId kept = decoder.keep_source(encoded, sources, context);
  KvCache cache(cache_of_beams(decoder, settings), context);
  RunningTexts texts(cache);
  while (true) {
    std::vector<std::int32_t> last;
    for (const BeamSearch::Beam& beam : search.running()) last.push_back(beam.ids.back());
    const std::vector<float> hidden =
        decoder.hidden({.ids = last,
                        .cache = cache,
                        .sequences = texts.sequences(),
                        .sources = &sources,
                        .source_of = std::vector<SequenceId>(last.size(), kept)},
                       context);
    search.advance(decoder.logits(hidden, context));
    if (search.done()) break;
    texts.follow(search.running());
  }
  if (search.found().empty())
    throw Error("[translate] the model's rules for generation leave no token to continue with");
  return search.found();
}

}  // namespace attn
