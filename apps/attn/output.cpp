#include "output.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "attn/error.h"
#include "terminal.h"

namespace attn::cli {

void check_output(const std::string& what, const std::string& path) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::absolute(path).parent_path();
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) throw Error(what + " '" + path + "' is a folder");
  if (!fs::is_directory(folder, ignored)) {
    throw Error(what + " '" + path + "' lies in '" + folder.string() +
                "', which is no folder; make it first");
  }
}

void write_output(const std::string& what, const std::string& path, const std::string& text) {
  const HeldSignals held;
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) throw Error(what + ": cannot write '" + path + "': " + std::strerror(errno));
}

}  // namespace attn::cli
