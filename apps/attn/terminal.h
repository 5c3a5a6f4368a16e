// Standard streams and signals, as a command should treat them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace attn::cli {

// All of `text` to standard output, or attn::Error (closed pipe, full disk).
void print(std::string_view text);
// "attn: warning: ..." on standard error.
void warn(const std::string& what);

// A line for people on standard error.
void note(const std::string& what);

// One line of `text` for people: control characters become spaces, more than `columns` characters
// end in an ellipsis.
std::string shortened(const std::string& text, std::size_t columns);
// Bold on a terminal, unless NO_COLOR is set.
std::string bold(const std::string& text);
// Of the terminal: COLUMNS, or as it says, or 80.
std::size_t terminal_columns();
// "90.9 MB", "17.2 GB": decimal units.
std::string bytes_text(double bytes);
// "85.3 µs", "12.1 ms", "1.58 s", "2.6 min".
std::string duration_text(double ms);

// The file's content; "-" is standard input. Throws attn::Error.
std::string read_text(const std::string& file);
// Nothing but spaces and tabs.
bool is_blank(const std::string& line);
// One text a line, without blank lines.
std::vector<std::string> split_lines(const std::string& text);
// With them, so that line n of one file belongs to line n of another.
std::vector<std::string> all_lines(const std::string& text);

// A line of progress on standard error, replaced by the next and cleared at the end; only on a
// terminal.
class Progress {
 public:
  Progress();
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void show(const std::string& what);
  void clear();  // before something else is printed

 private:
  bool terminal_;
};

// "[##########..........]" of a share in [0, 1].
std::string bar(double share);

// Progress with a bar, and how long the rest will take.
class ProgressBar {
 public:
  // "scoring", counted in "tokens".
  ProgressBar(std::string what, std::string units);
  void operator()(std::int64_t done, std::int64_t all);
  void clear() { progress_.clear(); }

 private:
  std::string what_, units_;
  std::int64_t percent_ = -1;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  Progress progress_;
};

// While one lives, Ctrl-C and SIGTERM wait, so that a file being written is finished first. At its
// end the process dies of the signal.
class HeldSignals {
 public:
  HeldSignals();
  ~HeldSignals();
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;
};

// Call at the start of main: a closed pipe becomes an error of the write.
void prepare_signals();

}  // namespace attn::cli
