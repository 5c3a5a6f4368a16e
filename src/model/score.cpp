#include "model/score.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "model/ablation.h"
#include "model/window.h"
#include "nn/cross_entropy.h"

namespace attn {

namespace {

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument("[score] " + what); }

// With the defaults filled in; throws for what cannot be.
ScoreOptions checked(ScoreOptions o, std::span<const std::int32_t> ids,
                     const TransformerConfig& config) {
  const auto text = [](std::int64_t n) { return std::to_string(n); };
  const std::int64_t positions = config.positions;
  if (ids.size() < 2) {
    fail("a text of " + std::to_string(ids.size()) + (ids.size() == 1 ? " token" : " tokens") +
         " has none that follows another: it takes two or more");
  }
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= config.vocabulary) {
      fail("token " + text(id) + " is outside [0, " + text(config.vocabulary) + ")");
    }
  }
  if (o.window == 0) o.window = std::min<std::int64_t>(2048, positions);
  if (o.window < 2) fail("window is " + text(o.window) + ", must be 2 or more");
  if (o.sinks) {
    if (o.step == 0) o.step = 1;
    if (o.step < 1) fail("step is " + text(o.step) + ", must be 1 or more");
    require_window(config, "[score]", o.window, *o.sinks, o.step);
    return o;
  }
  if (o.window > positions) {
    fail("a window of " + text(o.window) + " tokens is more than the model's " + text(positions) +
         " positions: take a smaller one, stretch them (rope_scaling), or run once with sinks");
  }
  if (o.step == 0) o.step = o.window / 2;
  if (o.step < 1 || o.step >= o.window) {
    fail("step is " + text(o.step) + ", must be 1 to " + text(o.window - 1) +
         ": a token is foreseen from one before it or more");
  }
  return o;
}

// Runs a text. `heads(chunk)` makes what reads or changes the heads' outputs; `rows(chunk, hidden)`
// gets the hidden states of its unskipped tokens.
template <class Heads, class Rows>
void run(const Transformer& model, std::span<const std::int32_t> ids, const ScoreOptions& options,
         const Context& context, const Heads& heads, const Rows& rows) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const bool evicts = options.sinks.has_value();
  // With two pages more: sinks end within one, what is left of the window begins within another.
  const std::int64_t room =
      evicts ? options.window + 2 * KvCacheOptions().page_tokens : std::min(options.window, tokens);
  KvCache cache(model.cache_options(room, options.cache, evicts), context);
  const SequenceId sequence = cache.create();
  std::int64_t done = 0;  // windows overlap
  for (const TextChunk& chunk : evicts ? stream_chunks(tokens, options.step)
                                       : text_chunks(tokens, options.window, options.step)) {
    if (chunk.fresh) cache.truncate(sequence, 0);
    if (evicts)
      cache.evict(sequence, *options.sinks, options.window - *options.sinks - chunk.count);
    const auto some =
        ids.subspan(static_cast<std::size_t>(chunk.first), static_cast<std::size_t>(chunk.count));
    const std::vector<float> hidden =
        model.hidden(some, cache, sequence, context, {.outputs = heads(chunk)});
    const auto skipped = static_cast<std::size_t>(chunk.skip * model.config().width);
    rows(chunk, std::span<const float>(hidden).subspan(skipped));
    done = std::max(done, chunk.first + chunk.count + 1);
    if (options.progress) options.progress(done, tokens);
  }
}

// Losses of the tokens that follow a chunk's unskipped ones, from their hidden states.
template <class LanguageModel>
void add_losses(const LanguageModel& model, std::int64_t width, std::int64_t vocabulary,
                std::span<const std::int32_t> ids, const TextChunk& chunk,
                std::span<const float> hidden, const Context& context, TextScore& result) {
  constexpr std::size_t kRows = 32;  // whose logits are there at a time
  const auto row = static_cast<std::size_t>(width);
  auto at = static_cast<std::size_t>(chunk.first + chunk.skip);
  for (std::size_t n = 0; !hidden.empty(); hidden = hidden.subspan(n * row), at += n) {
    n = std::min(kRows, hidden.size() / row);
    const std::vector<float> logits = model.logits(hidden.first(n * row), context);
    nn::cross_entropy({.rows = static_cast<std::int64_t>(n),
                       .classes = vocabulary,
                       .logits = logits.data(),
                       .targets = ids.data() + at + 1,
                       .losses = result.losses.data() + at,
                       .top = result.top.data() + at},
                      context);
  }
}

void sum_up(TextScore& result) {
  double sum = 0;
  for (const float loss : result.losses) sum += static_cast<double>(loss);
  result.mean_loss = sum / static_cast<double>(result.losses.size());
  result.perplexity = std::exp(result.mean_loss);
}

}  // namespace

std::vector<TextChunk> text_chunks(std::int64_t tokens, std::int64_t window, std::int64_t step,
                                   std::int64_t most) {
  std::vector<TextChunk> chunks;
  std::int64_t next = 0;  // the first token whose successor is not scored
  for (std::int64_t begin = 0; next < tokens - 1; begin += step) {
    // A window's last token is foreseen, and need not run.
    const std::int64_t end = std::min(begin + window, tokens) - 1;
    for (std::int64_t first = begin; first < end; first += most) {
      const std::int64_t count = std::min(most, end - first);
      chunks.push_back({.first = first,
                        .count = count,
                        .skip = std::clamp<std::int64_t>(next - first, 0, count),
                        .fresh = first == begin});
    }
    next = end;
  }
  return chunks;
}

std::vector<TextChunk> stream_chunks(std::int64_t tokens, std::int64_t step) {
  std::vector<TextChunk> chunks;
  for (std::int64_t first = 0; first < tokens - 1; first += step) {
    chunks.push_back(
        {.first = first, .count = std::min(step, tokens - 1 - first), .fresh = first == 0});
  }
  return chunks;
}

TextScore score(const Transformer& model, std::span<const std::int32_t> ids,
                const ScoreOptions& given, const Context& context) {
  const TransformerConfig& config = model.config();
  const ScoreOptions options = checked(given, ids, config);
  const HeadOutputs ablation = ablate(options.ablation, config);
  TextScore result;
  result.losses.resize(ids.size() - 1);
  result.top.resize(ids.size() - 1);
  const auto losses = [&](const TextChunk& chunk, std::span<const float> hidden) {
    add_losses(model, config.width, config.vocabulary, ids, chunk, hidden, context, result);
  };
  run(
      model, ids, options, context, [&](const TextChunk&) { return ablation; }, losses);
  sum_up(result);
  result.window = options.window;
  result.step = options.step;
  return result;
}

TextScore score(const RecurrentModel& model, std::span<const std::int32_t> ids,
                const ScoreOptions& given, const Context& context) {
  if (given.sinks || !given.ablation.heads.empty())
    fail("a model with a state keeps no keys and has no heads: no sinks, no ablation");
  const auto tokens = static_cast<std::int64_t>(ids.size());
  // Checked as a model's that has room for the whole text.
  TransformerConfig room;
  room.positions = std::max<std::int64_t>(tokens, 2);
  room.vocabulary = model.sizes().vocabulary;
  ScoreOptions options = given;
  if (options.window == 0) options.window = room.positions;
  options = checked(options, ids, room);
  TextScore result;
  result.losses.resize(ids.size() - 1);
  result.top.resize(ids.size() - 1);
  TextState state = model.start();
  std::int64_t done = 0;
  for (const TextChunk& chunk : text_chunks(tokens, options.window, options.step)) {
    if (chunk.fresh) state = model.start();
    const std::vector<float> hidden = model.hidden(
        ids.subspan(static_cast<std::size_t>(chunk.first), static_cast<std::size_t>(chunk.count)),
        state, context);
    const auto skipped = static_cast<std::size_t>(chunk.skip * model.sizes().width);
    add_losses(model, model.sizes().width, model.sizes().vocabulary, ids, chunk,
               std::span<const float>(hidden).subspan(skipped), context, result);
    done = std::max(done, chunk.first + chunk.count + 1);
    if (options.progress) options.progress(done, tokens);
  }
  sum_up(result);
  result.window = options.window;
  result.step = options.step;
  return result;
}

std::vector<float> head_means(const Transformer& model, std::span<const std::int32_t> ids,
                              const ScoreOptions& given, const Context& context) {
  const ScoreOptions options = checked(given, ids, model.config());
  const HeadOutputs ablation = ablate(options.ablation, model.config());
  HeadMeans means(model.config());
  const auto heads = [&](const TextChunk& chunk) -> HeadOutputs {
    return [&, skip = chunk.skip](std::int64_t layer, std::int64_t tokens, float* outputs) {
      if (ablation) ablation(layer, tokens, outputs);
      means.add(layer, tokens, skip, outputs);
    };
  };
  run(model, ids, options, context, heads, [](const TextChunk&, std::span<const float>) {});
  return means.means();
}

}  // namespace attn
