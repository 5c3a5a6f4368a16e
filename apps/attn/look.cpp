// attn look: the page that shows what every head of a model attends to.
#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "arguments.h"
#include "attn/inspect.h"
#include "attn/language_model.h"
#include "attn/model.h"
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
  const Encoding encoding = model.encode(text, options.pair, options.max_length);
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

AttentionRecord read(const LookOptions& options, const std::string& text, const Context& context,
                     Progress& progress) {
  const std::string path = reading_model_path("look", options.model, options.offline);
  progress.show("Running the model");
  if (is_language_model(path)) return read(options, LanguageModel::load(path, context), text);
  return read(options, Model::load(path, context), text);
}

}  // namespace

void look(const LookOptions& options) {
  const std::string text = the_text(options);
  const Context context = options.common.context();
  LookReport report{.model = options.model,
                    .page = {},
                    .tokens = {},
                    .truncated = false,
                    .findings = {},
                    .heads = {}};
  {
    Progress progress;
    const AttentionRecord record = read(options, text, context, progress);
    report.tokens = token_texts(record.tokens);
    report.truncated = record.truncated;
    progress.show("Reading its heads");
    report.heads = head_statistics(record, context);
    report.findings = findings(record, report.heads, options.findings.value_or(kFindings), context);
    progress.show("Writing the page");
    HeldSignals held;
    report.page = write_page(record, options.output, shortened(text, 60), context);
  }
  if (options.common.json) return print(json(report));

  std::string lines;
  for (const std::string& finding : report.findings) lines += finding + "\n";
  if (!options.findings) {
    std::fwrite(lines.data(), 1, lines.size(), stderr);
    lines.clear();
  }
  print(lines + report.page + "\n");
}

}  // namespace attn::cli
