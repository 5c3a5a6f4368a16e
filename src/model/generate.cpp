#include "model/generate.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "model/head_watch.h"
#include "model/sampler.h"
#include "model/window.h"

namespace attn {

namespace {

// Bytes at the end of `text` that begin a UTF-8 character which is not complete yet.
std::size_t unfinished(std::string_view text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;
    const std::size_t length = byte >= 0xF0 && byte < 0xF8 ? 4
                               : byte >= 0xE0              ? 3
                               : byte >= 0xC0              ? 2
                                                           : 1;
    return byte < 0xF8 && length > back ? back : 0;
  }
  return 0;
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stop) : stop_(std::move(stop)) {
  for (const std::string& text : stop_) {
    if (text.empty()) throw std::invalid_argument("[generate] a stop text is empty");
  }
}

std::string TextStream::push(std::string_view bytes) {
  if (stopped_) return "";
  held_ += bytes;
  std::size_t end = std::string::npos;
  for (const std::string& text : stop_) end = std::min(end, held_.find(text));
  if (end != std::string::npos) {
    stopped_ = true;
    held_.resize(end);
    return std::exchange(held_, "");
  }
  std::size_t keep = unfinished(held_);
  for (const std::string& text : stop_) {
    for (std::size_t n = std::min(text.size() - 1, held_.size()); n > keep; --n) {
      if (std::string_view(held_).ends_with(std::string_view(text).substr(0, n))) keep = n;
    }
  }
  std::string shown = held_.substr(0, held_.size() - keep);
  held_.erase(0, shown.size());
  return shown;
}

std::string TextStream::finish() { return std::exchange(held_, ""); }

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

[[noreturn]] void fail(const std::string& what) {
  throw std::invalid_argument("[generate] " + what);
}

void check(const TransformerConfig& model, std::span<const std::vector<std::int32_t>> prompts,
           const GenerationOptions& o) {
  const auto text = [](std::int64_t n) { return std::to_string(n); };
  if (o.max_tokens < 0 || o.chunk < 1 || o.side_by_side < 1 || o.top_keys < 0)
    fail("max_tokens or top_keys is below 0, or chunk or side_by_side below 1");
  if (o.window > 0) {
    require_window(model, "[generate]", o.window, o.sinks, 1);
    if (o.top_keys > 0) fail("top_keys does not go with a window, which moves keys");
  } else if (o.window < 0) {
    fail("window is " + text(o.window) + ", must be 0 (none) or more");
  }
  if (o.top_keys > 0 && prompts.size() > 1) fail("top_keys takes one prompt");
  for (const std::vector<std::int32_t>& prompt : prompts) {
    const auto count = static_cast<std::int64_t>(prompt.size());
    if (count == 0) fail("the prompt has no tokens");
    if (o.window == 0 && (count > model.positions || o.max_tokens > model.positions - count)) {
      fail("a prompt of " + text(count) + " tokens and " + text(o.max_tokens) +
           " to generate are more than the model's " + text(model.positions) +
           " positions: stretch them (rope_scaling), or keep a window of them (window, sinks)");
    }
  }
}

// A text on its way.
struct Writer {
  Writer(const std::vector<std::int32_t>& prompt, const GenerationOptions& options)
      : sampler(options.sampler), stream(options.stop), all(prompt) {
    result.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  }
  std::span<const std::int32_t> left() const { return std::span(all).subspan(ran); }

  Sampler sampler;
  TextStream stream;
  std::vector<std::int32_t> all;       // the prompt and what was generated
  std::size_t ran = 0;                 // of them, through the model
  std::optional<SequenceId> sequence;  // none: it waits
  bool ended = false;
  Clock::time_point first_token;
  Generation result;
};

}  // namespace

std::vector<Generation> generate_batch(
    const Transformer& model, std::span<const std::vector<std::int32_t>> prompts,
    const std::function<std::string(std::int32_t)>& bytes_of,
    const std::vector<std::int32_t>& end_tokens, const GenerationOptions& options,
    const Context& context, const std::function<void(std::size_t, std::string_view)>& show) {
  check(model.config(), prompts, options);
  const bool evicts = options.window > 0;
  // A window's pages: one that the sinks share with nobody, and one that it begins within.
  const std::int64_t page = KvCacheOptions().page_tokens;
  std::vector<std::int64_t> rooms;
  std::vector<Writer> writers;
  for (const std::vector<std::int32_t>& prompt : prompts) {
    const Writer& w = writers.emplace_back(prompt, options);
    const std::int64_t length =
        evicts ? options.window + 2 * page : w.result.prompt_tokens + options.max_tokens;
    rooms.push_back((length + page - 1) / page * page);
  }
  // Whichever run at a time, they need no more than the longest.
  std::sort(rooms.begin(), rooms.end(), std::greater<>());
  if (static_cast<std::int64_t>(rooms.size()) > options.side_by_side)
    rooms.resize(static_cast<std::size_t>(options.side_by_side));
  const std::int64_t room = std::accumulate(rooms.begin(), rooms.end(), std::int64_t{0});
  const auto results = [&] {
    std::vector<Generation> all;
    for (Writer& w : writers) all.push_back(std::move(w.result));
    return all;
  };
  if (options.max_tokens == 0 || prompts.empty()) return results();

  const Clock::time_point start = Clock::now();
  KvCache cache(model.cache_options(room, options.cache, evicts), context);
  std::optional<HeadWatch> heads;
  if (options.top_keys > 0) heads.emplace(model.config(), options.top_keys);

  const auto add_text = [&](Writer& w, const std::string& text) {
    w.result.text += text;
    if (show && !text.empty()) show(static_cast<std::size_t>(&w - writers.data()), text);
  };
  const auto end = [&](Writer& w, GenerationEnd why) {
    w.ended = true;
    w.result.end = why;
    w.result.seconds = seconds_since(w.first_token);
    add_text(w, w.stream.finish());
    cache.drop(*w.sequence);
  };
  const auto add_token = [&](Writer& w, std::span<const float> logits) {
    const std::int32_t token = w.sampler.next(logits, w.all);
    if (w.result.ids.empty()) {
      w.result.prompt_seconds = seconds_since(start);
      w.first_token = Clock::now();
    }
    if (std::find(end_tokens.begin(), end_tokens.end(), token) != end_tokens.end())
      return end(w, GenerationEnd::end_token);
    w.result.ids.push_back(token);
    if (heads) w.result.attention.push_back(heads->last());
    w.all.push_back(token);
    add_text(w, w.stream.push(bytes_of(token)));
    if (w.stream.stopped()) return end(w, GenerationEnd::stop_text);
    if (static_cast<std::int64_t>(w.result.ids.size()) == options.max_tokens)
      end(w, GenerationEnd::max_tokens);
  };

  // Each turn runs what is left of the first texts that have not ended: a prompt, a piece of it, or
  // the newest token.
  const auto width = static_cast<std::size_t>(model.config().width),
             vocabulary = static_cast<std::size_t>(model.config().vocabulary);
  const auto chunk = static_cast<std::size_t>(options.chunk);
  // Room is made before a piece runs: small ones keep most of the window in sight.
  const std::size_t piece = evicts ? static_cast<std::size_t>(std::max<std::int64_t>(
                                         1, (options.window - options.sinks) / 4))
                                   : chunk;
  while (true) {
    std::vector<std::int32_t> ids;
    NextTokens batch{.ids = {}, .cache = cache, .sequences = {}};
    std::vector<std::pair<Writer*, std::size_t>>
        chosen;  // with the row that their next token is of
    std::size_t tokens = 0;
    std::int64_t running = 0;
    for (Writer& w : writers) {
      if (w.ended) continue;
      if (running++ == options.side_by_side || tokens == chunk) break;
      if (!w.sequence) w.sequence = cache.create();
      const std::size_t n = std::min({w.left().size(), piece, chunk - tokens});
      if (evicts) {
        cache.evict(*w.sequence, options.sinks,
                    options.window - options.sinks - static_cast<std::int64_t>(n));
      }
      const auto next = w.left().first(n);
      ids.insert(ids.end(), next.begin(), next.end());
      batch.sequences.push_back(*w.sequence);
      batch.counts.push_back(static_cast<std::int64_t>(n));
      w.ran += n;
      tokens += n;
      if (w.left().empty()) chosen.emplace_back(&w, tokens - 1);
    }
    if (ids.empty()) break;
    batch.ids = ids;
    // Of a prompt, its last token chooses.
    const bool watched = heads && !chosen.empty();
    const std::vector<float> hidden =
        model.hidden(batch, context,
                     watched ? heads->watch(static_cast<std::int64_t>(tokens)) : AttentionWatch{});
    std::vector<float> rows;
    for (const auto& row : chosen) {
      const auto from = hidden.begin() + static_cast<std::ptrdiff_t>(row.second * width);
      rows.insert(rows.end(), from, from + static_cast<std::ptrdiff_t>(width));
    }
    const std::vector<float> logits = model.logits(rows, context);
    for (std::size_t i = 0; i < chosen.size(); ++i)
      add_token(*chosen[i].first, std::span(logits).subspan(i * vocabulary, vocabulary));
  }
  return results();
}

Generation generate(const Transformer& model, std::span<const std::int32_t> prompt,
                    const std::function<std::string(std::int32_t)>& bytes_of,
                    const std::vector<std::int32_t>& end_tokens, const GenerationOptions& options,
                    const Context& context, const std::function<void(std::string_view)>& show) {
  const std::vector<std::int32_t> one(prompt.begin(), prompt.end());
  const auto show_one = [&](std::size_t, std::string_view text) {
    if (show) show(text);
  };
  return std::move(
      generate_batch(model, std::span(&one, 1), bytes_of, end_tokens, options, context, show_one)
          .front());
}

Generation generate(const RecurrentModel& model, std::span<const std::int32_t> prompt,
                    const std::function<std::string(std::int32_t)>& bytes_of,
                    const std::vector<std::int32_t>& end_tokens, const GenerationOptions& options,
                    const Context& context, const std::function<void(std::string_view)>& show) {
  if (options.max_tokens < 0 || options.chunk < 1) fail("max_tokens is below 0, or chunk below 1");
  if (options.window != 0) fail("a model with a state keeps no keys: it takes no window");
  if (prompt.empty()) fail("the prompt has no tokens");
  Writer w({prompt.begin(), prompt.end()}, options);
  if (options.max_tokens == 0) return std::move(w.result);
  const Clock::time_point start = Clock::now();
  const auto add_text = [&](const std::string& text) {
    w.result.text += text;
    if (show && !text.empty()) show(text);
  };
  const auto ends = [&](std::int32_t token) {
    return std::find(end_tokens.begin(), end_tokens.end(), token) != end_tokens.end();
  };
  const auto width = static_cast<std::size_t>(model.sizes().width);
  TextState state = model.start();
  while (true) {
    std::vector<float> hidden;
    while (!w.left().empty()) {
      const auto next =
          w.left().first(std::min(w.left().size(), static_cast<std::size_t>(options.chunk)));
      hidden = model.hidden(next, state, context);
      w.ran += next.size();
    }
    const std::int32_t token =
        w.sampler.next(model.logits(std::span(hidden).last(width), context), w.all);
    if (w.result.ids.empty()) {
      w.result.prompt_seconds = seconds_since(start);
      w.first_token = Clock::now();
    }
    w.result.end = GenerationEnd::end_token;
    if (ends(token)) break;
    w.result.ids.push_back(token);
    w.all.push_back(token);
    add_text(w.stream.push(bytes_of(token)));
    w.result.end = GenerationEnd::stop_text;
    if (w.stream.stopped()) break;
    w.result.end = GenerationEnd::max_tokens;
    if (static_cast<std::int64_t>(w.result.ids.size()) == options.max_tokens) break;
  }
  w.result.seconds = seconds_since(w.first_token);
  add_text(w.stream.finish());
  return std::move(w.result);
}

}  // namespace attn
