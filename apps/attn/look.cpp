// attn look: the page that shows what every head of a model attends to.
#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "arguments.h"
#include "attn/inspect.h"
#include "attn/language_model.h"
#include "attn/model.h"
#include "attn/translation_model.h"
#include "json.h"
#include "models.h"
#include "terminal.h"

namespace attn::cli {

namespace {

constexpr std::size_t kFindings = 3;

// A text file is one text: its line breaks are spaces to a tokenizer.
std::string the_text(const LookOptions& options) {
  if (options.text) return *options.text;
  const std::string from = options.file.empty() ? "-" : options.file;
  std::string text = read_text(from);
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) {
    throw std::invalid_argument(
        "look: " + (from == "-" ? std::string("standard input") : "'" + from + "'") +
        " has no text; give TEXT, -f FILE or standard input");
  }
  return text;
}

// What an encoder reads in a text or a pair.
AttentionRecord read(const LookOptions& options, const Model& model, const std::string& text) {
  Encoding encoding = model.encode(text, options.pair, options.max_length);
  encoding.global_tokens = options.global_tokens;
  warn_if_truncated(encoding, text, model, options.max_length);
  return model.record(encoding, options.layers);
}

// What a language model reads in a text.
AttentionRecord read(const LookOptions& options, const LanguageModel& model,
                     const std::string& text) {
  if (options.pair) {
    throw std::invalid_argument("look: --pair needs an encoder, and '" + options.model +
                                "' is a language model");
  }
  if (options.global_tokens) {
    throw std::invalid_argument("look: --global-tokens needs an encoder, and '" + options.model +
                                "' is a language model");
  }
  std::vector<std::int32_t> ids = model.encode(text);
  const std::int64_t positions = model.info().max_positions,
                     limit = options.max_length > 0 ? std::min(options.max_length, positions)
                                                    : positions;
  const bool truncated = static_cast<std::int64_t>(ids.size()) > limit;
  if (truncated) {
    ids.resize(static_cast<std::size_t>(limit));
    warn_of_cut(ids.size(), text, positions, limit < positions ? limit : 0);
  }
  AttentionRecord record = model.record(ids, options.layers);
  record.truncated = truncated;
  return record;
}

// What an encoder-decoder reads while it makes a text of another, or scores a given one.
TranslationRecord read(const LookOptions& options, const TranslationModel& model,
                       const std::string& text, LookReport& report) {
  const auto refuse = [&](const char* option, const char* why) {
    throw std::invalid_argument("look: " + std::string(option) + why + ", and '" + options.model +
                                "' is an encoder-decoder");
  };
  if (options.pair) refuse("--pair", " needs an encoder");
  if (options.max_length > 0) refuse("--max-length", " would cut the end of a source off");
  const std::vector<std::int32_t> source = model.encode(text);
  std::vector<std::int32_t> target;
  if (options.target) {
    target = model.encode_target(*options.target);
    report.target = *options.target;
  } else {
    Translation got = model.translate(source);
    if (!got.ended) warn_of_stop(got.ids.size(), text);
    target = std::move(got.ids);
    report.target = std::move(got.text);
  }
  return model.record(source, target, options.layers, !options.target);
}

LookPart part_of(const AttentionRecord& record, const std::string& name, std::size_t count,
                 const Context& context) {
  LookPart part{.name = name,
                .tokens = token_texts(record.tokens),
                .keys = token_texts(record.keys),
                .findings = {},
                .heads = head_statistics(record, context)};
  part.findings = findings(record, part.heads, count, context);
  return part;
}
std::vector<LookPart> parts_of(const AttentionRecord& record, std::size_t count,
                               const Context& context) {
  return {part_of(record, "", count, context)};
}
std::vector<LookPart> parts_of(const TranslationRecord& record, std::size_t count,
                               const Context& context) {
  return {part_of(record.encoder, "encoder", count, context),
          part_of(record.decoder, "decoder", count, context),
          part_of(record.cross, "cross", count, context)};
}

// What the heads do, a line each.
std::string finding_lines(const LookReport& report) {
  std::string lines;
  for (const LookPart& part : report.parts) {
    for (const std::string& finding : part.findings)
      lines += (part.name.empty() ? "" : part.name + ": ") + finding + "\n";
  }
  return lines;
}

}  // namespace

void look(const LookOptions& options) {
  const std::string text = the_text(options);
  const Context context = options.common.context();
  LookReport report{
      .model = options.model, .page = {}, .target = {}, .truncated = false, .parts = {}};
  {
    const std::string path = model_path(options.model, options.offline);
    Progress progress;
    const auto show = [&](const auto& record, const std::string& title) {
      progress.show("Reading its heads");
      report.parts = parts_of(record, options.findings.value_or(kFindings), context);
      progress.show("Writing the page");
      HeldSignals held;
      report.page = write_page(record, options.output, title, context);
    };
    progress.show("Running the model");
    if (is_translation_model(path)) {
      const TranslationModel model = TranslationModel::load(path, context);
      const TranslationRecord record = read(options, model, text, report);
      show(record, shortened(text, 40) + " \u2192 " + shortened(*report.target, 40));
    } else {
      if (options.target) {
        throw std::invalid_argument("look: --target needs an encoder-decoder, which '" +
                                    options.model + "' is not");
      }
      const AttentionRecord record = is_language_model(path)
                                         ? read(options, LanguageModel::load(path, context), text)
                                         : read(options, Model::load(path, context), text);
      report.truncated = record.truncated;
      show(record, shortened(text, 60));
    }
  }
  if (options.common.json) return print(json(report));

  std::string lines = finding_lines(report);
  if (report.target && !options.target) lines = "target: " + *report.target + "\n" + lines;
  if (!options.findings) {
    std::fwrite(lines.data(), 1, lines.size(), stderr);
    lines.clear();
  }
  print(lines + report.page + "\n");
}

}  // namespace attn::cli
