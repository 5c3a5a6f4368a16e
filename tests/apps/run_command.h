// Runs the attn command as a user would, and keeps what it said.
#pragma once

#include <string>
#include <vector>

namespace attn::test {

struct Ran {
  int code = -1;  // 128 + signal when it died of one
  std::string out;
  std::string err;
};

struct How {
  std::string input = {};                     // standard input
  std::string output = {};                    // a file instead of the captured output: "/dev/full"
  bool closed_pipe = false;                   // standard output is a pipe that nobody reads
  std::vector<std::string> environment = {};  // "NAME=value", besides the test's own
};

// Models are kept in a cache of the tests' own, not in the user's.
Ran attn(const std::vector<std::string>& arguments, const How& how = {});

// A fresh path in the tests' temporary folder.
std::string temporary(const std::string& name);
std::string read(const std::string& path);

// "attn: ..." and nothing else: what every failure prints.
bool is_one_line(const std::string& err);

}  // namespace attn::test
