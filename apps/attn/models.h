// What the commands that take a MODEL share.
#pragma once

#include <string>
#include <vector>

#include "attn/model.h"
#include "attn/tensor.h"

namespace attn::cli {

// A known model or a folder as it is; downloads show progress. (The library itself sees to it that
// Ctrl-C leaves no half of a model.)
Model load_model(const char* command, const std::string& folder_or_name, bool offline,
                 const Context& context);
std::string get_model(const std::string& name, bool offline);
// Where a MODEL lies: a file or folder as it is, or a known model's folder.
std::string model_path(const std::string& path_or_name, bool offline);
// The same for `command`, which takes no encoder-decoder: std::invalid_argument for one.
std::string reading_model_path(const char* command, const std::string& path_or_name, bool offline);

// "float32", "bfloat16" or "int8", of a key/value cache.
DType cache_type(const std::string& name);

std::vector<std::string> token_texts(const std::vector<RecordToken>& tokens);
// A text that is cut to `tokens`, by --max-length or else by the model's own limit.
void warn_of_cut(std::size_t tokens, const std::string& text, std::int64_t limit,
                 std::int64_t max_length);
// A translation that stopped at `tokens`, without an end.
void warn_of_stop(std::size_t tokens, const std::string& text);
// max_length: what was asked for (0: nothing).
void warn_if_truncated(const Encoding& encoding, const std::string& text, const Model& model,
                       std::int64_t max_length = 0);

}  // namespace attn::cli
