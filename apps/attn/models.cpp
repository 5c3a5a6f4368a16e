#include "models.h"

#include <fmt/format.h>

#include <filesystem>
#include <stdexcept>

#include "attn/translation_model.h"
#include "terminal.h"

namespace attn::cli {

std::string model_path(const std::string& path_or_name, bool offline) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(path_or_name, ignored)) return path_or_name;
  Progress progress;
  return resolve_model(path_or_name, {.offline = offline, .progress = [&](const std::string& step) {
                                        progress.show(step);
                                      }});
}

std::string reading_model_path(const char* command, const std::string& path_or_name, bool offline) {
  std::string path = model_path(path_or_name, offline);
  if (is_translation_model(path)) {
    throw std::invalid_argument(
        fmt::format("{}: '{}' is an encoder-decoder, which attn translate runs and attn look shows",
                    command, path_or_name));
  }
  return path;
}

Model load_model(const char* command, const std::string& folder_or_name, bool offline,
                 const Context& context) {
  return Model::load(reading_model_path(command, folder_or_name, offline), context);
}

std::string get_model(const std::string& name, bool offline) {
  Progress progress;
  return fetch_model(name, {.offline = offline,
                            .progress = [&](const std::string& step) { progress.show(step); }});
}

DType cache_type(const std::string& name) {
  return name == "int8" ? DType::i8 : name == "bfloat16" ? DType::bf16 : DType::f32;
}

std::vector<std::string> token_texts(const std::vector<RecordToken>& tokens) {
  std::vector<std::string> texts;
  for (const RecordToken& token : tokens) texts.push_back(token.text);
  return texts;
}

void warn_of_cut(std::size_t tokens, const std::string& text, std::int64_t limit,
                 std::int64_t max_length) {
  const std::string why = max_length > 0 ? fmt::format("--max-length {}", max_length)
                                         : fmt::format("the model reads up to {}", limit);
  warn(fmt::format("truncated to {} tokens ({}): {}", tokens, why, shortened(text, 40)));
}

void warn_of_stop(std::size_t tokens, const std::string& text) {
  warn(fmt::format("stopped at {} tokens: {}", tokens, shortened(text, 40)));
}

void warn_if_truncated(const Encoding& encoding, const std::string& text, const Model& model,
                       std::int64_t max_length) {
  if (!encoding.truncated) return;
  warn_of_cut(encoding.ids.size(), text, model.info().max_length, max_length);
}

}  // namespace attn::cli
