// Other programs, run without a shell.
#pragma once

#include <csignal>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace attn {

// While it lives, SIGINT, SIGTERM and SIGHUP are noted instead of ending the process, so that work
// half done can be cleared away; when it dies, a noted signal is raised again with its old meaning.
// A signal that the program handles or ignores itself is left alone.
class SignalPause {
 public:
  SignalPause();
  ~SignalPause();
  SignalPause(const SignalPause&) = delete;
  SignalPause& operator=(const SignalPause&) = delete;

  // The signal noted so far, or 0.
  static int noted();

 private:
  std::vector<std::pair<int, struct sigaction>> before_;
};

struct ProcessResult {
  bool started = false;
  std::string reason;   // why it did not start
  int exit_status = 0;  // 128 + signal when a signal ended it
  std::string output;   // the end of stdout and stderr together
};

// Runs arguments[0] (found on PATH) and waits. Its standard input is empty; `environment` entries
// "NAME=value" replace those of this process. A signal noted by a SignalPause is passed on to it.
ProcessResult run_process(const std::vector<std::string>& arguments,
                          const std::vector<std::string>& environment = {},
                          std::size_t keep_output = 4096);

}  // namespace attn
