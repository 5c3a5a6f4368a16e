// attn look: the page that shows what every head of a model attends to.
#include <cstdio>

#include "arguments.h"
#include "attn/inspect.h"
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

}  // namespace

void look(const LookOptions& options) {
  const std::string text = the_text(options);
  const Context context = options.common.context();
  const Model model = load_model(options.model, options.offline, context);
  const Encoding encoding = model.encode(text, options.pair, options.max_length);
  warn_if_truncated(encoding, text, model, options.max_length);

  LookReport report{.model = options.model,
                    .page = {},
                    .tokens = token_texts(encoding.tokens),
                    .truncated = encoding.truncated,
                    .findings = {},
                    .heads = {}};
  {
    Progress progress;
    progress.show("Running the model");
    const AttentionRecord record = model.record(encoding);
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
