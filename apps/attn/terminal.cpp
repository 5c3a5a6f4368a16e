#include "terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <utility>

#include "attn/error.h"

namespace attn::cli {

namespace {

volatile std::sig_atomic_t held_signal = 0;
constexpr int kHeld[] = {SIGINT, SIGTERM};
struct sigaction previous_action[2];

void remember(int signal) { held_signal = signal; }

}  // namespace

void print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      throw Error(std::string("cannot write to standard output: ") + std::strerror(errno));
    }
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

void warn(const std::string& what) {
  const std::string line = "attn: warning: " + what + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

void note(const std::string& what) {
  const std::string line = what + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

std::string shortened(const std::string& text, std::size_t columns) {
  std::string line;
  std::size_t characters = 0;
  std::size_t cut = 0;  // bytes of the first columns - 1 characters
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0) != 0x80) {  // first byte of a character
      if (characters + 1 == columns) cut = line.size();
      if (++characters > columns) return line.substr(0, cut) + "…";
    }
    line += byte < 0x20 || byte == 0x7F ? ' ' : c;
  }
  return line;
}

std::string bold(const std::string& text) {
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  const bool plain = (no_color != nullptr && *no_color != '\0') || terminal == nullptr ||
                     std::strcmp(terminal, "dumb") == 0 || isatty(STDOUT_FILENO) == 0;
  return plain ? text : "\033[1m" + text + "\033[0m";
}

std::size_t terminal_columns() {
  constexpr std::size_t kDefault = 80, kFewest = 20;
  const char* given = std::getenv("COLUMNS");
  const long columns = given != nullptr ? std::strtol(given, nullptr, 10) : 0;
  if (columns > 0) return std::max(kFewest, static_cast<std::size_t>(columns));
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kDefault;
  return std::max<std::size_t>(kFewest, size.ws_col);
}

std::string bytes_text(double bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  std::size_t unit = 0;
  while (bytes >= 999.5 && unit + 1 < std::size(kUnits)) {
    bytes /= 1000;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f} B", bytes);
  return fmt::format("{:.3g} {}", bytes, kUnits[unit]);
}

std::string duration_text(double ms) {
  if (ms < 1) return fmt::format("{:.3g} µs", ms * 1e3);
  if (ms < 999.5) return fmt::format("{:.3g} ms", ms);
  if (ms < 99.95e3) return fmt::format("{:.3g} s", ms * 1e-3);
  return fmt::format("{:.1f} min", ms / 60e3);
}

std::string read_text(const std::string& file) {
  std::ostringstream text;
  if (file == "-") {
    if (isatty(STDIN_FILENO) != 0) {
      std::fputs("attn: reading standard input; end with Ctrl-D\n", stderr);
    }
    std::cin >> std::noskipws;
    std::string all{std::istreambuf_iterator<char>(std::cin), {}};
    if (std::cin.bad()) throw Error("cannot read standard input");
    return all;
  }
  errno = 0;
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error("cannot read '" + file + "': " + std::strerror(errno));
  if (in.peek() == std::ifstream::traits_type::eof() && !in.eof()) {
    throw Error("cannot read '" + file + "': " + std::strerror(errno != 0 ? errno : EIO));
  }
  std::string all{std::istreambuf_iterator<char>(in), {}};
  if (in.bad()) throw Error("cannot read '" + file + "': " + std::strerror(errno));
  return all;
}

bool is_blank(const std::string& line) {
  return line.find_first_not_of(" \t") == std::string::npos;
}

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines = all_lines(text);
  std::erase_if(lines, is_blank);
  return lines;
}

std::vector<std::string> all_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(line);
  }
  return lines;
}

Progress::Progress() : terminal_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() { clear(); }

void Progress::clear() {
  if (terminal_) std::fputs("\r\033[K", stderr);
}

void Progress::show(const std::string& what) {
  if (terminal_) fmt::print(stderr, "\r\033[K{}", shortened(what, 78));
}

std::string bar(double share) {
  constexpr std::size_t kCells = 20;
  const auto full = static_cast<std::size_t>(kCells * share);
  return "[" + std::string(full, '#') + std::string(kCells - full, '.') + "]";
}

ProgressBar::ProgressBar(std::string what, std::string units)
    : what_(std::move(what)), units_(std::move(units)) {}

void ProgressBar::operator()(std::int64_t done, std::int64_t all) {
  const std::int64_t percent = 100 * done / all;
  if (percent == percent_) return;
  percent_ = percent;
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start_;
  const double each = spent.count() / static_cast<double>(done);
  progress_.show(fmt::format("{} {} {:>3} % of {} {}, {} left", what_,
                             bar(static_cast<double>(percent) / 100), percent, all, units_,
                             duration_text(each * static_cast<double>(all - done))));
}

HeldSignals::HeldSignals() {
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (int i = 0; i < 2; ++i) sigaction(kHeld[i], &action, &previous_action[i]);
}

HeldSignals::~HeldSignals() {
  for (int i = 0; i < 2; ++i) sigaction(kHeld[i], &previous_action[i], nullptr);
  if (held_signal != 0) std::raise(held_signal);
}

void prepare_signals() { std::signal(SIGPIPE, SIG_IGN); }

}  // namespace attn::cli
