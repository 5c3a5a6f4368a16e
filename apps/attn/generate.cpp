// attn generate: a language model continues a text.
#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "arguments.h"
#include "attn/inspect.h"
#include "attn/language_model.h"
#include "json.h"
#include "models.h"
#include "output.h"
#include "terminal.h"

namespace attn::cli {

namespace {

constexpr std::int64_t kTopKeys = 8;

// Where the heads looked, as JSON of what ran, or as a page of the whole text.
void write_observed(const GenerateOptions& options, const LanguageModel& model,
                    const std::vector<std::int32_t>& prompt, const Generation& got,
                    const Context& context) {
  std::vector<std::int32_t> all = prompt;
  all.insert(all.end(), got.ids.begin(), got.ids.end());
  if (options.observe.ends_with(".json")) {
    return write_output("generate: --observe", options.observe,
                        json(ObserveReport{.model = options.model,
                                           .info = model.info(),
                                           .tokens = model.tokens(all),
                                           .generation = got}));
  }
  const AttentionRecord record = model.record(all, {}, static_cast<std::int64_t>(prompt.size()));
  const HeldSignals held;
  write_page(record, options.observe, shortened(model.decode(all), 60), context);
}

std::vector<std::string> prompts(const GenerateOptions& options) {
  if (!options.texts.empty()) return options.texts;
  std::string text = read_text(options.file.empty() ? "-" : options.file);
  if (options.lines) return split_lines(text);
  // A file's last line break is not meant to be continued.
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  return {text};
}

std::string speed(const Generation& g) {
  std::string line = fmt::format("{} tokens of prompt in {}", g.prompt_tokens,
                                 duration_text(g.prompt_seconds * 1e3));
  // The first token belongs to the prompt's time.
  if (g.ids.size() > 1 && g.seconds > 0)
    line +=
        fmt::format(", then {:.1f} tokens/s", static_cast<double>(g.ids.size() - 1) / g.seconds);
  return line;
}

// As fast as all of them together were: some begin when others have ended.
std::string speed(const std::vector<Generation>& all) {
  std::int64_t prompt = 0;
  std::size_t tokens = 0;
  double seconds = 0;
  for (const Generation& g : all) {
    prompt += g.prompt_tokens;
    tokens += g.ids.size();
    seconds = std::max(seconds, g.prompt_seconds + g.seconds);
  }
  std::string line = fmt::format("{} prompts of {} tokens, and {} more, in {}", all.size(), prompt,
                                 tokens, duration_text(seconds * 1e3));
  if (seconds > 0) line += fmt::format(": {:.1f} tokens/s", static_cast<double>(tokens) / seconds);
  return line;
}

}  // namespace

void generate(const GenerateOptions& options) {
  if (!options.observe.empty()) check_output("generate: --observe", options.observe);
  const std::vector<std::string> texts = prompts(options);
  if (!options.observe.empty() && texts.size() != 1)
    throw std::invalid_argument("generate: --observe takes one prompt");
  const std::string path = reading_model_path("generate", options.model, options.offline);
  LanguageModelOptions load;
  if (!options.rope_scaling.empty())
    load.rope_scaling = RopeScaling::from_text(options.rope_scaling);
  const Context context = options.common.context();
  const LanguageModel model = LanguageModel::load(path, context, load);
  std::vector<std::vector<std::int32_t>> ids;
  GenerationOptions how = options.how;
  how.cache = cache_type(options.cache);
  const std::int64_t positions = model.info().max_positions;
  std::int64_t longest = 0;
  for (const std::string& text : texts) {
    ids.push_back(options.chat ? model.encode_chat(options.system, text) : model.encode(text));
    longest = std::max(longest, static_cast<std::int64_t>(ids.back().size()));
    if (ids.back().empty()) throw std::invalid_argument("generate: the prompt is empty");
  }
  if (ids.empty()) throw std::invalid_argument("generate: the file has no prompt");
  if (how.window == 0) {
    if (!options.max_tokens_given)
      how.max_tokens = std::max<std::int64_t>(1, std::min(how.max_tokens, positions - longest));
    if (longest + how.max_tokens > positions) {
      throw std::invalid_argument(fmt::format(
          "generate: a prompt of {} tokens and {} to generate are more than the model's {} "
          "positions: --rope-scaling yarn:4 stretches them, --window 1024 --sinks 4 remembers only "
          "the first and the last tokens",
          longest, how.max_tokens, positions));
    }
  }
  if (options.observe.ends_with(".json")) how.top_keys = kTopKeys;
  const bool one = texts.size() == 1, json_wanted = options.common.json;
  const std::vector<Generation> got =
      model.generate_batch(ids, how, [&](std::size_t, std::string_view part) {
        if (one && !json_wanted) print(part);
      });
  if (one && !json_wanted) print("\n");
  if (!options.observe.empty()) write_observed(options, model, ids.front(), got.front(), context);
  if (json_wanted) {
    print(json(GenerateReport{.model = options.model,
                              .prompts = texts,
                              .generations = got,
                              .several = options.lines || !one}));
    return;
  }
  if (!one) {
    for (std::size_t i = 0; i < got.size(); ++i) {
      print(fmt::format("{}{}{}\n", i == 0 ? "" : "\n", bold(texts[i]), got[i].text));
    }
  }
  note(one ? speed(got.front()) : speed(got));
}

}  // namespace attn::cli
