#include "model/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

extern char** environ;

namespace attn {
namespace {

volatile std::sig_atomic_t noted_signal = 0;

void note_signal(int signal) { noted_signal = signal; }

constexpr std::array kPaused = {SIGINT, SIGTERM, SIGHUP};

std::vector<std::string> merged_environment(const std::vector<std::string>& changes) {
  std::vector<std::string> all = changes;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('=') + 1);
    bool replaced = false;
    for (const std::string& change : changes) replaced |= change.compare(0, name.size(), name) == 0;
    if (!replaced) all.push_back(text);
  }
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

// Reads until the other end closes, keeping the end of it. A noted signal is passed on once, to the
// whole group of the child: what it started must end too before its files can be cleared away.
std::string drain(int fd, pid_t child, std::size_t keep) {
  std::string output;
  bool told = false;
  std::array<char, 4096> buffer{};
  for (;;) {
    if (!told && SignalPause::noted() != 0) {
      kill(-child, SignalPause::noted());
      told = true;
    }
    pollfd waiting{fd, POLLIN, 0};
    const int ready = poll(&waiting, 1, 200);
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    const ssize_t n = read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return output;
    output.append(buffer.data(), static_cast<std::size_t>(n));
    if (output.size() > 2 * keep) output.erase(0, output.size() - keep);
  }
}

}  // namespace

SignalPause::SignalPause() {
  noted_signal = 0;
  for (const int signal : kPaused) {
    struct sigaction now {};
    if (sigaction(signal, nullptr, &now) != 0 || now.sa_handler != SIG_DFL) continue;
    struct sigaction pause {};
    pause.sa_handler = note_signal;
    sigemptyset(&pause.sa_mask);
    if (sigaction(signal, &pause, nullptr) == 0) before_.emplace_back(signal, now);
  }
}

SignalPause::~SignalPause() {
  for (const auto& [signal, action] : before_) sigaction(signal, &action, nullptr);
  if (noted_signal != 0) raise(noted_signal);
}

int SignalPause::noted() { return noted_signal; }

ProcessResult run_process(const std::vector<std::string>& arguments,
                          const std::vector<std::string>& environment, std::size_t keep_output) {
  ProcessResult result;
  int ends[2] = {-1, -1};
  if (pipe2(ends, O_CLOEXEC) != 0) {
    result.reason = std::strerror(errno);
    return result;
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);

  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);

  std::vector<std::string> argument_texts = arguments;
  std::vector<std::string> environment_texts = merged_environment(environment);
  const std::vector<char*> argv = pointers(argument_texts);
  const std::vector<char*> envp = pointers(environment_texts);
  pid_t child = 0;
  const int failed = posix_spawnp(&child, argv[0], &actions, &attributes, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(ends[1]);
  if (failed != 0) {
    close(ends[0]);
    result.reason = std::strerror(failed);
    return result;
  }
  result.started = true;
  result.output = drain(ends[0], child, keep_output);
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  result.exit_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

}  // namespace attn
