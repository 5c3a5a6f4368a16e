// Files that commands write beside what they print.
#pragma once

#include <string>

namespace attn::cli {

// Before minutes of work: throws attn::Error when `path` is a folder or lies in none. `what` names
// command and option: "bench: --output".
void check_output(const std::string& what, const std::string& path);
// Throws attn::Error when not all could be written.
void write_output(const std::string& what, const std::string& path, const std::string& text);

}  // namespace attn::cli
