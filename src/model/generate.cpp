#include "model/generate.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <stdexcept>
#include <utility>

#include "model/head_watch.h"
#include "model/sampler.h"

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

Generation generate(const Transformer& model, std::span<const std::int32_t> prompt,
                    const std::function<std::string(std::int32_t)>& bytes_of,
                    const std::vector<std::int32_t>& end_tokens, const GenerationOptions& options,
                    const Context& context, const std::function<void(std::string_view)>& show) {
  const auto count = static_cast<std::int64_t>(prompt.size());
  if (count == 0) throw std::invalid_argument("[generate] the prompt has no tokens");
  if (options.max_tokens < 0 || options.chunk < 1 || options.top_keys < 0)
    throw std::invalid_argument("[generate] max_tokens or top_keys is below 0, or chunk below 1");
  const std::int64_t positions = model.config().positions;
  if (count > positions || options.max_tokens > positions - count) {
    throw std::invalid_argument("[generate] a prompt of " + std::to_string(count) + " tokens and " +
                                std::to_string(options.max_tokens) +
                                " to generate are more than the model's " +
                                std::to_string(positions) + " positions");
  }
  Sampler sampler(options.sampler);
  TextStream stream(options.stop);
  Generation result;
  result.prompt_tokens = count;
  if (options.max_tokens == 0) return result;
  const auto add_text = [&](const std::string& text) {
    result.text += text;
    if (show && !text.empty()) show(text);
  };

  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const Clock::time_point start = Clock::now();
  KvCache cache(model.cache_options(count + options.max_tokens, options.cache), context);
  const SequenceId sequence = cache.create();
  std::vector<std::int32_t> all(prompt.begin(), prompt.end());
  std::optional<HeadWatch> heads;
  if (options.top_keys > 0) heads.emplace(model.config(), options.top_keys);
  std::vector<float> hidden;
  for (std::int64_t at = 0; at < count; at += options.chunk) {
    const auto first = static_cast<std::size_t>(at),
               n = static_cast<std::size_t>(std::min(options.chunk, count - at));
    // Of the prompt, its last token chooses.
    const bool watched = heads && first + n == prompt.size();
    hidden = model.hidden(prompt.subspan(first, n), cache, sequence, context,
                          watched ? heads->watch(static_cast<std::int64_t>(n)) : AttentionWatch{});
  }
  Clock::time_point first_token;
  while (true) {
    const auto width = static_cast<std::size_t>(model.config().width);
    const std::vector<float> logits = model.logits(std::span(hidden).last(width), context);
    const std::int32_t token = sampler.next(logits, all);
    if (result.ids.empty()) {
      result.prompt_seconds = seconds_since(start);
      first_token = Clock::now();
    }
    if (std::find(end_tokens.begin(), end_tokens.end(), token) != end_tokens.end()) {
      result.end = GenerationEnd::end_token;
      break;
    }
    result.ids.push_back(token);
    if (heads) result.attention.push_back(heads->last());
    all.push_back(token);
    add_text(stream.push(bytes_of(token)));
    if (stream.stopped()) {
      result.end = GenerationEnd::stop_text;
      break;
    }
    if (static_cast<std::int64_t>(result.ids.size()) == options.max_tokens) break;
    hidden = model.hidden(std::span(&token, 1), cache, sequence, context,
                          heads ? heads->watch(1) : AttentionWatch{});
  }
  result.seconds = seconds_since(first_token);
  add_text(stream.finish());
  return result;
}

}  // namespace attn
