#include "models.h"

#include <fmt/format.h>

#include "terminal.h"

namespace attn::cli {

Model load_model(const std::string& folder_or_name, bool offline, const Context& context) {
  std::string folder;
  {
    Progress progress;
    folder = resolve_model(
        folder_or_name,
        {.offline = offline, .progress = [&](const std::string& step) { progress.show(step); }});
  }
  return Model::load(folder, context);
}

std::string get_model(const std::string& name, bool offline) {
  Progress progress;
  return fetch_model(name, {.offline = offline,
                            .progress = [&](const std::string& step) { progress.show(step); }});
}

std::vector<std::string> token_texts(const std::vector<RecordToken>& tokens) {
  std::vector<std::string> texts;
  for (const RecordToken& token : tokens) texts.push_back(token.text);
  return texts;
}

void warn_if_truncated(const Encoding& encoding, const std::string& text, const Model& model,
                       std::int64_t max_length) {
  if (!encoding.truncated) return;
  const std::string limit = max_length > 0
                                ? fmt::format("--max-length {}", max_length)
                                : fmt::format("the model reads up to {}", model.info().max_length);
  warn(fmt::format("truncated to {} tokens ({}): {}", encoding.ids.size(), limit,
                   shortened(text, 40)));
}

}  // namespace attn::cli
