#include "run_command.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

extern char** environ;

namespace attn::test {

namespace {

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> list;
  for (std::string& s : strings) list.push_back(s.data());
  list.push_back(nullptr);
  return list;
}

}  // namespace

std::string temporary(const std::string& name) {
  // Gone when the tests are done.
  struct Folder {
    std::string path =
        testing::TempDir() + "attn-apps-" + std::to_string(static_cast<long>(getpid()));
    int files = 0;
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static Folder folder;
  return folder.path + "/" + std::to_string(folder.files++) + "-" + name;
}

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

bool is_one_line(const std::string& err) {
  return err.rfind("attn: ", 0) == 0 && std::count(err.begin(), err.end(), '\n') == 1 &&
         err.back() == '\n';
}

Ran attn(const std::vector<std::string>& arguments, const How& how) {
  const std::string in = temporary("in"), out = temporary("out"), err = temporary("err");
  std::ofstream(in, std::ios::binary) << how.input;
  std::vector<std::string> words = {ATTN_CLI};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> environment = how.environment;
  environment.push_back("XDG_CACHE_HOME=" + testing::TempDir() + "attn-apps-cache");
  for (char** e = environ; *e != nullptr; ++e) {
    const std::string variable = *e;
    if (variable.rfind("XDG_CACHE_HOME=", 0) != 0) environment.push_back(variable);
  }

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, in.c_str(), O_RDONLY, 0);
  int ends[2] = {-1, -1};
  if (how.closed_pipe && pipe2(ends, O_CLOEXEC) == 0) {
    close(ends[0]);
    posix_spawn_file_actions_adddup2(&files, ends[1], 1);
  } else {
    const std::string target = how.output.empty() ? out : how.output;
    posix_spawn_file_actions_addopen(&files, 1, target.c_str(), O_WRONLY | O_CREAT, 0600);
  }
  posix_spawn_file_actions_addopen(&files, 2, err.c_str(), O_WRONLY | O_CREAT, 0600);
  pid_t child = 0;
  Ran ran;
  if (posix_spawn(&child, ATTN_CLI, &files, nullptr, pointers(words).data(),
                  pointers(environment).data()) == 0) {
    int status = 0;
    waitpid(child, &status, 0);
    ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  posix_spawn_file_actions_destroy(&files);
  if (ends[1] >= 0) close(ends[1]);
  if (how.output.empty()) ran.out = read(out);
  ran.err = read(err);
  for (const std::string& file : {in, out, err}) unlink(file.c_str());
  return ran;
}

}  // namespace attn::test
