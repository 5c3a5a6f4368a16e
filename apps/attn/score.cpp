// attn score: how well a language model foresees a text, and what heads are worth to it.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <stdexcept>

#include "arguments.h"
#include "attn/language_model.h"
#include "json.h"
#include "models.h"
#include "terminal.h"

namespace attn::cli {

namespace {

// "4.2,5.1": layer 4 head 2, layer 5 head 1.
std::vector<HeadAblation::Head> heads_from_text(const std::string& text) {
  std::vector<HeadAblation::Head> heads;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto number = [&](std::int64_t& n) {
    const auto read = std::from_chars(at, end, n);
    at = read.ptr;
    return read.ec == std::errc() && n >= 0;
  };
  const auto mark = [&](char c) { return at != end && *at++ == c; };
  for (bool more = true; more; more = at != end && mark(',')) {
    HeadAblation::Head& head = heads.emplace_back();
    if (!number(head.layer) || !mark('.') || !number(head.head) || (at != end && *at != ',')) {
      throw std::invalid_argument("score: --ablate is '" + text +
                                  "', must be LAYER.HEAD, joined by commas, as 4.2,5.1");
    }
  }
  return heads;
}

TextScore scored(const LanguageModel& model, const std::vector<std::int32_t>& ids, ScoreOptions how,
                 const std::string& what) {
  ProgressBar bar(what, "tokens");
  how.progress = std::ref(bar);
  return model.score(ids, how);
}

// Of the tokens, those that were held for the most probable.
double top_share(const TextScore& score, const std::vector<std::int32_t>& ids) {
  std::int64_t right = 0;
  for (std::size_t i = 0; i < score.top.size(); ++i) right += score.top[i] == ids[i + 1] ? 1 : 0;
  return static_cast<double>(right) / static_cast<double>(score.top.size());
}

}  // namespace

void score(const ScoreCommand& options) {
  const std::vector<HeadAblation::Head> heads =
      options.ablate.empty() ? std::vector<HeadAblation::Head>() : heads_from_text(options.ablate);
  LanguageModelOptions load;
  if (!options.rope_scaling.empty())
    load.rope_scaling = RopeScaling::from_text(options.rope_scaling);
  const std::string text = read_text(options.file);
  const LanguageModel model = LanguageModel::load(
      reading_model_path("score", options.model, options.offline), options.common.context(), load);
  std::vector<std::int32_t> ids = model.encode(text);
  if (options.max_length > 0 && ids.size() > static_cast<std::size_t>(options.max_length))
    ids.resize(static_cast<std::size_t>(options.max_length));
  if (ids.size() < 2) {
    throw Error(fmt::format("'{}' has {} to score, must have two tokens or more", options.file,
                            ids.empty() ? "nothing" : "one token"));
  }
  ScoreOptions how = options.how;
  how.cache = cache_type(options.cache);
  ScoreReport report;
  report.model = options.model;
  report.file = options.file;
  report.ids = ids;
  report.sinks = how.sinks;
  report.whole = scored(model, ids, how, "scoring");
  report.top_share = top_share(report.whole, ids);
  if (!heads.empty()) {
    how.ablation.heads = heads;
    if (options.ablate_with == "mean") {
      ScoreOptions whole = how;
      whole.ablation = {};
      ProgressBar bar("means of heads", "tokens");
      whole.progress = std::ref(bar);
      how.ablation = model.mean_ablation(heads, ids, whole);
    }
    report.ablated = scored(model, ids, how, "without heads");
    report.ablate = options.ablate;
    report.ablate_with = options.ablate_with;
  }
  if (options.common.json) {
    print(json(report));
    return;
  }
  const TextScore& whole = report.whole;
  std::string out = fmt::format("perplexity {:.4f}, mean loss {:.5f} nats a token\n",
                                whole.perplexity, whole.mean_loss);
  if (report.ablated) {
    out += fmt::format("perplexity {:.4f}, mean loss {:.5f} without {} ({}): {:+.5f}\n",
                       report.ablated->perplexity, report.ablated->mean_loss, report.ablate,
                       report.ablate_with, report.ablated->mean_loss - whole.mean_loss);
  }
  out += fmt::format("{} tokens scored, {:.1f} % of them the most probable one\n",
                     whole.losses.size(), 100 * report.top_share);
  out += how.sinks ? fmt::format("a cache of {} tokens, {} of them sinks; {} at a time\n",
                                 whole.window, *how.sinks, whole.step)
                   : fmt::format("window {}, step {}\n", whole.window, whole.step);
  print(out);
}

}  // namespace attn::cli
