// attn translate: an encoder-decoder translates texts.
#include <fmt/format.h>

#include <stdexcept>

#include "arguments.h"
#include "attn/translation_model.h"
#include "json.h"
#include "models.h"
#include "terminal.h"

namespace attn::cli {

void translate(const TranslateOptions& options) {
  const std::vector<std::string> texts =
      options.text ? std::vector{*options.text}
                   : all_lines(read_text(options.file.empty() ? "-" : options.file));
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
    const bool empty = is_blank(texts[i]);
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
