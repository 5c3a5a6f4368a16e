// attn translate: an encoder-decoder translates texts.
#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "arguments.h"
#include "attn/translation_model.h"
#include "json.h"
#include "models.h"
#include "terminal.h"

namespace attn::cli {

namespace {

// Every line is a text, so that line n of the output belongs to line n of the input.
std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    if (lines.back().ends_with('\r')) lines.back().pop_back();
    begin = end + 1;
  }
  return lines;
}

}  // namespace

void translate(const TranslateOptions& options) {
  const std::vector<std::string> texts =
      options.text ? std::vector{*options.text}
                   : lines_of(read_text(options.file.empty() ? "-" : options.file));
  if (texts.empty()) throw std::invalid_argument("translate: there is no text");
  const std::string path = model_path(options.model, options.offline);
  if (!is_translation_model(path)) {
    throw std::invalid_argument("translate: '" + options.model +
                                "' is no encoder-decoder; attn generate continues texts");
  }
  const TranslationModel model = TranslationModel::load(path, options.common.context());
  TranslateReport report{.model = options.model, .translations = {}};
  Progress progress;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const bool empty =
        std::all_of(texts[i].begin(), texts[i].end(), [](char c) { return c == ' ' || c == '\t'; });
    if (texts.size() > 1 && options.common.json)
      progress.show(fmt::format("Translating {} of {}", i + 1, texts.size()));
    Translation got;
    if (!empty) got = model.translate(texts[i], options.how);
    if (!empty && !got.ended) warn_of_stop(got.ids.size(), texts[i]);
    if (!options.common.json) print(got.text + "\n");
    report.translations.push_back({texts[i], std::move(got)});
  }
  if (options.common.json) print(json(report));
}

}  // namespace attn::cli
