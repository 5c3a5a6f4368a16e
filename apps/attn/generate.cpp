// attn generate: a language model continues a text.
#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "arguments.h"
#include "attn/inspect.h"
#include "attn/language_model.h"
#include "attn/translation_model.h"
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

}  // namespace

void generate(const GenerateOptions& options) {
  std::string text =
      options.text ? *options.text : read_text(options.file.empty() ? "-" : options.file);
  if (!options.text) {
    // A file's last line break is not meant to be continued.
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  }
  if (!options.observe.empty()) check_output("generate: --observe", options.observe);
  const std::string path = model_path(options.model, options.offline);
  if (is_translation_model(path)) {
    throw std::invalid_argument("generate: '" + options.model +
                                "' is an encoder-decoder, which attn translate runs");
  }
  const Context context = options.common.context();
  const LanguageModel model = LanguageModel::load(path, context);
  const std::vector<std::int32_t> prompt =
      options.chat ? model.encode_chat(options.system, text) : model.encode(text);
  if (prompt.empty()) throw std::invalid_argument("generate: the prompt is empty");

  GenerationOptions how = options.how;
  how.cache = options.cache == "int8"       ? DType::i8
              : options.cache == "bfloat16" ? DType::bf16
                                            : DType::f32;
  const std::int64_t room = model.info().max_positions - static_cast<std::int64_t>(prompt.size());
  if (room < 1) {
    throw std::invalid_argument(
        fmt::format("generate: the prompt has {} tokens, the model {} positions", prompt.size(),
                    model.info().max_positions));
  }
  if (!options.max_tokens_given) how.max_tokens = std::min(how.max_tokens, room);
  if (options.observe.ends_with(".json")) how.top_keys = kTopKeys;
  const bool json_wanted = options.common.json;
  const Generation got = model.generate(prompt, how, [&](std::string_view part) {
    if (!json_wanted) print(part);
  });
  if (!json_wanted) print("\n");
  if (!options.observe.empty()) write_observed(options, model, prompt, got, context);
  if (json_wanted) {
    print(json(GenerateReport{.model = options.model, .generation = got}));
    return;
  }
  std::string line = fmt::format("{} tokens of prompt in {}", got.prompt_tokens,
                                 duration_text(got.prompt_seconds * 1e3));
  // The first token belongs to the prompt's time.
  if (got.ids.size() > 1 && got.seconds > 0) {
    line += fmt::format(", then {:.1f} tokens/s",
                        static_cast<double>(got.ids.size() - 1) / got.seconds);
  }
  note(line);
}

}  // namespace attn::cli
