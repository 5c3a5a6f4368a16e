// attn look, on the built-in demo model and the small encoder-decoder of the assets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "model_folders.h"
#include "run_command.h"

namespace attn::test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

TEST(Look, ShowsATranslationInThreeTabs) {
  const std::string model = translator_folder();
  if (model.empty()) GTEST_SKIP() << "no " ATTN_ASSETS "/aren";
  const std::string text = "آ ت ز م و ن", page = temporary("translation.html");
  const Ran plain = attn({"look", model, text, "-o", page});
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(plain.out, page + "\n");
  EXPECT_THAT(plain.err, StartsWith("target: a t z m o n\nencoder: Head "));
  EXPECT_THAT(plain.err, HasSubstr("\ndecoder: Head "));
  EXPECT_THAT(plain.err, HasSubstr("\ncross: Head "));
  const std::string html = read(page);
  for (const char* const tab : {"Encoder", "Decoder", "Cross"})
    EXPECT_THAT(html, HasSubstr("\"name\":\"" + std::string(tab) + "\""));
  EXPECT_THAT(html, HasSubstr("<title>" + text + " \u2192 a t z m o n</title>"));

  const auto looked = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"look", model, text, "-o", page, "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Ran ran = attn(arguments);
    EXPECT_EQ(ran.code, 0) << ran.err;
    return nlohmann::json::parse(ran.out);
  };
  const auto report = looked({});
  EXPECT_EQ(report.at("page"), page);
  EXPECT_EQ(report.at("target"), "a t z m o n");
  EXPECT_FALSE(report.contains("heads"));
  for (const char* const part : {"encoder", "decoder", "cross"}) {
    EXPECT_EQ(report.at(part).at("heads").size(), 48U) << part;
    EXPECT_EQ(report.at(part).at("findings").size(), 3U) << part;
  }
  const auto& cross = report.at("cross");
  EXPECT_EQ(cross.at("tokens").size(), 7U);
  EXPECT_EQ(cross.at("keys"), report.at("encoder").at("tokens"));
  EXPECT_FALSE(report.at("decoder").contains("keys"));
  for (const char* const name : {"previous", "next", "self", "distance"}) {
    EXPECT_FALSE(cross.at("heads").at(0).contains(name)) << name;
    EXPECT_TRUE(report.at("decoder").at("heads").at(0).at(name).is_number()) << name;
  }
  EXPECT_TRUE(cross.at("heads").at(0).at("entropy").is_number());

  // A given translation, and some layers.
  const auto given = looked({"--target", "a t s", "--layers", "5,0", "--findings", "1"});
  EXPECT_EQ(given.at("target"), "a t s");
  EXPECT_EQ(given.at("cross").at("tokens").size(), 4U);
  ASSERT_EQ(given.at("cross").at("heads").size(), 16U);
  EXPECT_EQ(given.at("cross").at("heads").at(8).at("layer"), 5);
  EXPECT_EQ(given.at("encoder").at("findings").size(), 1U);

  const auto refused = [](const std::vector<std::string>& arguments) {
    const Ran ran = attn(arguments);
    EXPECT_EQ(ran.code, 2) << ran.err;
    EXPECT_EQ(ran.out, "");
    EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
    return ran.err;
  };
  EXPECT_THAT(refused({"look", model, text, "--layers", "6"}), HasSubstr("layer 6 is not in"));
  EXPECT_THAT(refused({"look", model, text, "--pair", "x"}), HasSubstr("is an encoder-decoder"));
  EXPECT_THAT(refused({"look", model, text, "--max-length", "3"}),
              HasSubstr("--max-length would cut the end of a source off"));
  EXPECT_THAT(refused({"look", "demo", text, "--target", "x"}),
              HasSubstr("--target needs an encoder-decoder, which 'demo' is not"));
}

TEST(Look, WritesThePageAndPrintsItsPathAlone) {
  const std::string page = temporary("page.html");
  const Ran ran = attn({"look", "demo", "the cat sat on the mat", "-o", page});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, std::filesystem::canonical(page).string() + "\n");
  EXPECT_THAT(read(page), StartsWith("<!"));
  EXPECT_THAT(ran.err, HasSubstr("ead "));  // findings name heads
}

// The demo is a BERT, whose tensors a BigBird has too.
TEST(Look, ShowsABigBird) {
  const std::string folder = temporary("bigbird");
  std::filesystem::copy(demo_folder(), folder, std::filesystem::copy_options::recursive);
  auto config = nlohmann::json::parse(read(folder + "/config.json"));
  config["model_type"] = "big_bird";
  config["architectures"] = {"BigBirdModel"};
  config["block_size"] = 2;
  config["num_random_blocks"] = 1;
  std::ofstream(folder + "/config.json") << config;
  std::string text;
  for (int i = 0; i < 10; ++i) text += "the cat sat on the mat ";
  const Ran ran = attn({"look", folder, text, "-o", temporary("page.html"), "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto demo = nlohmann::json::parse(
      attn({"look", "demo", text, "-o", temporary("page.html"), "--json"}).out);
  const auto report = nlohmann::json::parse(ran.out);
  ASSERT_EQ(report.at("heads").size(), demo.at("heads").size());
  EXPECT_LT(report.at("heads")[0].at("entropy"), demo.at("heads")[0].at("entropy"));

  const Ran wrong = attn({"look", folder, text, "--global-tokens", "0"});
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("the model has no global tokens"));
}

TEST(Look, FindingsGoToOutputWhenAsked) {
  const std::string page = temporary("page.html");
  const Ran ran = attn({"look", "demo", "the cat sat on the mat", "-o", page, "--findings", "2"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  std::istringstream lines(ran.out);
  std::vector<std::string> all;
  for (std::string line; std::getline(lines, line);) all.push_back(line);
  ASSERT_EQ(all.size(), 3u) << ran.out;
  EXPECT_EQ(all.back(), std::filesystem::canonical(page).string());
  EXPECT_EQ(ran.err, "");
}

TEST(Look, JsonHasEveryHead) {
  const Ran ran = attn({"look", "demo", "the cat", "--pair", "the dog", "--max-length", "6", "-o",
                        temporary("page.html"), "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto report = nlohmann::json::parse(ran.out);
  EXPECT_TRUE(std::filesystem::exists(report.at("page").get<std::string>()));
  EXPECT_LE(report.at("tokens").size(), 6u);
  EXPECT_GT(report.at("heads").size(), 0u);
  for (const auto& head : report.at("heads")) {
    EXPECT_GE(head.at("relative_entropy"), 0.0);
    EXPECT_LE(head.at("relative_entropy"), 1.0 + 1e-9);
  }
}

// A page that cannot be written whole leaves what was there before, and nothing beside it.
TEST(Look, AFailureKeepsTheOldPage) {
  demo_folder();  // into the cache, before files may not grow
  const std::string folder = temporary("folder");
  std::filesystem::create_directory(folder);
  const std::string page = folder + "/page.html";
  std::ofstream(page) << "old";
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 4096;
  std::signal(SIGXFSZ, SIG_IGN);  // so that the write fails instead
  setrlimit(RLIMIT_FSIZE, &small);
  const Ran ran = attn({"look", "demo", "the cat sat on the mat", "-o", page});
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_DFL);
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "");
  EXPECT_EQ(read(page), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

}  // namespace
}  // namespace attn::test
