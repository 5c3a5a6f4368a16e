// The little Markdown of docs/mechanisms, for a terminal.
#pragma once

#include <cstddef>
#include <string>

namespace attn::cli {

// Headings bold, paragraphs and items wrapped to `columns`, fenced blocks indented, tables as they
// are.
std::string rendered(const std::string& markdown, std::size_t columns);

}  // namespace attn::cli
