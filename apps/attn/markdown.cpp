#include "markdown.h"

#include <sstream>
#include <vector>

#include "terminal.h"

namespace attn::cli {

namespace {

std::size_t characters(const std::string& text) {
  std::size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  return count;
}

// Without marks: **bold** and `code` as their text, [text](address) with the address where it is
// one outside.
std::string plain(const std::string& line) {
  std::string out;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line.compare(i, 2, "**") == 0) {
      ++i;
      continue;
    }
    const std::size_t middle = line[i] == '[' ? line.find("](", i) : std::string::npos;
    const std::size_t end = middle == std::string::npos ? middle : line.find(')', middle);
    if (end != std::string::npos) {
      const std::string address = line.substr(middle + 2, end - middle - 2);
      out += line.substr(i + 1, middle - i - 1);
      if (address.rfind("http", 0) == 0) out += " (" + address + ")";
      i = end;
    } else {
      out += line[i];
    }
  }
  return out;
}

// Lines of at most `columns`, the first after `first`, the others after as many spaces.
std::string wrapped(const std::string& text, const std::string& first, std::size_t columns) {
  std::istringstream words(text);
  const std::string indent(first.size(), ' ');
  std::string out, line = first;
  bool empty = true;
  for (std::string word; words >> word; empty = false) {
    if (!empty && characters(line) + 1 + characters(word) > columns) {
      out += line + "\n";
      line = indent;
      empty = true;
    }
    line += (empty ? "" : " ") + word;
  }
  return out + line + "\n";
}

}  // namespace

std::string rendered(const std::string& markdown, std::size_t columns) {
  std::string out, paragraph, first;
  const auto flush = [&] {
    if (!paragraph.empty()) out += wrapped(plain(paragraph), first, columns);
    paragraph.clear();
    first.clear();
  };
  bool fenced = false;
  std::istringstream lines(markdown);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("```", 0) == 0) {
      flush();
      fenced = !fenced;
    } else if (fenced) {
      out += line.empty() ? "\n" : "    " + line + "\n";
    } else if (line.empty() || line[0] == '|' || line.rfind("    ", 0) == 0) {
      flush();
      out += plain(line) + "\n";
    } else if (line[0] == '#') {
      flush();
      out += bold(plain(line.substr(line.find_first_not_of("# ")))) + "\n";
    } else if (line.rfind("- ", 0) == 0) {
      flush();
      first = "- ";
      paragraph = line.substr(2);
    } else {
      paragraph += (paragraph.empty() ? "" : " ") + line;
    }
  }
  flush();
  return out;
}

}  // namespace attn::cli
